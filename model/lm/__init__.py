"""The language model of MusicGen (arXiv:2306.05284): patterns, positions, the decoder, the logits of K codebooks."""
