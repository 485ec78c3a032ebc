"""Codebook patterns: in which order a model predicts the K codes of every frame (MusicGen, arXiv:2306.05284, 2.1).

There is one idea here: every coordinate (frame, codebook) has a *key*; coordinates with equal keys share a step and are
predicted together, and steps follow each other in the order of their keys. A pattern is nothing but its keys. Step 0 is
empty (the special token alone), so that the first codes have something to be predicted from.

    delay         frame + delay of the codebook                         (MusicGen's choice; all delays 0 = parallel)
    unroll        the same, then one step for each group of codebooks
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
"""`full` keeps every step of a layout; `valid` cuts the tail that holds frames past the end, as training does."""


class Coordinate(NamedTuple):
    """One code of a recording."""

    frame: int
    codebook: int


class Placement(NamedTuple):
    """Where the values of one arrangement are read from in the other, and which of its positions hold one at all."""

    indexes: Int[Tensor, "K X"]
    """Flat index into [K, T] (for a sequence) or [K, S] (for frames); one past the end where there is none."""
    mask: Bool[Tensor, "K X"]


@dataclass(frozen=True, eq=False)
class Pattern:
    """A layout of the codes of `frames` frames and `codebooks` codebooks on steps; step 0 is empty."""

    codebooks: int
    frames: int
    layout: tuple[tuple[Coordinate, ...], ...]

    @cached_property
    def delay(self) -> int:
        """How many frames the layout runs on past the last one."""
        return max(coordinate.frame for step in self.layout for coordinate in step) + 1 - self.frames

    def steps(self, mode: Mode = "full") -> int:
        """Return the number S of steps, the empty first one included."""
        return len(self.layout) if mode == "full" else len(self.layout) - self.delay

    @cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The first step that holds a code of each frame: where a continuation of so many frames begins."""
        first: dict[int, int] = {}
        for number, step in enumerate(self.layout):
            for coordinate in step:
                first.setdefault(coordinate.frame, number)
        return tuple(first[frame] for frame in range(self.frames))

    @cached_property
    def upcoming_frames(self) -> Int[Tensor, "S"]:
        """The latest frame that the step after each step of the whole layout holds, at most the last there is.

        This is what a frame-wise condition has to say at that step: its vector is there when the frame's first code is
        predicted. A step with no codes after it stays at the frame of the one before.
        """
        frames, latest = [], 0
        for following in (*self.layout[1:], ()):
            latest = min(max((coordinate.frame for coordinate in following), default=latest), self.frames - 1)
            frames.append(latest)
        return torch.tensor(frames)

    @lru_cache(maxsize=8)  # noqa: B019 - patterns are few, small and themselves cached
    def sequence_placement(self, mode: Mode = "full") -> Placement:
        """Find for each position [K, S] of the sequence the code of [K, T] that goes there."""
        steps = self.steps(mode)
        indexes = torch.full((self.codebooks, steps), self.codebooks * self.frames)
        for number, step in enumerate(self.layout[:steps]):
            for frame, codebook in step:
                if frame < self.frames:
                    indexes[codebook, number] = frame + codebook * self.frames
        return Placement(indexes, indexes < self.codebooks * self.frames)

    @lru_cache(maxsize=8)  # noqa: B019
    def frame_placement(self, steps: int, outputs: bool = False, mode: Mode = "full") -> Placement:
        """Find for each position [K, T] the value of a sequence of `steps` steps that belongs there.

        With `outputs` the sequence holds predictions: output s speaks of step s + 1, if the layout in `mode` has one.
        """
        indexes = torch.full((self.codebooks, self.frames), self.codebooks * steps)
        for number, step in enumerate(self.layout[int(outputs) : self.steps(mode)][:steps]):
            for frame, codebook in step:
                if frame < self.frames:
                    indexes[codebook, frame] = number + codebook * steps
        return Placement(indexes, indexes < self.codebooks * steps)

    def build(self, codes: Int[Tensor, "B K T"], special: int, mode: Mode = "full") -> Int[Tensor, "B K S"]:
        """Interleave codes; positions without a code hold the special token."""
        if codes.shape[1:] != (self.codebooks, self.frames):
            raise ValueError(f"expected codes [B, {self.codebooks}, {self.frames}], got {list(codes.shape)}")
        placement = self.sequence_placement(mode)
        padded = torch.cat([codes.flatten(1), codes.new_full((codes.shape[0], 1), special)], dim=1)
        return padded[:, placement.indexes.to(codes.device).flatten()].view(len(codes), self.codebooks, -1)

    def revert(self, sequence: Int[Tensor, "B K S"], special: int) -> Int[Tensor, "B K T"]:
        """Undo `build`; codes that the sequence does not hold become `special`."""
        self._check_steps(sequence.shape[1], sequence.shape[-1])
        placement = self.frame_placement(sequence.shape[-1])
        padded = torch.cat([sequence.flatten(1), sequence.new_full((sequence.shape[0], 1), special)], dim=1)
        return padded[:, placement.indexes.to(sequence.device).flatten()].view(len(sequence), self.codebooks, -1)

    def revert_outputs(
        self, outputs: Float[Tensor, "B K S V"], mode: Mode = "full", fill: float = float("nan")
    ) -> tuple[Float[Tensor, "B K T V"], Bool[Tensor, "K T"]]:
        """Bring predictions back to frames: values ([B, K, T, V], `fill` where there is none) and mask [K, T]."""
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
    """Make the pattern of the given keys, where codebook k runs to frame `ends[k]`."""
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
    """Lay steps without a code, as AudioCraft's patterns have where the least delay is above 0, before step `at`."""
    return layout[:at] + ((),) * steps + layout[at:]


def _codebook_ends(frames: int, delays: tuple[int, ...]) -> list[int]:
    """Let all codebooks end on the same step: those with less delay run on past the last frame."""
    return [frames + max(delays) - delay for delay in delays]


@lru_cache(maxsize=64)
def delayed(frames: int, delays: tuple[int, ...], flatten_first: int = 0, empty_initial: int = 0) -> Pattern:
    """Lay codebook k `delays[k]` steps after the first; all zero is the parallel pattern.

    `flatten_first` frames come one code a step before that; `empty_initial` more empty steps open the sequence. As many
    steps as the least delay are empty.
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
    """Let codebooks of equal `flattening` share a step, the others get steps of their own within the frame."""
    _check_delays(delays, len(flattening))
    return _lay_out(
        len(delays),
        frames,
        _codebook_ends(frames, delays),
        lambda frame, codebook: (frame + delays[codebook], frame, flattening[codebook]),
    )


@lru_cache(maxsize=64)
def coarse_first(frames: int, delays: tuple[int, ...]) -> Pattern:
    """Lay out all of the first codebook, then the others with `delays` (one fewer than codebooks), after as many empty
    steps as the least of them."""
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
