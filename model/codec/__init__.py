"""An EnCodec (arXiv:2210.13438) trained from nothing, and used: network, quantizer, losses, discriminators, adversary,
balancer, training, codec, in this order."""
