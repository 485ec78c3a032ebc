"""A tiny model that reads every kind of condition, and items that have all of them, some, or none."""

import torch

from model.conditioning.config import ClapConfig, JointQuantizerConfig, MusicModelConfig
from model.music_model import Attributes, MusicModel
from tests.worlds.tiny_model import melody, text_encoder, tokenizer

WIDTH, ENTRIES = 6, 8
FIELDS = {
    "genre": {"kind": "label", "rows": 50, "width": 5},
    "keywords": {"kind": "words", "rows": 50, "width": 5},
    "bpm": {"kind": "number", "lowest": 40.0, "highest": 240.0},
}


def config(quantized: bool = True, match_length: bool = False, **language: object) -> MusicModelConfig:
    """Every condition by cross-attention by default; the melody keeps its length."""
    sizes = {"codebooks": 2, "cardinality": 11, "width": 16, "heads": 2, "layers": 2}
    cross = {"cross": ("description", *FIELDS, "chroma", "clap")}
    quantizer = JointQuantizerConfig(codebooks=2, cardinality=ENTRIES) if quantized else None
    return MusicModelConfig.model_validate(
        {
            "language_model": sizes | cross | language,
            "description": {"width": 16},
            "fields": FIELDS,
            "chroma": {"frames": 6, "match_length": match_length},
            "clap": ClapConfig(width=WIDTH, quantizer=quantizer),
        }
    )


def music_model(settings: MusicModelConfig | None = None, seed: int = 0) -> MusicModel:
    """A model of this kind in evaluation mode; its codebooks, if it has any, have started."""
    encoder = text_encoder()
    torch.manual_seed(seed)
    model = MusicModel(settings or config(), encoder, tokenizer()).eval()
    if model.clap is not None:
        model.clap.start(embeddings(100), torch.Generator().manual_seed(seed))
    return model


def embeddings(count: int, seed: int = 0) -> torch.Tensor:
    """Joint embeddings [count, E]."""
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def everything(seed: int = 0) -> Attributes:
    """An item with every condition."""
    return Attributes(
        ("calm piano at night", "loud fast drums and bass")[seed % 2],
        melody(*range(seed % 5 + 1)),
        embeddings(1, seed)[0],
        {"genre": ("jazz", "rock")[seed % 2], "keywords": "slow, warm"[: 4 + 6 * (seed % 2)], "bpm": 90.0 + seed},
    )


ITEMS = (
    everything(0),
    everything(3),
    Attributes("bass", fields={"keywords": "warm, slow, low and soft"}),
    Attributes(chroma=melody(1, 2, 3)),
    Attributes(fields={"genre": "jazz", "bpm": 120}),
    Attributes(clap=embeddings(1, 7)[0]),
    Attributes(),
)
"""Rows of different lengths in every condition, and one without conditions."""
