"""What signal processing detects in a recording: beats and bars, chords, key, and what it is a copy of.

Each detector is a function from mono samples to a small dataclass: no model to load, no randomness, no torch. So the
stages `rhythm` and `harmony`, and whoever scores a clip, call the same one.

```
rhythm = find_rhythm(samples, sample_rate, bpm=96.0)     # samples float32 [N]; the tempo is a hint and may be left out
rhythm.beats, rhythm.downbeats, rhythm.beats_per_bar, rhythm.bpm, rhythm.confidence
harmony = find_harmony(samples, sample_rate, rhythm.beats, rhythm.downbeats)    # the beats may be left out
harmony.chords[0].start, .end, .root, .quality, .bass, .confidence
harmony.key.name, harmony.key.confidence                 # "A minor", 0.91; None where nothing has a pitch

print_ = take_print(samples)                             # at 8 kHz; peaks of the spectrum, two small numbers each
passage = compare(print_, take_print(others))            # .begin, .other_begin, .seconds, .share; None: no copy
```

How well they hear is measured against the demo's pieces, whose truth is known: docs/analysis.md.
"""

from stages.analysis.chords import Chord
from stages.analysis.copies import Passage, PrintIndex, compare
from stages.analysis.harmony import Harmony, find_harmony
from stages.analysis.keys import Key
from stages.analysis.prints import Print, take_print
from stages.analysis.rhythm import Rhythm, find_rhythm

__all__ = [
    "Chord",
    "Harmony",
    "Key",
    "Passage",
    "Print",
    "PrintIndex",
    "Rhythm",
    "compare",
    "find_harmony",
    "find_rhythm",
    "take_print",
]
