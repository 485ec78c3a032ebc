"""Seams: whether a long clip changes where one decoding window ends and the next begins (`model.decoding.windows`)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from model.decoding.windows import plan_windows
from model.lm.config import stride_frames
from schemas import WeightsRef
from schemas.tables import Row
from stages.audio.samples import INAUDIBLE
from stages.audio.spectrogram import log_spectrogram
from stages.checkpoints.facts import read_facts
from stages.pipeline.contract import Context

SEAM_CONTEXT = 0.25
"""Seconds of sound on either side of a moment that are compared with each other."""

SEAM_FRAMES_A_SECOND = 50.0
"""Frames per second of the spectra that are compared."""

SMALLEST_CHANGE = 1.0
"""Decibels of change that are assumed to occur somewhere in every sound: a held tone has none, but no seam is heard in
it."""


def window_frames(context: Context, checkpoint: str) -> int | None:
    """Return the frames in a decoding window of a checkpoint; None for a checkpoint from elsewhere, which does not
    say."""
    if context.library.checkpoint(checkpoint) is None:
        return None
    return read_facts(context.weights(WeightsRef.to_checkpoint(checkpoint)).path).segment_frames


def window_borders(generation: Row, window: int | None, stride: float) -> list[float]:
    """Return the times, s, at which each window of a generation continues after the one before.

    Args:
        window: frames in a window; None if it is not known, which gives no borders.
        stride: distance from one window to the next, as a share of a window.
    """
    if window is None:
        return []
    windows = plan_windows(generation["frames"], generation["prompt_frames"], window, stride_frames(stride, window))
    return [(later.start + later.known) / generation["frame_rate"] for later in windows[1:]]


def seam_contrast(mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]) -> float | None:
    """Measure how much the sound changes at the borders of decoding windows, compared with everywhere else.

    At each moment the mean mel spectra of the quarter seconds before and after it are compared. A border's rank is the
    share of all moments, further than this context from any border, that change less than it. The mean rank over all
    borders is about a half if windows fit together, whatever the music. It approaches 1 if they do not (or if borders
    fall on the bars: so a raw recording is measured at the same times).

    Args:
        borders: times, s, in any order; those without a whole context before or after them are left out.

    Returns:
        0 to 1; None if there is no border, or nothing to compare it with.
    """
    parts = _changes(mono, sample_rate, borders)
    if parts is None:
        return None
    at_borders, elsewhere = parts
    return float(np.mean([(elsewhere < change).mean() for change in at_borders]))


def seam_excess(mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]) -> float | None:
    """Measure the largest change at a border of decoding windows in units of the largest change anywhere else. The
    result is well above 1 if a clip breaks off and starts again in a way that its music never does.

    The changes are those of `seam_contrast`, which only ranks them and so cannot distinguish a broken seam from the
    first beat of a bar.

    Args:
        borders: as in `seam_contrast`.

    Returns:
        0 or more; None if there is no border, or nothing to compare it with.
    """
    parts = _changes(mono, sample_rate, borders)
    if parts is None:
        return None
    at_borders, elsewhere = parts
    return float(at_borders.max() / max(elsewhere.max(), SMALLEST_CHANGE))


def _changes(
    mono: Float[Tensor, "N"], sample_rate: int, borders: Sequence[float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return the difference, dB, of the mean mel spectra before and after a moment: at borders, and at all moments
    further than a context from any border. None if there are no borders or no such moments."""
    context = round(SEAM_CONTEXT * SEAM_FRAMES_A_SECOND)
    if not borders or len(mono) < 1 or float(mono.abs().max()) < INAUDIBLE:
        return None
    decibels = log_spectrogram(mono, sample_rate, bands=40, frames_a_second=SEAM_FRAMES_A_SECOND)
    if decibels.shape[1] < 2 * context + 1:
        return None
    means = decibels.unfold(1, context, 1).mean(-1)  # [bands, first frame of a context]
    contrasts = (means[:, context:] - means[:, :-context]).abs().mean(0).numpy()
    moments = np.arange(len(contrasts)) + context
    border_frames = [round(border * SEAM_FRAMES_A_SECOND) for border in borders]
    inside = [frame for frame in border_frames if context <= frame < context + len(contrasts)]
    elsewhere = contrasts[(np.abs(moments[:, None] - np.array(border_frames)[None]) > context).all(axis=1)]
    if not inside or not len(elsewhere):
        return None
    return contrasts[[frame - context for frame in inside]], elsewhere
