"""Melody following: how well a sound follows the melody that it was asked to follow.

MusicGen measures the mean cosine similarity of the *quantised* chroma of reference and clip (arXiv:2306.05284, section
4, "Melody evaluation"). A quantised frame is one-hot, so the cosine of two frames is 1 if their pitch classes agree and
0 if not: the measure is the share of frames that agree. As in the paper, it is measured on the full mix.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.chroma import chroma
from model.conditioning.config import ChromaConfig
from schemas import WeightsRef
from schemas.tables import Row
from stages.audio import resample, to_mono
from stages.checkpoints.facts import read_facts
from stages.pipeline.contract import Context

SILENT = -1
"""Pitch class of a silent frame, which agrees with no other."""


def _pitch_classes(chroma: Float[Tensor, "F 12"], frames: int, own_rate: float, rate: float) -> Int[Tensor, "frames"]:
    """Return the strongest pitch class at each of `frames` moments at `rate`, from chroma at `own_rate`."""
    moments = (torch.arange(frames, dtype=torch.float64) * own_rate / rate).round().long().clamp(max=len(chroma) - 1)
    frames_of_chroma = chroma[moments]
    return torch.where(frames_of_chroma.amax(-1) > 0, frames_of_chroma.argmax(-1), SILENT)


def _aligned_pitch_classes(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """Return the strongest pitch classes of clip and melody in each of the clip's frames that both cover."""
    if len(clip) < 1 or len(asked) < 1 or clip_rate <= 0 or asked_rate <= 0:
        raise ValueError(
            f"expected frames and positive rates, got {len(clip)} at {clip_rate} Hz and {len(asked)} at {asked_rate} Hz"
        )
    # Compares the time that both cover, in the clip's frames.
    frames = max(1, min(len(clip), round(len(asked) / asked_rate * clip_rate)))
    return (
        _pitch_classes(clip, frames, clip_rate, clip_rate),
        _pitch_classes(asked, frames, asked_rate, clip_rate),
    )


def chroma_agreement(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """Return the chroma similarity: the share of frames, 0 to 1, whose strongest pitch class is the asked one. A frame
    in which nothing sounds, or nothing is asked, does not agree.

    Args:
        clip: chroma of the clip, at `clip_rate` frames per second.
        asked: chroma of the asked melody, at `asked_rate` frames per second.

    Raises:
        ValueError: one of them has no frames, or a rate is not positive.
    """
    of_clip, of_asked = _aligned_pitch_classes(clip, clip_rate, asked, asked_rate)
    return float(((of_clip == of_asked) & (of_clip != SILENT)).double().mean())


def chance_agreement(
    clip: Float[Tensor, "F 12"], clip_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """Return the chance level: the mean of `chroma_agreement` over every order of the asked melody's frames.

    A clip with the right pitch classes as often as asked, but at the wrong times, reaches this level. It is a stricter
    comparison than another melody, because the key is the same. The mean over all orders is the sum over pitch classes
    of the product of their shares, so no order needs to be drawn.

    Raises:
        ValueError: as in `chroma_agreement`.
    """
    of_clip, of_asked = _aligned_pitch_classes(clip, clip_rate, asked, asked_rate)
    shares = [
        torch.bincount(classes[classes != SILENT], minlength=12).double() / len(classes)
        for classes in (of_clip, of_asked)
    ]
    return float(shares[0] @ shares[1])


@dataclass(frozen=True, eq=False)
class Melody:
    """A melody that a sound should follow."""

    frames: Float[Tensor, "G 12"]
    """Chroma."""
    rate: float
    """Frames per second."""

    @classmethod
    def of_row(cls, row: Row) -> Self | None:
        """Return the melody of a row of `generations`; None if it has none."""
        if not row["chroma"]:
            return None
        return cls(torch.from_numpy(np.array(row["chroma"], dtype=np.float32)), row["chroma_frame_rate"])

    def scores(
        self, samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int, analysis: ChromaConfig
    ) -> dict[str, float]:
        """Return the columns of `scores` that say how well a sound follows the melody, and the chance level.

        Args:
            analysis: settings by which the chroma of the model's melodies was computed; the chroma of the sound is
                computed by the same settings.
        """
        mono = resample(to_mono(samples), sample_rate, analysis.sample_rate)
        of_sound = chroma(torch.from_numpy(mono), analysis)[0]
        return {
            "chroma_similarity": chroma_agreement(of_sound, analysis.frame_rate, self.frames, self.rate),
            "chroma_similarity_chance": chance_agreement(of_sound, analysis.frame_rate, self.frames, self.rate),
        }


def melody_analysis(context: Context, checkpoints: Iterable[str]) -> ChromaConfig | None:
    """Return the settings by which the melodies of some checkpoints are measured: those of the first that follows
    melodies, or the published ones if it comes from elsewhere. None if no checkpoint follows melodies."""
    for checkpoint in checkpoints:
        if context.library.checkpoint(checkpoint) is None:
            return ChromaConfig()
        model = read_facts(context.weights(WeightsRef.to_checkpoint(checkpoint)).path).model
        if model.chroma is not None:
            return model.chroma.analysis
    return None
