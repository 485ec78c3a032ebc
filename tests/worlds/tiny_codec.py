"""A small EnCodec of random weights, in the files that transformers reads."""

from pathlib import Path
from typing import Any

import torch
from transformers import EncodecConfig, EncodecModel

SAMPLE_RATE, HOP, CODEBOOKS, CARDINALITY = 8_000, 320, 2, 16
FRAME_RATE = SAMPLE_RATE / HOP


def codec_configuration(levels: int, cardinality: int, channels: int = 1) -> EncodecConfig:
    """Configuration of an EnCodec of 25 frames a second."""
    bits = (cardinality - 1).bit_length()
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        audio_channels=channels,
        upsampling_ratios=[8, 5, 4, 2],
        num_filters=2,
        hidden_size=8,
        num_lstm_layers=1,
        codebook_size=cardinality,
        codebook_dim=8,
        target_bandwidths=[levels * bits * FRAME_RATE / 1000],
        normalize=False,
        use_causal_conv=False,
    )


def codec_folder(folder: Path, loudness: float = 1.0, cardinality: int = CARDINALITY) -> Path:
    """Write a codec whose last convolution is scaled by `loudness`; it decodes codes to noise that depends only on
    them."""
    torch.manual_seed(11)
    network: Any = EncodecModel(codec_configuration(CODEBOOKS, cardinality))
    with torch.no_grad():
        for layer in network.quantizer.layers:
            layer.codebook.embed.normal_()
        for name, value in network.decoder.named_parameters():
            if "bias" in name:
                value.zero_()  # otherwise most of the sound is an inaudible constant, which MP3 leaves out
        network.decoder.layers[-1].conv.parametrizations.weight.original0.mul_(loudness)
    network.save_pretrained(folder)
    return folder
