"""Upkeep of a store: what is intact, what is still in use, and what may be removed."""
