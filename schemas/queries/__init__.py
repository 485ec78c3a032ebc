"""Queries: SQL over the store, views, conditions, checks, and what follows from them."""
