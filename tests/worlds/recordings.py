"""Recordings of every format, made here, and ways to break them."""

import io
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100


def tones(seconds: float = 2.0, seed: int = 0, sample_rate: int = RATE, channels: int = 2) -> np.ndarray:
    """A chord that swells and fades, a different one for every seed: float32 [C, N], peak 0.5."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    hertz = 110 * 2 ** (np.random.default_rng(seed).integers(0, 36, 4) / 12)
    sound = np.stack(
        [sum(np.sin(2 * np.pi * one * time + channel) for one in hertz) for channel in range(channels)]
    ) * np.sin(np.pi * np.clip(time / max(seconds, 1e-9), 0.05, 0.95))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def encoded(format: str, samples: np.ndarray, sample_rate: int = RATE, subtype: str | None = None) -> bytes:
    """The bytes of a file written by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, sample_rate, format=format, subtype=subtype)
    return file.getvalue()


def encoded_by_ffmpeg(
    format: str, codec: str, samples: np.ndarray, sample_rate: int = RATE, bit_rate: int = 128_000
) -> bytes:
    """The bytes of a file written by FFmpeg: `mp4` with `aac` or `alac`, `adts`, `asf`, `webm`, `mp3`."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        layout = "stereo" if samples.shape[0] == 2 else "mono"
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(stream.codec_context.format, layout, sample_rate)
        queue = av.AudioFifo()
        for converted in resampler.resample(frame):
            queue.write(converted)
        while (part := queue.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def write(path: Path, data: bytes) -> str:
    """Write a file and return its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def without_first_mpeg_frame(data: bytes) -> bytes:
    """An MP3 without its Xing frame, as streams and old encoders produce it."""
    from stages.audio.containers import frame_bytes

    length = frame_bytes(data[:6])
    assert length is not None
    return data[length:]


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """The file with other bytes at an offset."""
    return data[:offset] + value + data[offset + len(value) :]


def with_garbage(data: bytes, start: int, count: int) -> bytes:
    """The file with random bytes over some of its own."""
    return patched(data, start, np.random.default_rng(0).bytes(count))


def with_mpeg_count(data: bytes, frames: int) -> bytes:
    """An MP3 whose header frame claims another number of frames."""
    place = max(data.find(b"Xing"), data.find(b"Info"))
    assert place >= 0
    return patched(data, place + 8, frames.to_bytes(4, "big"))


def with_wav_size(data: bytes, size: int) -> bytes:
    """A WAV whose chunk of samples claims another size."""
    return patched(data, data.index(b"data") + 4, size.to_bytes(4, "little"))


def as_piped_flac(data: bytes) -> bytes:
    """A FLAC of an encoder that writes into a pipe: no number of samples, no digest."""
    return patched(patched(data, 21, bytes([data[21] & 0xF0]) + bytes(4)), 26, bytes(16))


def ogg_pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    pages = []
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        pages.append(data[:size])
        data = data[size:]
    return pages


def ogg_page(page: bytes, flags: int) -> bytes:
    """An Ogg page with other flags, and its checksum by the book (RFC 3533, appendix)."""
    page = page[:5] + bytes([flags]) + page[6:22] + bytes(4) + page[26:]
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    return page[:22] + checksum.to_bytes(4, "little") + page[26:]
