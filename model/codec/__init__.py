"""Codecs: an EnCodec (arXiv:2210.13438) trained from nothing, from network, quantizer and losses to training; EnCodec,
DAC and Mimi made ready for a CPU and used, from coder to codec and stereo."""
