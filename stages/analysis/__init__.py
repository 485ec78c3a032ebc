"""What signal processing detects in a recording: beats and bars, chords, key, and what it is a copy of.

Each detector is a function from mono samples to a small dataclass: no model to load, no randomness, no torch. So the
stages `rhythm` and `harmony` use the same functions as the scoring of clips.

```
rhythm = find_rhythm(samples, sample_rate, bpm=96.0)     # samples float32 [N]; the tempo is an optional hint
rhythm.beats, rhythm.downbeats, rhythm.beats_per_bar, rhythm.bpm, rhythm.confidence
harmony = find_harmony(samples, sample_rate, rhythm.beats, rhythm.downbeats)    # the beats are optional
harmony.chords[0].start, .end, .root, .quality, .bass, .confidence
harmony.key.name, harmony.key.confidence                 # "A minor", 0.91; key is None if nothing has a pitch

print_ = take_print(samples)                             # at 8 kHz; peaks of the spectrum, two small numbers each
passage = compare(print_, take_print(others))            # .begin, .other_begin, .seconds, .share; None: no copy
```

docs/analysis.md says how accurate the detectors are, measured on the demo's pieces, whose true values are known.
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
