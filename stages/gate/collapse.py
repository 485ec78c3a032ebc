"""Collapse: detecting, from the codes, a language model that stops composing and holds one frame or repeats a loop.

Loops of more than two seconds do not count: music repeats its bars intentionally. Loops are looked for in the first
codebook, which carries most of what is heard. The others refine it with some randomness, so a loop that sounds exact
need not be exact in them. A held frame must be held in all codebooks, because a long tone is one code in the first.
"""

import numpy as np
import numpy.typing as npt

LONGEST_LAG = 2.0
"""Longest lag of a loop, seconds; repetition after a longer lag counts as the music's own."""

Codes = npt.NDArray[np.uint16]
"""[K, T]."""

Flags = npt.NDArray[np.bool_]


def held_seconds(codes: Codes, frame_rate: float) -> float:
    """Return the duration of the longest stretch in which no code changes, s."""
    if not codes.shape[1]:
        return 0.0
    return (_longest_run((codes[:, 1:] == codes[:, :-1]).all(axis=0)) + 1) / frame_rate


def looped_seconds(codes: Codes, frame_rate: float) -> float:
    """Return the duration, s, of the longest stretch in which the first codebook repeats what it held at a fixed lag
    before, of two frames to two seconds. A stretch shorter than its lag does not count, because nothing is heard twice
    in it; nor does a single held code.
    """
    first, longest = codes[0], 0
    changes = np.append(True, first[1:] != first[:-1])
    for lag in range(2, min(round(LONGEST_LAG * frame_rate), len(first) - 1) + 1):
        run = _longest_run(first[lag:] == first[:-lag], with_any=changes[lag:])
        longest = max(longest, run if run >= lag else 0)
    return longest / frame_rate


def _longest_run(flags: Flags, with_any: Flags | None = None) -> int:
    """Return the length of the longest run of true flags. With `with_any`, only runs count in which it is true
    somewhere."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if with_any is not None:
        counts = np.concatenate([[0], np.cumsum(with_any)])
        alive = counts[ends] > counts[starts]
        starts, ends = starts[alive], ends[alive]
    return int((ends - starts).max(initial=0))
