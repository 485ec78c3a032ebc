"""Surveying FLAC: bytes inside a frame that look like a header are not taken for one."""

import pytest

from stages.audio.surveys.flac import frame_samples


@pytest.mark.parametrize("code", range(16))
def test_a_header_without_a_valid_checksum_is_not_a_frame(code):
    # The two bytes that begin a frame, then block size and rate, bits of a sample, and zeros. The reserved block size 0
    # occurs once in some thousand files.
    header = bytes([0xFF, 0xF8, code << 4 | 5, 0x08]) + bytes(12)
    assert frame_samples(header, 4096) is None
