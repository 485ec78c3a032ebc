"""What a trained model's folder says of it beside its weights (`config.json`).

It is read apart from the weights, so that a plan, which may have to know what a model reads, need not load torch.
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
"""Where the forms of other projects keep `CheckpointFacts.distilled_guidance`, beside a coefficient of 1, which is what
those projects read."""


class CodecFacts(Config):
    """The codec that a model's codes belong to."""

    reference: str | None
    """Where it was had, as a name of weights; None where nobody knows, or it lies with the model."""
    digest: str | None = None
    """Of its files, as in `checkpoints` or `weights`; None where nobody knows, or it lies with the model."""
    identity: str
    """`codebook_identity` of the levels in use: the same codec in every form that it comes in."""
    sample_rate: int
    """Of the sound, Hz."""
    frame_rate: float
    """Frames of codes a second."""
    codebooks: int
    """K of the codes: a mono codec that encodes left and right by turns has twice its own levels."""
    cardinality: int
    """V, codes of a codebook."""
    channels: int
    """Channels of the sound that the codes stand for."""


@dataclass(frozen=True)
class ModelDescription:
    """What a model is, in whichever form its checkpoint has, as its files say without the weights being read."""

    model: MusicModelConfig
    segment_seconds: float
    """Length of the windows that the model was trained on."""
    channels: int
    """Channels of the sound that its codes stand for."""


class CheckpointFacts(Config):
    """What a checkpoint says of itself beside its weights."""

    format: Literal[1, 2] = 2
    """Raised when the folder's layout changes; 1 knew no codec."""
    model: MusicModelConfig
    """The network; `model.language_model` has the codec's codebooks and cardinality."""
    frame_rate: float
    """Frames of codes a second."""
    segment_seconds: float
    """Length of the windows that the model was trained on."""
    text_encoder: str | None
    """Reference of a frozen text encoder that is kept elsewhere; None where its weights are here, or there is none."""
    text_encoder_digest: str | None
    """Digest of the files of the text encoder that training began with; None where there is none or nobody knows."""
    versions: Mapping[str, str] = {}
    """The versions of the tables that it learned from, by table; none where it was not trained here."""
    codec: CodecFacts | None = None
    """What its codes mean; None where nobody knows."""
    distilled_guidance: float | None = None
    """The coefficient of the guidance that its weights have learned (`train.distill_guidance`), so that it is asked
    with guidance 1; None for a model that is to be guided."""

    @property
    def segment_frames(self) -> int:
        """Length of the windows that the model was trained on in frames of codes, as training counts it."""
        return count_segment_frames(self.segment_seconds, self.frame_rate)


def count_segment_frames(seconds: float, frame_rate: float) -> int:
    """Count the frames of codes of a training window of so many seconds."""
    return max(1, round(seconds * frame_rate))


def read_facts(folder: Path) -> CheckpointFacts:
    """Read what `config.json` says.

    Raises:
        OSError, ValueError: it cannot be read, or is none.
    """
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if isinstance(content, dict) and content.get("format") == 1 and isinstance(content.get("model"), dict):
        # The first format's models learned with padded vectors as keys, which was no choice then.
        decoder = content["model"].setdefault("language_model", {})
        decoder.setdefault("padding", "attended")
    return CheckpointFacts.model_validate_json(json.dumps(content))
