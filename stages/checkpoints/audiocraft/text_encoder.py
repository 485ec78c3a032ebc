"""The text encoders of AudioCraft's models: T5s that it has by name (`T5Conditioner` in
`audiocraft/modules/conditioners.py`, version 1.3.0; T5, arXiv:1910.10683, and Flan-T5, arXiv:2210.11416).

A T5 that did not learn is not in a checkpoint: AudioCraft gets it by its name. One that learned is, and only its
architecture is had by the name.
"""

from dataclasses import dataclass

from transformers import T5Config

from stages.checkpoints.native import TrainedModel


@dataclass(frozen=True)
class T5Size:
    """A published T5 encoder."""

    hub: str
    """Where it lies."""
    width: int
    layers: int
    heads: int
    head_width: int
    feedforward: int
    gated: bool
    """Whether the feed-forward layers are gated GELUs, as in Flan-T5, or ReLUs."""


SIZES = {
    "t5-small": T5Size("google-t5/t5-small", 512, 6, 8, 64, 2_048, False),
    "t5-base": T5Size("google-t5/t5-base", 768, 12, 12, 64, 3_072, False),
    "t5-large": T5Size("google-t5/t5-large", 1_024, 24, 16, 64, 4_096, False),
    "t5-3b": T5Size("google-t5/t5-3b", 1_024, 24, 32, 128, 16_384, False),
    "t5-11b": T5Size("google-t5/t5-11b", 1_024, 24, 128, 128, 65_536, False),
    "google/flan-t5-small": T5Size("google/flan-t5-small", 512, 8, 6, 64, 1_024, True),
    "google/flan-t5-base": T5Size("google/flan-t5-base", 768, 12, 12, 64, 2_048, True),
    "google/flan-t5-large": T5Size("google/flan-t5-large", 1_024, 24, 16, 64, 2_816, True),
}
"""By AudioCraft's names. (It lists Flan-T5's two largest as well, but has no widths for them.)"""

VOCABULARY = 32_128
"""Pieces of all of them."""


@dataclass(frozen=True)
class TextEncoder:
    """How AudioCraft gets a text encoder."""

    name: str
    """One of `SIZES`."""
    inside: bool
    """Whether its weights are in the checkpoint, which makes it one that learned."""


def text_encoder_of(trained: TrainedModel) -> TextEncoder | None:
    """How AudioCraft is to get the text encoder of a model; None for a model without.

    A frozen encoder that is known by a published name is had by it. Any other's weights, be they learned here or not
    known to be the published ones, must lie with the model.

    Raises:
        ValueError: its architecture is that of no T5 that AudioCraft has by name.
    """
    description = trained.model.description
    if description is None:
        return None
    if not description.config.finetune:
        for name, size in SIZES.items():
            if trained.facts.text_encoder in (name, size.hub):
                return TextEncoder(name, inside=False)
    config = description.encoder.config
    assert isinstance(config, T5Config)
    for name, size in SIZES.items():
        if _is_of(config, size):
            return TextEncoder(name, inside=True)
    raise ValueError(
        f"expected a text encoder that AudioCraft has by name ({', '.join(SIZES)}), got a T5 of width "
        f"{config.d_model}, {config.num_layers} layers and {config.vocab_size} pieces"
    )


def _is_of(config: T5Config, size: T5Size) -> bool:
    own = (config.d_model, config.num_layers, config.num_heads, config.d_kv, config.d_ff, config.is_gated_act)
    published = (size.width, size.layers, size.heads, size.head_width, size.feedforward, size.gated)
    return own == published and config.vocab_size == VOCABULARY
