"""The facts of a trained model that its folder states beside the weights (`config.json`).

They are read apart from the weights, so that a plan, which may need to know what a model reads, need not load torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.conditioning.config import MusicModelConfig
from schemas import Config

CONFIG = "config.json"

DISTILLED = "distilled_guidance"
"""Key under which the forms of other projects keep `CheckpointFacts.distilled_guidance`. They also hold a coefficient
of 1, which is what those projects read."""


class CodecFacts(Config):
    """The codec that a model's codes come from."""

    reference: str | None
    """Name of the weights that the codec was loaded from; None where it is unknown, or where the codec is in the
    model's folder."""
    digest: str | None = None
    """Digest of the codec's files, as in `checkpoints` or `weights`; None where it is unknown, or where the codec is in
    the model's folder."""
    identity: str
    """`codebook_identity` of the levels in use; the same for every form that the codec is stored in."""
    sample_rate: int
    """Sample rate of the sound, Hz."""
    frame_rate: float
    """Frames of codes a second."""
    codebooks: int
    """K of the codes. A mono codec that encodes left and right has twice its own levels, left and right alternating."""
    cardinality: int
    """V, the number of codes of a codebook."""
    channels: int
    """Channels of the sound that the codes stand for."""


@dataclass(frozen=True)
class ModelDescription:
    """What a model is, read from the files of a checkpoint in any form without its weights."""

    model: MusicModelConfig
    segment_seconds: float
    """Length of the windows that the model was trained on, seconds."""
    channels: int
    """Channels of the sound that its codes stand for."""


class CheckpointFacts(Config):
    """The facts that a checkpoint states beside its weights."""

    format: Literal[1, 2] = 2
    """Format of the folder, raised when its layout changes; format 1 did not state the codec."""
    model: MusicModelConfig
    """The network; `model.language_model` has the codec's codebooks and cardinality."""
    frame_rate: float
    """Frames of codes a second."""
    segment_seconds: float
    """Length of the windows that the model was trained on, seconds."""
    text_encoder: str | None
    """Reference of a frozen text encoder that is stored elsewhere; None where its weights are in the folder, or where
    there is none."""
    text_encoder_digest: str | None
    """Digest of the files of the text encoder that training began with; None where there is none or it is unknown."""
    versions: Mapping[str, str] = {}
    """The versions of the tables that the model learned from, by table; empty where it was not trained here."""
    codec: CodecFacts | None = None
    """The codec that the codes come from; None where it is unknown."""
    distilled_guidance: float | None = None
    """The coefficient of the guidance that the weights have learned (`train.distill_guidance`), so that the model is
    used with guidance 1. None for a model that needs guidance."""

    @property
    def segment_frames(self) -> int:
        """Length of the windows that the model was trained on, in frames of codes, counted as training does."""
        return count_segment_frames(self.segment_seconds, self.frame_rate)


def count_segment_frames(seconds: float, frame_rate: float) -> int:
    """Return the length in frames of codes of a training window."""
    return max(1, round(seconds * frame_rate))


def read_facts(folder: Path) -> CheckpointFacts:
    """Read the facts in `config.json`.

    Raises:
        OSError, ValueError: the file cannot be read, or does not hold such facts.
    """
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if isinstance(content, dict) and content.get("format") == 1 and isinstance(content.get("model"), dict):
        # Models of format 1 attended to padding; there was no setting for it.
        decoder = content["model"].setdefault("language_model", {})
        decoder.setdefault("padding", "attended")
    return CheckpointFacts.model_validate_json(json.dumps(content))
