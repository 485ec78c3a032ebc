"""A gate that lets everything pass, for worlds whose models have learned nothing and make noise.

The limits stand here by name: this is read before the tests' own tools look at the packages, and imports none of them.
"""

_NAMES = (
    *("head_silence", "tail_silence", "silent_share", "zeros", "loudness", "clipping", "true_peak", "dc", "end_noise"),
    *("seconds", "seam", "held", "looped"),
)

OPEN_LIMITS = dict.fromkeys(_NAMES)
"""As `gate.limits` takes it."""

OPEN_GATE = {f"gate.limits.{name}": "null" for name in _NAMES}
"""As `--set` takes it."""
