"""A gate that lets everything pass, for worlds whose untrained models make noise.

The limits are listed here by name, because this module is imported before the tests' own tools look at the packages,
and so must not import any of them.
"""

_NAMES = (
    *("head_silence", "tail_silence", "silent_share", "zeros", "loudness", "clipping", "true_peak", "dc", "end_noise"),
    *("seconds", "seam", "held", "looped"),
)

OPEN_LIMITS = dict.fromkeys(_NAMES)
"""The limits for `gate.limits`."""

OPEN_GATE = {f"gate.limits.{name}": "null" for name in _NAMES}
"""The limits for `--set`."""
