"""Conditions of the music model (MusicGen, arXiv:2306.05284, 2.3 and 2.4): their knobs, and how they are embedded."""
