"""Recordings of every format, made here, and ways to break them."""

import io
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100


def tones(seconds: float = 2.0, seed: int = 0, sample_rate: int = RATE, channels: int = 2) -> np.ndarray:
    """A chord that swells and fades, another for every seed: float32 [C, N], peak 0.5."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    hertz = 110 * 2 ** (np.random.default_rng(seed).integers(0, 36, 4) / 12)
    sound = np.stack(
        [sum(np.sin(2 * np.pi * one * time + channel) for one in hertz) for channel in range(channels)]
    ) * np.sin(np.pi * np.clip(time / max(seconds, 1e-9), 0.05, 0.95))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def encoded(format: str, samples: np.ndarray, sample_rate: int = RATE, subtype: str | None = None) -> bytes:
    """The bytes of a file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, sample_rate, format=format, subtype=subtype)
    return file.getvalue()


def encoded_by_ffmpeg(format: str, codec: str, samples: np.ndarray, sample_rate: int = RATE) -> bytes:
    """The bytes of a file that FFmpeg writes: `mp4` with `aac` or `alac`, `adts`, `asf`, `webm`."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        layout = "stereo" if samples.shape[0] == 2 else "mono"
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        stream.bit_rate = 128_000
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
    """Write a file and give its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def without_first_mpeg_frame(data: bytes) -> bytes:
    """An MP3 without its Xing frame, as streams and old encoders leave it."""
    from stages.audio.containers import frame_bytes

    length = frame_bytes(data[:6])
    assert length is not None
    return data[length:]
