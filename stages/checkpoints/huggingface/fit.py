"""Whether the parts of a MusicGen in Hugging Face's form fit together: decoder, codec, projections and positions."""

from typing import Any

import torch
from torch import Tensor
from transformers import EncodecModel, MusicgenMelodyConfig

from model.chroma import PITCH_CLASSES
from model.codec.codec import codebook_identity
from model.lm.positions import position_table
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.huggingface.configuration import HuggingFaceConfig
from stages.checkpoints.huggingface.names import MELODY_PROJECTION, POSITION_TABLE, TEXT_PROJECTION

PERIOD = 10_000.0
"""Longest period of transformers' sinusoids, steps / 2π."""


def check_fit(where: object, decoder: Any, codec: EncodecModel) -> None:
    """Raise ValueError unless a decoder's codes are the codec's."""
    config: Any = codec.config
    levels, rest = divmod(decoder.num_codebooks, decoder.audio_channels)
    if rest:
        raise ValueError(f"expected an even num_codebooks of a stereo decoder in {where}, got {decoder.num_codebooks}")
    if levels > config.num_quantizers:
        raise ValueError(
            f"expected a codec of at least {levels} codebooks, as the decoder in {where} speaks, "
            f"got {config.num_quantizers}"
        )
    if decoder.vocab_size != config.codebook_size:
        raise ValueError(
            f"expected a codec of cardinality {decoder.vocab_size}, as the decoder in {where} speaks, "
            f"got {config.codebook_size}"
        )
    if decoder.audio_channels == 2 and config.audio_channels != 1:
        raise ValueError(
            f"expected a mono codec for left and right each, as the decoder in {where} speaks, "
            f"got one of {config.audio_channels} channels"
        )


def check_positions(table: Tensor | None, config: HuggingFaceConfig) -> None:
    """Raise ValueError if sinusoids that lie among the weights are not those that the model computes."""
    if table is None:
        return
    decoder: Any = config.decoder
    wanted = position_table(len(table), decoder.hidden_size, PERIOD, table.device)
    # Far positions differ in the last bits of their phase, as frequencies are rounded on another way there.
    if table.shape != wanted.shape or not torch.allclose(table, wanted, rtol=0, atol=1e-3):
        raise ValueError(f"expected {POSITION_TABLE} to be sinusoids of period {PERIOD:.0f}, got another table")


def _absent_projections(config: HuggingFaceConfig) -> dict[str, int]:
    """The projections that there are none of, by name: from as wide a thing as the decoder is. With their width."""
    decoder: Any = config.decoder
    text: Any = config.text_encoder
    inputs = {TEXT_PROJECTION: text.d_model}
    if isinstance(config, MusicgenMelodyConfig):
        inputs[MELODY_PROJECTION] = PITCH_CLASSES
    return {name: width for name, width in inputs.items() if width == decoder.hidden_size}


def add_identities(tensors: dict[str, Tensor], config: HuggingFaceConfig) -> None:
    """Put in the projections that are not there because they would change nothing."""
    for name, width in _absent_projections(config).items():
        if f"{name}.weight" in tensors:
            raise ValueError(f"expected no {name} between things of one width, {width}, got one")
        tensors |= {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}


def remove_identities(tensors: dict[str, Tensor], config: HuggingFaceConfig) -> None:
    """Take out the projections that have no place, or raise ValueError where they change something."""
    for name, width in _absent_projections(config).items():
        weight, bias = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias")
        if not torch.equal(weight, torch.eye(width)) or bias.any():
            raise ValueError(
                f"expected a condition of another width than the decoder's {width}, or one that is not projected, as "
                f"Hugging Face's MusicGen has no {name} between equal widths, got a projection"
            )


def check_codec(facts: CheckpointFacts, config: HuggingFaceConfig, codec: EncodecModel) -> None:
    """Raise ValueError unless the codec is the one whose codes the model speaks, in the form that is written."""
    decoder: Any = config.decoder
    sound: Any = codec.config
    check_fit("the model", decoder, codec)
    identity = codebook_identity(codec, decoder.num_codebooks // decoder.audio_channels)
    if facts.codec is not None and facts.codec.identity != identity:
        raise ValueError(f"expected the codec with identity {facts.codec.identity}, got one with {identity}")
    if facts.frame_rate != sound.sampling_rate / sound.hop_length:
        raise ValueError(
            f"expected a codec of {facts.frame_rate} frames a second, got {sound.sampling_rate / sound.hop_length}"
        )
    with torch.device("meta"):
        wanted = set(EncodecModel(sound).state_dict())
    if wanted != set(codec.state_dict()):
        raise ValueError("expected a codec as transformers loads it, got one whose weight norm is folded in")
