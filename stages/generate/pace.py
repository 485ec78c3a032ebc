"""Pace: how long generation will take, measured on the first clips and shown before the others are made."""

import time

from stages.pipeline.contract import Progress
from stages.pipeline.durations import duration

SHORTEST = 1.0
"""Estimates below this are not shown, seconds."""


class Pace:
    """Counts frames of codes as they are made, for the progress of a run, and shows once how long the rest will
    take."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._left, self._made, self._started = 0, 0, 0.0
        self._is_shown = False

    def start(self, frames: int) -> None:
        """Start to count `frames` frames that are to be made."""
        self._left = frames
        self._progress.start("generate", frames, "frames")

    def skip(self, frames: int) -> None:
        """Count frames that will not be made."""
        self._left -= frames
        self._progress.advance(frames)

    def begin_batch(self) -> None:
        """Start to measure time, unless that was done before."""
        self._started = self._started or time.monotonic()

    def advance(self, frames: int, note: str) -> None:
        """Count frames that were made; `note` is shown beside the progress."""
        self._left -= frames
        self._made += frames
        self._progress.advance(frames, note)

    def tell(self, clip_frames: int) -> None:
        """Show how long a clip of `clip_frames` frames takes, and all frames that are left. Only the first call after
        frames were made does so."""
        elapsed = time.monotonic() - self._started
        if self._is_shown or not self._made:
            return
        self._is_shown = True
        frame_seconds = elapsed / self._made
        if (rest := frame_seconds * self._left) >= SHORTEST:
            clip_seconds = frame_seconds * clip_frames
            line = f"generate: {clip_seconds:.1f} s for a clip of {clip_frames:,} frames, measured on the first"
            self._progress.tell([f"{line}; about {duration(rest)} for the {self._left:,} remaining frames"])
