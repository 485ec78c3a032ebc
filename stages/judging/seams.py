"""Seams: whether a long clip changes where one decoding window ends and the next goes on (`model.decoding.windows`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from model.decoding.windows import plan_windows
from model.lm.config import stride_frames
from schemas import WeightsRef
from schemas.tables import Row
from stages.audio.spectrogram import INAUDIBLE, log_spectrogram
from stages.checkpoints.facts import read_facts
from stages.pipeline.contract import Context

SEAM_CONTEXT = 0.25
"""Seconds of sound on either side of a moment that are compared."""

SEAM_FRAMES_A_SECOND = 50.0
"""Resolution of the comparison."""

SMALLEST_CHANGE = 1.0
"""Decibels of change that every sound is taken to have somewhere: a held tone has none, and no seam is heard in it."""


def window_frames(context: Context, checkpoint: str) -> int | None:
    """Return the frames of a decoding window of a checkpoint; None of one from elsewhere, of which nothing says."""
    if context.library.checkpoint(checkpoint) is None:
        return None
    return read_facts(context.weights(WeightsRef.to_checkpoint(checkpoint)).path).segment_frames


def window_borders(generation: Row, window: int | None, stride: float) -> list[float]:
    """Return the seconds at which each window of a generation goes on from what the one before left.

    Args:
        window: frames of a window; None where they are not known, and nor are the borders.
        stride: from one window to the next, as a share of a window.
    """
    if window is None:
        return []
    windows = plan_windows(generation["frames"], generation["prompt_frames"], window, stride_frames(stride, window))
    return [(later.start + later.known) / generation["frame_rate"] for later in windows[1:]]


def seam_contrast(mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]) -> float | None:
    """Measure how much the sound changes where one decoding window ends and the next goes on, against everywhere else.

    At each moment the mean mel spectra of the quarter seconds before and after are compared; of a border's difference
    the rank among those of all moments further than a context from any border is taken: the share of them that it
    exceeds. The mean over borders is about a half where windows fit together, whatever the music, and nears 1 where
    they do not (or where they fall on the bars: so a raw recording is measured at the same times).

    Args:
        borders: times in seconds, in any order; those too near the ends to have both contexts are left out.

    Returns:
        0 to 1; None where there is no border, or nothing to compare it with.
    """
    parts = _changes(mono, sample_rate, borders)
    if parts is None:
        return None
    at_borders, elsewhere = parts
    return float(np.mean([(elsewhere < change).mean() for change in at_borders]))


def seam_excess(mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]) -> float | None:
    """Measure the largest change where one decoding window ends and the next goes on in units of the largest change
    anywhere else: well above 1 where a clip breaks off and begins anew, and nothing in its music is like it.

    The changes are those of `seam_contrast`, which ranks them and so cannot tell a broken seam from the first beat of a
    bar.

    Args:
        borders: as there.

    Returns:
        0 or more; None where there is no border, or nothing to compare it with.
    """
    parts = _changes(mono, sample_rate, borders)
    if parts is None:
        return None
    at_borders, elsewhere = parts
    return float(at_borders.max() / max(elsewhere.max(), SMALLEST_CHANGE))


def _changes(
    mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return by how many decibels the mean mel spectra before and after a moment differ, at borders and at all moments
    further than a context from any; None where there are none of either."""
    context = round(SEAM_CONTEXT * SEAM_FRAMES_A_SECOND)
    if not borders or len(mono) < 1 or float(mono.abs().max()) < INAUDIBLE:
        return None
    decibels = log_spectrogram(mono, sample_rate, bands=40, frames_a_second=SEAM_FRAMES_A_SECOND)
    if decibels.shape[1] < 2 * context + 1:
        return None
    means = decibels.unfold(1, context, 1).mean(-1)  # [bands, first frame of a context]
    contrasts = (means[:, context:] - means[:, :-context]).abs().mean(0).numpy()
    moments = np.arange(len(contrasts)) + context
    at = [round(border * SEAM_FRAMES_A_SECOND) for border in borders]
    inside = [frame for frame in at if context <= frame < context + len(contrasts)]
    elsewhere = contrasts[(np.abs(moments[:, None] - np.array(at)[None]) > context).all(axis=1)]
    if not inside or not len(elsewhere):
        return None
    return contrasts[[frame - context for frame in inside]], elsewhere
