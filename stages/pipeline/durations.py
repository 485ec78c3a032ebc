"""Times as a person says them."""


def duration(seconds: float) -> str:
    """Return a time in the unit that a person would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"
