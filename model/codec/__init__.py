"""Codecs: training an EnCodec (arXiv:2210.13438) from scratch, and using EnCodec, DAC and Mimi.

Training is in `network`, `quantizer`, `losses`, `adversarial` and `training`; use is in `coders`, `codec` and `stereo`.
"""
