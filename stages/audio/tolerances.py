"""How much the content of a file may differ from what its header claims: one table for all formats and readers."""

from stages.audio.locations import AudioError

TOLERATED_SECONDS = 0.05
"""Seconds by which a claim and the content may differ without a warning: two MPEG frames, by which encoders
miscount."""

MISSING_SAMPLES = 4608
"""Samples of the claimed length that may be missing, with a warning: four MPEG frames."""

MISSING_SECONDS = 0.5
"""Seconds that may be missing, with a warning, for containers whose durations are rounded and include the encoder's
padding."""

MISSING_SHARE = 0.25
"""Largest share of the claimed length that may be missing, for recordings so short that the limits above would be half
of them."""

MISSING_BYTES = 0.01
"""Share of a container's last part, in bytes, that may be missing, for containers whose survey counts no samples."""

MAX_DAMAGE = 0.01
"""Share of a recording that may be silence in place of damaged sound."""

MAX_GAP_SECONDS = 60.0
"""Longest gap in a container's timestamps, seconds, that counts as lost sound; a longer gap is an error of the
timestamps."""

JUNK_BYTES = 1024
"""Bytes outside a container's structure that need no warning: tags and padding."""

RESTORE = "get it again from its source, or encode it again with a player or FFmpeg to keep what is left"
"""Advice, in messages, on how to make a cut or damaged file usable."""


def compare_length(claimed: int, present: int, sample_rate: int, is_rounded: bool = False) -> str | None:
    """Compare the number of samples that a header claims with the number that the file holds.

    Args:
        is_rounded: whether the claim is a rounded duration.

    Returns:
        a warning; None if the two agree.

    Raises:
        AudioError: so many samples are missing that the file was cut short.
    """
    missing = claimed - present
    if abs(missing) <= TOLERATED_SECONDS * sample_rate:
        return None
    allowed = MISSING_SECONDS * sample_rate if is_rounded else MISSING_SAMPLES
    lengths = f"{_duration(claimed, sample_rate)} by its header, got {_duration(present, sample_rate)}"
    if missing > min(allowed, MISSING_SHARE * claimed):
        raise AudioError("truncated", f"expected {lengths} that can be decoded: the file was cut short; {RESTORE}")
    return f"expected {lengths}: used what is there"


def _duration(frames: int, sample_rate: int) -> str:
    seconds = frames / max(1, sample_rate)
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:,.1f} s"
