"""Pictures of sounds: mel spectrograms as PNGs of a few kilobytes.

They are transparent where the sound is silent, so the same file suits a light page and a dark one."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image

from stages.audio import AudioError, read_audio
from stages.audio.spectrogram import log_spectrogram
from stages.pipeline.contract import Context, Reject

FOLDER = "report/pictures"
"""The folder of pictures in the store. Each file is named by the SHA-256 of its sound."""

WIDTH, HEIGHT = 320, 72
"""Size of a clip's picture in pixels: frames and mel bands."""

TALL_WIDTH, TALL_HEIGHT = 640, 128
"""Size in pixels of a picture that is compared with another one."""

SHADES = 16
"""Colours of the palette; a pixel takes half a byte."""

RANGE = 60.0
"""How far below the loudest point the picture reaches, dB; quieter points are transparent."""

RAMP = ((88, 86, 180, 0), (112, 84, 178, 150), (190, 80, 140, 225), (240, 132, 72, 255))
"""Red, green, blue and opacity from quiet to loud. The tones stand out from both white and black."""


@dataclass(frozen=True)
class SoundFile:
    """A sound file of the store that should get a picture."""

    key: str
    """The key of its reject, if it cannot be drawn."""
    path: str
    sha256: str
    width: int = WIDTH
    height: int = HEIGHT


def draw_pictures(context: Context, sounds: list[SoundFile], unit: str) -> tuple[dict[str, str], list[Reject]]:
    """Draw the pictures of sounds and return their file names by the sound's SHA-256.

    Pictures that exist are not drawn again. A sound whose file is gone or damaged is returned as a reject, and the page
    is made without it.
    """
    drawn = set(context.store.files(FOLDER))
    folders = {sound.path.rpartition("/")[0] for sound in sounds}
    paths = {f"{folder}/{name}" for folder in folders for name in context.store.files(folder)}
    pictures: dict[str, str] = {}
    rejects = []
    context.progress.start("report", len(sounds), unit)
    for sound in sounds:
        context.check_stopped()
        name = f"{sound.sha256[:32]}.png"
        try:
            if sound.path not in paths:
                raise AudioError("missing", f"expected a sound at {sound.path}, got nothing there")
            if name not in drawn:
                recording = read_audio(f"{context.store.url.rstrip('/')}/{sound.path}")
                picture = spectrogram_png(recording.samples, recording.sample_rate, sound.width, sound.height)
                context.store.write_bytes(f"{FOLDER}/{name}", picture)
                drawn.add(name)
            pictures[sound.sha256] = name
        except AudioError as error:
            rejects.append(Reject(sound.key, sound.path, error.kind, str(error)))
        context.progress.advance()
    return pictures, rejects


def spectrogram_png(
    samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int, width: int = WIDTH, height: int = HEIGHT
) -> bytes:
    """Return a sound as a PNG with a palette; time runs from left to right and pitch upwards.

    Args:
        samples: float32.
        sample_rate: Hz.
        width, height: pixels.

    Raises:
        ValueError: no samples, or a sample rate below 8 kHz.
    """
    mono = torch.from_numpy(samples).mean(0)
    seconds = max(len(mono), 1) / sample_rate
    decibels = log_spectrogram(mono, sample_rate, bands=height, frames_a_second=width / seconds, window_seconds=0.064)
    shades = ((decibels[:, :width] + RANGE) / RANGE).clamp(0, 1) * (SHADES - 1)
    pixels = shades.round().flip(0).to(torch.uint8).numpy()
    positions = np.linspace(0, len(RAMP) - 1, SHADES)
    colours = np.stack([np.interp(positions, range(len(RAMP)), channel) for channel in zip(*RAMP, strict=True)], axis=1)
    colours = colours.round().astype(np.uint8)
    image = Image.frombytes("P", (pixels.shape[1], height), pixels.tobytes())
    image.putpalette(colours[:, :3].tobytes())
    png = io.BytesIO()
    image.save(png, "PNG", transparency=colours[:, 3].tobytes(), bits=4, optimize=True)
    return png.getvalue()
