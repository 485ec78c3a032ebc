"""What exists only so that a CPU is fast: each computes what its plain form does, and is tested against it."""
