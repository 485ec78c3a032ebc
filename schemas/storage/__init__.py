"""Storage: tables as Parquet shards, the files beside them, each whole or absent, and which of them are published."""

DEFAULT_STORE = "segue-store"
"""The store that is used where none is named."""
