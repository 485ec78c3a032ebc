"""Queries: SQL over the store, its views, conditions and checks."""
