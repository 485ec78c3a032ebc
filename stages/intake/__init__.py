"""Taking recordings in: what lies at a source, what is in each file, and which shard it belongs to."""
