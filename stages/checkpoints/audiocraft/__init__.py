"""AudioCraft's checkpoints, read and written (AudioCraft 1.3.0)."""
