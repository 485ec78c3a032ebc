"""Measuring recordings for the gate: where a corpus lies against each limit, what would fail, and which limits it
suggests.

Recordings are measured whole and in excerpts as long as clips, as decoded files rather than as a codec gives them back.
Of what a codec's codes are judged by (`held`, `looped`) nothing is said unless one is named.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.audio import Samples, convert_audio
from stages.gate.config import Limits
from stages.gate.judging import SHORTEST_SILENCE, reasons_against
from stages.gate.measuring import Measures, measure_try

if TYPE_CHECKING:
    from stages.checkpoints.codecs import AnyCodec

BORDERS = 6
"""Moments of each stretch of sound at which seams are looked for, as if decoding windows met there."""

ROOM = 1.25
"""How far a limit that is suggested lies beyond what is to pass."""


SILENT = -70.0
"""LUFS of what has no loudness (the absolute gate of ITU-R BS.1770)."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a recording, measured."""

    name: str
    begin: float
    """Seconds; 0 of a whole recording."""
    is_whole: bool
    measures: Measures
    reasons: tuple[str, ...]
    """What it does not keep, a sentence each."""


@dataclass(frozen=True)
class LimitSummary:
    """Where the excerpts lie against one limit."""

    limit: str
    is_floor: bool
    """The limit is the least that passes, and not the most."""
    value: float | None
    """The limit; None where it is off."""
    measured: int
    """Excerpts that have such a measure."""
    median: float
    furthest_passing: float | None
    """The largest measure, or the least of a floor, among those that keep all limits; None where none does."""
    furthest: float
    """The same among all."""
    furthest_name: str
    failing: int
    suggested: float | None
    """The limit as it is where the asked share of excerpts keeps it, else one that they keep with room; None, which
    turns it off, where silence is to pass."""

    @property
    def is_other(self) -> bool:
        """Whether another limit is suggested than there is."""
        return self.suggested != self.value


_MEASURES: dict[str, Callable[[Measures], float | None]] = {
    "head_silence": lambda measures: measures.head_silence,
    "tail_silence": lambda measures: measures.tail_silence,
    "silent_share": lambda measures: max(measures.head_silence, measures.tail_silence) / measures.seconds,
    "zeros": lambda measures: measures.zeros,
    "loudness": lambda measures: SILENT if measures.loudness is None else measures.loudness,
    "clipping": lambda measures: measures.clipping_runs,
    "true_peak": lambda measures: measures.true_peak,
    "dc": lambda measures: measures.dc,
    "end_noise": lambda measures: measures.end_noise,
    "seam": lambda measures: measures.seam,
    "held": lambda measures: measures.held_seconds,
    "looped": lambda measures: measures.looped_seconds,
}
"""A limit -> what it is held against. What a request asks for has no measure in a recording."""

FLOORS = ("loudness",)
"""Limits that are the least that passes."""


def measure_recording(
    name: str,
    samples: Samples,
    sample_rate: int,
    limits: Limits,
    codec: "AnyCodec | None" = None,
    seconds: float = 10.0,
    step: float = 5.0,
) -> Iterator[Excerpt]:
    """Measure a recording whole and in excerpts.

    Args:
        samples: [C, N].
        codec: through which its codes are judged; None leaves them out.
        seconds: length of an excerpt; a recording that is no longer is measured whole alone.
        step: from the begin of one excerpt to that of the next, seconds.
    """
    length = samples.shape[1] / sample_rate
    starts = np.arange(0, length - seconds + 1e-9, step).tolist() if length > seconds else []
    for begin, end in ((0.0, length), *((start, start + seconds) for start in starts)):
        part = samples[:, round(begin * sample_rate) : round(end * sample_rate)]
        if not part.shape[1]:
            continue
        measures = _measure(part, sample_rate, codec)
        reasons = tuple(reasons_against(measures, limits, measures.seconds))
        yield Excerpt(name, begin, end - begin == length, measures, reasons)


def _measure(part: Samples, sample_rate: int, codec: "AnyCodec | None") -> Measures:
    codes, frame_rate = None, 1.0
    if codec is not None:
        import torch

        heard = convert_audio(part, sample_rate, codec.sample_rate, codec.channels)
        codes, frame_rate = codec.encode_track(torch.from_numpy(heard)).cpu().numpy(), codec.frame_rate
    seconds = part.shape[1] / sample_rate
    borders = [seconds * number / (BORDERS + 1) for number in range(1, BORDERS + 1)]
    return measure_try(part, sample_rate, codes, frame_rate, borders)


def summarise(excerpts: Sequence[Excerpt], limits: Limits, share: float) -> list[LimitSummary]:
    """Say for each limit where excerpts lie, how many fail it, and which limit would let a share of them pass.

    Args:
        share: of the excerpts, how many are to pass: 1 for all, less where some are known to be bad.
    """
    return [each for name in _MEASURES if (each := _summary(name, excerpts, limits, share)) is not None]


def _summary(name: str, excerpts: Sequence[Excerpt], limits: Limits, share: float) -> LimitSummary | None:
    values = [(value, each) for each in excerpts if (value := _MEASURES[name](each.measures)) is not None]
    if not values:
        return None
    is_floor, limit = name in FLOORS, getattr(limits, name)
    values.sort(key=lambda pair: pair[0], reverse=is_floor)
    furthest, owner = values[-1]
    # The first that may fail lies behind those that are to pass.
    kept = values[max(0, math.ceil(share * len(values)) - 1)][0]
    passes = limit is None or (kept >= limit if is_floor else kept <= limit)
    return LimitSummary(
        limit=name,
        is_floor=is_floor,
        value=limit,
        measured=len(values),
        median=float(np.median([value for value, _ in values])),
        furthest_passing=next((value for value, each in reversed(values) if not each.reasons), None),
        furthest=furthest,
        furthest_name=f"{owner.name} at {owner.begin:g} s" if not owner.is_whole else owner.name,
        failing=sum(_fails(name, value, limit, each.measures.seconds) for value, each in values),
        suggested=limit if passes else _beyond(kept, is_floor, Limits.model_fields[name].metadata),
    )


def _fails(name: str, value: float, limit: float | None, seconds: float) -> bool:
    """Return whether a measure of a stretch of so many seconds does not keep a limit, by itself."""
    if limit is None:
        return False
    if name == "silent_share":
        return value * seconds > max(SHORTEST_SILENCE, limit * seconds)
    return value < limit if name in FLOORS else value > limit


def _beyond(value: float, is_floor: bool, bounds: Sequence[object]) -> float | None:
    """Return a limit of two digits, a quarter beyond a value and within what the knob may be; None beyond silence."""
    if is_floor and value <= SILENT:
        return None
    target = value - (ROOM - 1) * abs(value) if is_floor else value + (ROOM - 1) * abs(value)
    unit = 10 ** (math.floor(math.log10(abs(target))) - 1) if target else 1.0
    rounded = (math.floor if is_floor else math.ceil)(target / unit) * unit
    least = max((bound.ge for bound in bounds if hasattr(bound, "ge")), default=-math.inf)
    most = min((bound.le for bound in bounds if hasattr(bound, "le")), default=math.inf)
    return float(f"{min(max(rounded, least), most):.6g}")
