"""Melody following: how much of the time a clip's strongest pitch class is the one that was asked for.

MusicGen measures the mean cosine similarity of the *quantised* chroma of reference and clip (arXiv:2306.05284, section
4, "Melody evaluation"). A quantised frame is one-hot, so the cosine of two frames is 1 where their pitch classes agree
and 0 where not: the measure is the share of frames that agree."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SILENT = -1
"""The pitch class of a frame in which nothing sounds: it agrees with none."""


def _pitch_classes(chroma: Float[Tensor, "F 12"], frames: int, own_rate: float, rate: float) -> Int[Tensor, "frames"]:
    """The strongest class at each of `frames` moments at `rate`, from chroma at `own_rate`."""
    moments = (torch.arange(frames, dtype=torch.float64) * own_rate / rate).round().long().clamp(max=len(chroma) - 1)
    taken = chroma[moments]
    return torch.where(taken.amax(-1) > 0, taken.argmax(-1), SILENT)


def _pair(
    heard: Float[Tensor, "F 12"], heard_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    if len(heard) < 1 or len(asked) < 1 or heard_rate <= 0 or asked_rate <= 0:
        raise ValueError(
            f"expected frames and positive rates, got {len(heard)} at {heard_rate} and {len(asked)} at {asked_rate}"
        )
    # What is compared is the time that both cover, in the frames of the clip.
    frames = max(1, min(len(heard), round(len(asked) / asked_rate * heard_rate)))
    return (
        _pitch_classes(heard, frames, heard_rate, heard_rate),
        _pitch_classes(asked, frames, asked_rate, heard_rate),
    )


def agreement_with(
    heard: Float[Tensor, "F 12"], heard_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """The chroma similarity: the share of frames, from 0 to 1, whose strongest pitch class is the asked one. A frame in
    which nothing sounds, or nothing is asked, does not agree.

    Args:
        heard: chroma of the clip, at `heard_rate` frames a second.
        asked: chroma of the asked melody, at `asked_rate` frames a second.

    Raises:
        ValueError: no frames, or a rate that is not positive.
    """
    ours, theirs = _pair(heard, heard_rate, asked, asked_rate)
    return float(((ours == theirs) & (ours != SILENT)).double().mean())


def expected_agreement(
    heard: Float[Tensor, "F 12"], heard_rate: float, asked: Float[Tensor, "G 12"], asked_rate: float
) -> float:
    """Chance: the mean of `agreement_with` over every order of the asked melody's frames.

    It is what a clip gets that plays the right pitch classes as often as asked, but at the wrong times: a stricter
    comparison than another melody, for it shares the key. Over all orders the mean is the sum over pitch classes of the
    product of their shares, so no order needs to be drawn.

    Raises:
        ValueError: as `agreement_with`.
    """
    ours, theirs = _pair(heard, heard_rate, asked, asked_rate)
    shares = [
        torch.bincount(classes[classes != SILENT], minlength=12).double() / len(classes) for classes in (ours, theirs)
    ]
    return float(shares[0] @ shares[1])
