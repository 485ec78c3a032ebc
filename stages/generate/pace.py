"""Pace: how fast clips are made, measured once the first of them are whole, and told before the others are waited
for."""

import time

from stages.pipeline.contract import Progress
from stages.pipeline.durations import duration

SHORTEST = 1.0
"""Seconds that are left below which nobody needs to be told."""


class Pace:
    """Counts frames of codes as they are made, for the progress of a run, and tells once how long the rest takes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._left, self._made, self._started = 0, 0, 0.0
        self._is_told = False

    def start(self, frames: int) -> None:
        """Begin to count `frames` frames that are to be made."""
        self._left = frames
        self._progress.start("generate", frames, "frames")

    def skip(self, frames: int) -> None:
        """Count frames that will not be made."""
        self._left -= frames
        self._progress.advance(frames)

    def begin_batch(self) -> None:
        """Begin to measure, where it has not begun."""
        self._started = self._started or time.monotonic()

    def advance(self, frames: int, note: str) -> None:
        """Count frames that were made; `note` is a reading beside them."""
        self._left -= frames
        self._made += frames
        self._progress.advance(frames, note)

    def tell(self, clip_frames: int) -> None:
        """Tell how long a clip of so many frames takes, and all that is left; only the first call does."""
        elapsed = time.monotonic() - self._started
        if self._is_told or not self._made:
            return
        self._is_told = True
        a_frame = elapsed / self._made
        if (rest := a_frame * self._left) >= SHORTEST:
            line = (
                f"generate: {a_frame * clip_frames:.1f} s for a clip of {clip_frames:,} frames, measured on the first"
            )
            self._progress.tell([f"{line}; about {duration(rest)} for the {self._left:,} frames that are left"])
