"""An EnCodec (arXiv:2210.13438) trained from nothing, and used: quantizer, losses, training, codec, in this order."""
