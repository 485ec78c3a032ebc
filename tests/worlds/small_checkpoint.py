"""A checkpoint of random weights in this project's own form, beside the codec and the text encoder that it names."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.conditioning.config import MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig
from model.music_model import MusicModel
from schemas import WeightsRef
from schemas.weights import LocalWeights, folder_digest
from stages.checkpoints.facts import CheckpointFacts, CodecFacts
from stages.checkpoints.native import TrainedModel, describe_codec, load_encodec, load_text_encoder, save_checkpoint
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, codec_folder
from tests.worlds.tiny_models import text_encoder


def find(reference: WeightsRef) -> LocalWeights:
    """Return the local weights of a reference that is a folder."""
    return LocalWeights(str(reference), Path(reference), folder_digest(Path(reference)))


def refuse(reference: WeightsRef) -> LocalWeights:
    """Refuse any reference, for folders that hold everything that they need."""
    raise AssertionError(f"asked for {reference}")


@dataclass(frozen=True, eq=False)
class SmallCheckpoint:
    """The written parts, and their folders."""

    trained: TrainedModel
    folder: Path
    codec: Path
    text_encoder: Path


def small_checkpoint(
    folder: Path, codebooks: int = CODEBOOKS, channels: int = 1, named: bool = True, reads: bool = True
) -> SmallCheckpoint:
    """Write a model in the form of a training: text encoder and codec are named, not inside.

    Args:
        folder: `checkpoint`, `codec` and `encoder` are written into it.
            named: whether the checkpoint names its codec.
        reads: whether the model reads text.
    """
    codec, source = codec_folder(folder / "codec"), text_encoder(folder / "encoder")
    delays = tuple(number // 2 for number in range(codebooks))
    language_model = LanguageModelConfig(
        codebooks=codebooks,
        cardinality=CARDINALITY,
        width=32,
        heads=2,
        layers=2,
        delays=delays if channels == 2 else None,
        cross=("description",) if reads else (),
    )
    encoder, tokenizer = load_text_encoder(source) if reads else (None, None)
    torch.manual_seed(3)
    description = TextConfig(width=16) if reads else None
    config = MusicModelConfig(language_model=language_model, description=description)
    model = MusicModel(config, encoder, tokenizer).eval()
    facts = CheckpointFacts(
        model=config,
        frame_rate=FRAME_RATE,
        segment_seconds=2.0,
        text_encoder=str(source) if reads else None,
        text_encoder_digest=folder_digest(source) if reads else None,
        versions={"tokens": "abc"},
        codec=_facts(codec, codebooks, channels) if named else None,
    )
    (folder / "checkpoint").mkdir()
    save_checkpoint(folder / "checkpoint", model, facts)
    return SmallCheckpoint(TrainedModel(model, facts), folder / "checkpoint", codec, source)


def _facts(codec: Path, codebooks: int, channels: int) -> CodecFacts:
    return describe_codec(load_encodec(codec), codebooks, channels, str(codec))


def same_weights(one: TrainedModel, other: TrainedModel) -> bool:
    """Whether two models have the same tensors, the text encoder's included, bit for bit."""
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
