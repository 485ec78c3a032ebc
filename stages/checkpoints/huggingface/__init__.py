"""Hugging Face's MusicGen and MusicGen-melody checkpoints, read and written (transformers 5.23)."""
