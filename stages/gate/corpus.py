"""Measuring recordings for the gate: where a corpus lies against each limit, what would fail, and which limits to use.

Recordings are measured whole and in excerpts as long as clips. Their sound is that of the decoded files, not of a
codec's output. The measures of codes (`held`, `looped`) are only taken if a codec is given.
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
"""Moments in each excerpt that are measured as if decoding windows met there."""

ROOM = 1.25
"""Factor by which a suggested limit exceeds the value that should pass."""


SILENT = -70.0
"""Loudness, LUFS, used for sound without a loudness (the absolute gate of ITU-R BS.1770)."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a recording, and its measures."""

    name: str
    begin: float
    """Start in the recording, s; 0 for a whole recording."""
    is_whole: bool
    measures: Measures
    reasons: tuple[str, ...]
    """The limits that it does not keep, in a sentence each."""


@dataclass(frozen=True)
class LimitSummary:
    """Where the excerpts lie against one limit."""

    limit: str
    is_floor: bool
    """Whether the limit is the least that passes, not the most."""
    value: float | None
    """The current limit; None if it is off."""
    measured: int
    """Number of excerpts that have this measure."""
    median: float
    furthest_passing: float | None
    """Largest measure (smallest, for a floor) of the excerpts that keep all limits; None if there are none."""
    furthest: float
    """Largest measure (smallest, for a floor) of all excerpts."""
    furthest_name: str
    failing: int
    """Number of excerpts that do not keep this limit."""
    suggested: float | None
    """The current limit if the asked share of excerpts keeps it, else a limit that they keep with room. None, which
    turns the limit off, if silence should pass."""

    @property
    def is_other(self) -> bool:
        """Whether the suggested limit differs from the current one."""
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
"""For each limit, the measure that is compared with it. Limits on what a request asks for have no measure in a
recording."""

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
    """Yield the measures of a recording, whole and in excerpts.

    Args:
        samples: [C, N].
        codec: the codec whose codes are measured too; None leaves their measures out.
        seconds: length of an excerpt; a recording that is not longer is measured only whole.
        step: seconds from the start of one excerpt to that of the next.
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

        samples = convert_audio(part, sample_rate, codec.sample_rate, codec.channels)
        codes, frame_rate = codec.encode_track(torch.from_numpy(samples)).cpu().numpy(), codec.frame_rate
    seconds = part.shape[1] / sample_rate
    borders = [seconds * number / (BORDERS + 1) for number in range(1, BORDERS + 1)]
    return measure_try(part, sample_rate, codes, frame_rate, borders)


def summarise(excerpts: Sequence[Excerpt], limits: Limits, share: float) -> list[LimitSummary]:
    """Summarise for each limit where the excerpts lie, how many fail it, and which limit would let a share of them
    pass.

    Args:
        share: share of the excerpts that should pass: 1 for all, less if some are known to be bad.
    """
    return [each for name in _MEASURES if (each := _summary(name, excerpts, limits, share)) is not None]


def _summary(name: str, excerpts: Sequence[Excerpt], limits: Limits, share: float) -> LimitSummary | None:
    """Return the summary of one limit; None if no excerpt has its measure."""
    values = [(value, each) for each in excerpts if (value := _MEASURES[name](each.measures)) is not None]
    if not values:
        return None
    is_floor, limit = name in FLOORS, getattr(limits, name)
    values.sort(key=lambda pair: pair[0], reverse=is_floor)
    furthest, owner = values[-1]
    # The excerpts are sorted so that those that may fail come after those that should pass.
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
    """Return whether one measure of an excerpt of the given length, s, does not keep its limit."""
    if limit is None:
        return False
    if name == "silent_share":
        return value * seconds > max(SHORTEST_SILENCE, limit * seconds)
    return value < limit if name in FLOORS else value > limit


def _beyond(value: float, is_floor: bool, bounds: Sequence[object]) -> float | None:
    """Return a limit of two digits that exceeds a value by a quarter, within the bounds of the knob; None for a floor
    if the value is silence."""
    if is_floor and value <= SILENT:
        return None
    target = value - (ROOM - 1) * abs(value) if is_floor else value + (ROOM - 1) * abs(value)
    unit = 10 ** (math.floor(math.log10(abs(target))) - 1) if target else 1.0
    rounded = (math.floor if is_floor else math.ceil)(target / unit) * unit
    least = max((bound.ge for bound in bounds if hasattr(bound, "ge")), default=-math.inf)
    most = min((bound.le for bound in bounds if hasattr(bound, "le")), default=math.inf)
    return float(f"{min(max(rounded, least), most):.6g}")
