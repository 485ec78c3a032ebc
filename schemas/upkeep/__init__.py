"""Upkeep: what of a store is whole, what is still reached, what may go."""
