"""How far what a file claims and what it holds may differ: one table, for all formats and all readers of sound."""

from stages.audio.locations import AudioError

UNSAID_SECONDS = 0.05
"""Seconds by which a claim and the bytes may differ without a word: two MPEG frames, which encoders miscount by."""

MISSING_SAMPLES = 4608
"""Samples that may be lacking of what a header claims, with a warning: four MPEG frames."""

MISSING_SECONDS = 0.5
"""The same, in seconds, for containers whose durations are rounded and count the encoder's padding."""

MISSING_SHARE = 0.25
"""Share of the claim that may be lacking at most, for recordings so short that the above would be half of them."""

MISSING_BYTES = 0.01
"""Share of a container's bytes that may be lacking, where a cut file's claim of its length is not to be had."""

MAX_DAMAGE = 0.01
"""Share of a recording that may be silence in place of damage."""

MAX_GAP_SECONDS = 60.0
"""A longer jump of a container's clock is a broken clock, and no lost sound."""

JUNK_BYTES = 1024
"""Bytes outside of a container's structure that are not worth a word: tags and padding."""

RESTORE = "get it again from where it came, or have a player or FFmpeg write it anew to keep what is left"
"""What makes a cut or damaged file usable."""


def compare_length(claimed: int, present: int, sample_rate: int, is_rounded: bool = False) -> str | None:
    """Compare the samples that a header claims with those that the file holds.

    Args:
        is_rounded: the claim is a rounded duration.

    Returns:
        what is odd, None where they agree.

    Raises:
        AudioError: so much is lacking that the file was cut short.
    """
    missing = claimed - present
    if abs(missing) <= UNSAID_SECONDS * sample_rate:
        return None
    allowed = MISSING_SECONDS * sample_rate if is_rounded else MISSING_SAMPLES
    lengths = f"{_duration(claimed, sample_rate)} by its header, got {_duration(present, sample_rate)}"
    if missing > min(allowed, MISSING_SHARE * claimed):
        raise AudioError("truncated", f"expected {lengths} that can be decoded: the file was cut short; {RESTORE}")
    return f"expected {lengths}: all that is there was taken"


def _duration(frames: int, sample_rate: int) -> str:
    seconds = frames / max(1, sample_rate)
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds:,.1f} s"
