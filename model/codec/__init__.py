"""Codecs: an EnCodec (arXiv:2210.13438) trained from nothing, from network, quantiser and losses to training; and
EnCodec, DAC and Mimi in use, from coder to codec and stereo."""
