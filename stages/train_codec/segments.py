"""Segments of recordings for training on sound: drawn by duration, made louder or softer, and mixed (EnCodec,
arXiv:2210.13438, 4.1).

The samples of a step are a function of (seed, step) alone. They do not depend on threads, on what is in memory, or on
where a training was killed. Decoded recordings are kept while they fit in memory.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.optim.train_state import step_seed
from stages.audio import AudioError, convert_audio, read_audio

KEPT_SAMPLES = 2**28
"""Decoded samples that are kept in memory: 1 GiB."""

ATTEMPTS = 16
"""Draws for one segment before training gives up on a corpus that mostly cannot be read."""

SECOND = 1
"""Purpose of a draw of an item's second segment; part of its seed."""


@dataclass(frozen=True)
class Track:
    """A recording that segments are drawn from."""

    track_id: str
    uri: str
    seconds: float


class DecodedRecordings:
    """Recordings decoded at one sample rate and number of channels: float32 [C, N], the most recently used kept in
    memory."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._kept: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()
        self._lock = Lock()

    def read(self, track: Track) -> npt.NDArray[np.float32]:
        """Return the samples of a recording.

        Raises:
            AudioError: it can no longer be read.
        """
        with self._lock:
            if track.track_id in self._kept:
                self._kept.move_to_end(track.track_id)
                return self._kept[track.track_id]
        audio = read_audio(track.uri, max_damage=1.0)
        samples = convert_audio(audio.samples, audio.sample_rate, self.sample_rate, self.channels)
        with self._lock:
            self._kept[track.track_id] = samples
            while len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > KEPT_SAMPLES:
                self._kept.popitem(last=False)
        return samples


class Segments:
    """The batches [B, C, N] of a training; call it with a step. The next step's batch is read in the background.

    Args:
        tracks: recordings that last at least one segment.
        samples: N, at the sample rate of `decoded`.
        gain: smallest and largest change of a segment's level, dB.
        mix: probability that a segment is the sum of two.
        workers: threads that decode.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        decoded: DecodedRecordings,
        batch_size: int,
        samples: int,
        gain: tuple[float, float],
        mix: float,
        seed: int,
        workers: int,
        device: str,
    ) -> None:
        self.tracks, self.decoded, self.device = list(tracks), decoded, device
        self.batch_size, self.samples, self.seed = batch_size, samples, seed
        self.gain, self.mix = gain, mix
        # Longer recordings are drawn more often: every second of the corpus is equally likely.
        self.ends = torch.tensor([track.seconds for track in tracks], dtype=torch.float64).cumsum(0)
        self.unreadable: dict[str, AudioError] = {}
        self._pool = ThreadPoolExecutor(max_workers=max(1, workers))
        self._ahead: dict[int, list[Future[Tensor]]] = {}

    def __call__(self, step: int) -> Tensor:
        """Return the batch of a step."""
        futures = self._ahead.pop(step, None) or self._submit(step)
        self._ahead = {step + 1: self._submit(step + 1)}
        return torch.stack([future.result() for future in futures]).to(self.device)

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, step: int) -> list["Future[Tensor]"]:
        return [self._pool.submit(self._draw, step, item) for item in range(self.batch_size)]

    def _draw(self, step: int, item: int) -> Tensor:
        """Draw an item [C, N] of a step: one segment, or the sum of two."""
        segment = self._segment(step, item)
        if self.mix == 0:
            return segment
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, item))
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= self.mix:
            return segment
        mixed = segment + self._segment(step, item, SECOND)
        # The sum of two loud recordings must not exceed full scale.
        return mixed / mixed.abs().max().clamp(min=1.0)

    def _segment(self, step: int, item: int, *purpose: int) -> Tensor:
        """Draw a segment [C, N]; if its recording cannot be read, draw another.

        Raises:
            ValueError: none of `ATTEMPTS` draws could be read.
        """
        lowest, highest = self.gain
        for attempt in range(ATTEMPTS):
            generator = torch.Generator().manual_seed(step_seed(self.seed, step, item, attempt, *purpose))
            position, offset, level = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            chosen = int(torch.searchsorted(self.ends, position * float(self.ends[-1]), right=True))
            track = self.tracks[min(chosen, len(self.tracks) - 1)]
            try:
                wav = self.decoded.read(track)
            except AudioError as error:
                self.unreadable[track.track_id] = error
                continue
            start = int(offset * max(0, wav.shape[1] - self.samples))
            segment = torch.from_numpy(wav[:, start : start + self.samples])
            # A resampled recording can be a few samples shorter than its duration.
            segment = torch.nn.functional.pad(segment, (0, self.samples - segment.shape[1]))
            decibels = (2 * level - 1) * (highest - lowest) / 2 + (highest + lowest) / 2
            return torch.as_tensor(segment * 10 ** (decibels / 20))
        example = next(iter(self.unreadable.values()))
        raise ValueError(
            f"expected readable recordings, got {len(self.unreadable)} unreadable ones, such as: {example}"
        )
