"""A small picture of a sound: its mel spectrogram as a PNG of a few kilobytes that is transparent where nothing sounds,
so that the same file suits a light page and a dark one."""

import struct
import zlib

import numpy as np
import torch

from stages.audio.spectrogram import log_spectrogram

WIDTH, HEIGHT = 320, 72
"""Pixels of a clip's picture: moments and mel bands."""

WIDE, HIGH = 640, 128
"""Those of a picture that another is to be compared with."""

SHADES = 16
"""Colours of the palette: a pixel takes half a byte."""

RANGE = 60.0
"""Decibels below the loudest point that are drawn; what is quieter stays transparent."""

RAMP = ((88, 86, 180, 0), (112, 84, 178, 150), (190, 80, 140, 225), (240, 132, 72, 255))
"""Red, green, blue and opacity from quiet to loud: tones that stand out from white and from black."""


def spectrogram_png(samples: np.ndarray, sample_rate: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A PNG of a sound, time from left to right and pitch upwards.

    Args:
        samples: float32 [C, N].
        sample_rate: Hz.
        width, height: pixels.

    Raises:
        ValueError: no samples, or a sample rate below 8 kHz.
    """
    mono = torch.from_numpy(samples).mean(0)
    seconds = max(len(mono), 1) / sample_rate
    picture = log_spectrogram(mono, sample_rate, bands=height, frames_a_second=width / seconds, window_seconds=0.064)
    levels = ((picture[:, :width] + RANGE) / RANGE).clamp(0, 1) * (SHADES - 1)
    return _png(levels.round().flip(0).to(torch.uint8).numpy())


def _png(levels: np.ndarray) -> bytes:
    """A palette PNG (W3C PNG, 2003) of a [height, width] array of palette indices below 16."""
    height, width = levels.shape
    levels = np.pad(levels, ((0, 0), (0, width % 2)))
    packed = (levels[:, 0::2] << 4) | levels[:, 1::2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1)  # each line says first: unfiltered
    places = np.linspace(0, len(RAMP) - 1, SHADES)
    colours = np.stack([np.interp(places, range(len(RAMP)), channel) for channel in zip(*RAMP, strict=True)], axis=1)
    colours = colours.round().astype(np.uint8)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)),
            _chunk(b"PLTE", colours[:, :3].tobytes()),
            _chunk(b"tRNS", colours[:, 3].tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
