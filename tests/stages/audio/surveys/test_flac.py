"""Surveying FLAC: what only looks like a frame, in the midst of one, is none."""

import pytest

from stages.audio.surveys.flac import frame_place


@pytest.mark.parametrize("code", range(16))
def test_bytes_that_look_like_a_header_and_have_no_checksum_are_no_frame_whatever_they_say(code):
    # The two bytes of a frame's beginning, then block size and rate, bits of a sample, and zeros: the reserved block
    # size 0 is met once in some thousand files.
    header = bytes([0xFF, 0xF8, code << 4 | 5, 0x08]) + bytes(12)
    assert frame_place(header, 4096) is None
