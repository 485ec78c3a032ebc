"""Durations as text, such as `45 s` or `1.5 h`."""


def duration(seconds: float) -> str:
    """Return a duration, given in seconds, as text in seconds, minutes or hours, whichever suits its length."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"
