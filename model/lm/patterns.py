"""Codebook patterns: in which order a model predicts the K codes of every frame (MusicGen, arXiv:2306.05284, 2.1).

Every coordinate (frame, codebook) has a sorting *key*. Coordinates with equal keys share a step and are predicted
together; steps follow in the order of their keys. So a pattern is defined by its keys alone. Step 0 is empty (it holds
only the special token), so that the first codes have something to be predicted from.

    delay         frame + delay of the codebook                         (MusicGen's choice; all delays 0 = parallel)
    unroll        as delay, but one step for each group of codebooks
    coarse first  the whole first codebook, then the others in parallel
    grouped       groups of codebooks one after another, flattened      (MusicLM, arXiv:2301.11325)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Mode = Literal["full", "valid"]
"""`full` keeps every step of a layout; `valid`, for training, cuts the tail, whose steps hold frames past the end."""


class Coordinate(NamedTuple):
    """One code of a recording."""

    frame: int
    codebook: int


class Placement(NamedTuple):
    """For each position of one arrangement (sequence or frames), where its value is in the other arrangement."""

    indexes: Int[Tensor, "K X"]
    """Flat index into [K, T] (for a sequence) or [K, S] (for frames); one past the end where there is no value."""
    mask: Bool[Tensor, "K X"]
    """Which positions have a value."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """A layout of the codes of `frames` frames and `codebooks` codebooks on steps; step 0 is empty."""

    codebooks: int
    frames: int
    layout: tuple[tuple[Coordinate, ...], ...]
    """The coordinates of each step; they may include frames past the last one."""

    @cached_property
    def delay(self) -> int:
        """The number of frames past the last one that the layout holds."""
        return max(coordinate.frame for step in self.layout for coordinate in step) + 1 - self.frames

    def steps(self, mode: Mode = "full") -> int:
        """Return the number S of steps, including the empty first step."""
        return len(self.layout) if mode == "full" else len(self.layout) - self.delay

    @cached_property
    def first_steps(self) -> tuple[int, ...]:
        """For each frame, the first step that holds one of its codes.

        A continuation of P frames begins at the entry of frame P.
        """
        first: dict[int, int] = {}
        for number, step in enumerate(self.layout):
            for coordinate in step:
                first.setdefault(coordinate.frame, number)
        return tuple(first[frame] for frame in range(self.frames))

    @cached_property
    def upcoming_frames(self) -> Int[Tensor, "S"]:
        """For each step of the whole layout, the latest frame that the next step holds, at most the last frame.

        At that step, a frame-wise condition supplies the vector of this frame, so that the vector is present when the
        first code of the frame is predicted. A step followed by a step without codes keeps the frame of the step
        before.
        """
        frames, latest = [], 0
        for following in (*self.layout[1:], ()):
            latest = min(max((coordinate.frame for coordinate in following), default=latest), self.frames - 1)
            frames.append(latest)
        return torch.tensor(frames)

    @lru_cache(maxsize=8)  # noqa: B019 - patterns are few, small and themselves cached
    def sequence_placement(self, mode: Mode = "full") -> Placement:
        """For each position [K, S] of the sequence, find the code of [K, T] that belongs there."""
        steps = self.steps(mode)
        indexes = torch.full((self.codebooks, steps), self.codebooks * self.frames)
        for number, step in enumerate(self.layout[:steps]):
            for frame, codebook in step:
                if frame < self.frames:
                    indexes[codebook, number] = frame + codebook * self.frames
        return Placement(indexes, indexes < self.codebooks * self.frames)

    @lru_cache(maxsize=8)  # noqa: B019
    def frame_placement(self, steps: int, outputs: bool = False, mode: Mode = "full") -> Placement:
        """For each position [K, T], find the value that belongs there in a sequence of `steps` steps.

        With `outputs` the sequence holds predictions: output s predicts step s + 1, if the layout in `mode` has it.
        """
        indexes = torch.full((self.codebooks, self.frames), self.codebooks * steps)
        for number, step in enumerate(self.layout[int(outputs) : self.steps(mode)][:steps]):
            for frame, codebook in step:
                if frame < self.frames:
                    indexes[codebook, frame] = number + codebook * steps
        return Placement(indexes, indexes < self.codebooks * steps)

    def build(self, codes: Int[Tensor, "B K T"], special: int, mode: Mode = "full") -> Int[Tensor, "B K S"]:
        """Interleave codes into a sequence; positions without a code get the special token."""
        if codes.shape[1:] != (self.codebooks, self.frames):
            raise ValueError(f"expected codes [B, {self.codebooks}, {self.frames}], got {list(codes.shape)}")
        placement = self.sequence_placement(mode)
        padded = torch.cat([codes.flatten(1), codes.new_full((codes.shape[0], 1), special)], dim=1)
        return padded[:, placement.indexes.to(codes.device).flatten()].view(len(codes), self.codebooks, -1)

    def revert(self, sequence: Int[Tensor, "B K S"], special: int) -> Int[Tensor, "B K T"]:
        """Undo `build`. Codes that the sequence does not hold become `special`."""
        self._check_steps(sequence.shape[1], sequence.shape[-1])
        placement = self.frame_placement(sequence.shape[-1])
        padded = torch.cat([sequence.flatten(1), sequence.new_full((sequence.shape[0], 1), special)], dim=1)
        return padded[:, placement.indexes.to(sequence.device).flatten()].view(len(sequence), self.codebooks, -1)

    def revert_outputs(
        self, outputs: Float[Tensor, "B K S V"], mode: Mode = "full", fill: float = float("nan")
    ) -> tuple[Float[Tensor, "B K T V"], Bool[Tensor, "K T"]]:
        """Rearrange predictions by frame.

        Returns the values [B, K, T, V], with `fill` where there is no prediction, and the mask [K, T] of predictions.
        """
        self._check_steps(outputs.shape[1], outputs.shape[2])
        placement = self.frame_placement(outputs.shape[2], True, mode)
        mask = placement.mask.to(outputs.device)
        indexes = torch.where(placement.mask, placement.indexes, 0).to(outputs.device)
        values = outputs.flatten(1, 2)[:, indexes.flatten()].unflatten(1, indexes.shape)
        return values.masked_fill(~mask[None, :, :, None], fill), mask

    def _check_steps(self, codebooks: int, steps: int) -> None:
        if codebooks != self.codebooks or steps > len(self.layout):
            raise ValueError(
                f"expected {self.codebooks} codebooks and at most {len(self.layout)} steps, got {codebooks} and {steps}"
            )


def _lay_out(codebooks: int, frames: int, ends: Sequence[int], key: Callable[[int, int], tuple[int, ...]]) -> Pattern:
    """Make the pattern that the keys define, where codebook k has the frames before `ends[k]`."""
    if codebooks < 1 or frames < 1:
        raise ValueError(f"expected at least one codebook and one frame, got {codebooks} and {frames}")
    coordinates = sorted(
        (Coordinate(frame, codebook) for codebook in range(codebooks) for frame in range(ends[codebook])),
        key=lambda coordinate: (key(*coordinate), coordinate.codebook),
    )
    steps = (tuple(step) for _, step in groupby(coordinates, key=lambda coordinate: key(*coordinate)))
    return Pattern(codebooks, frames, ((), *steps))


def _check_delays(delays: tuple[int, ...], codebooks: int) -> None:
    if len(delays) != codebooks or min(delays, default=0) < 0:
        raise ValueError(f"expected {codebooks} delays, each 0 or more, got {delays}")


def _insert_empty(
    layout: tuple[tuple[Coordinate, ...], ...], at: int, steps: int
) -> tuple[tuple[Coordinate, ...], ...]:
    """Insert steps without a code before step `at`, as AudioCraft's patterns have if the smallest delay is above 0."""
    return layout[:at] + ((),) * steps + layout[at:]


def _codebook_ends(frames: int, delays: tuple[int, ...]) -> list[int]:
    """Return the end of each codebook such that all end on the same step: those with less delay run past the last
    frame."""
    return [frames + max(delays) - delay for delay in delays]


@lru_cache(maxsize=64)
def delayed(frames: int, delays: tuple[int, ...], flatten_first: int = 0, empty_initial: int = 0) -> Pattern:
    """Delay codebook k by `delays[k]` steps; delays of all zero are the parallel pattern.

    The first `flatten_first` frames come before that, one code a step. `empty_initial` extra empty steps open the
    sequence. If the smallest delay is above 0, that many steps are empty.

    Stereo codecs share a delay between left and right: 0 0 1 1 2 2 3 3. VALL-E (arXiv:2301.02111) is 0 T T ….
    """
    _check_delays(delays, len(delays))

    def key(frame: int, codebook: int) -> tuple[int, ...]:
        return (frame, codebook) if frame < flatten_first else (frame + delays[codebook], -1)

    pattern = _lay_out(len(delays), frames, _codebook_ends(frames, delays), key)
    flattened = 1 + min(flatten_first, frames) * len(delays)
    layout = _insert_empty(pattern.layout, flattened, min(delays) if frames > flatten_first else 0)
    return Pattern(pattern.codebooks, frames, ((),) * empty_initial + layout)


@lru_cache(maxsize=64)
def unrolled(frames: int, flattening: tuple[int, ...], delays: tuple[int, ...]) -> Pattern:
    """Lay out each frame in several steps: codebooks with equal `flattening` share a step."""
    _check_delays(delays, len(flattening))
    return _lay_out(
        len(delays),
        frames,
        _codebook_ends(frames, delays),
        lambda frame, codebook: (frame + delays[codebook], frame, flattening[codebook]),
    )


@lru_cache(maxsize=64)
def coarse_first(frames: int, delays: tuple[int, ...]) -> Pattern:
    """Lay out all of the first codebook, then the others in parallel with `delays` (one fewer than codebooks).

    If the smallest delay is above 0, there are that many empty steps between the two parts.
    """
    _check_delays(delays, len(delays))
    pattern = _lay_out(
        len(delays) + 1,
        frames,
        [frames, *(_codebook_ends(frames, delays) if delays else [])],
        lambda frame, codebook: (1, frame + delays[codebook - 1]) if codebook else (0, frame),
    )
    return Pattern(pattern.codebooks, frames, _insert_empty(pattern.layout, 1 + frames, min(delays, default=0)))


@lru_cache(maxsize=64)
def grouped(frames: int, codebooks: int, group: int) -> Pattern:
    """Lay out groups of `group` codebooks one after another, each flattened to one code a step."""
    if group < 1 or codebooks % group:
        raise ValueError(f"expected a group that divides {codebooks} codebooks, got {group}")
    return _lay_out(
        codebooks, frames, [frames] * codebooks, lambda frame, codebook: (codebook // group, frame, codebook % group)
    )
