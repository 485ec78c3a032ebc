"""Encoding clips: float samples to the bytes of a FLAC, WAV, MP3 or Ogg Vorbis file, with tags.

The same samples and tags give the same bytes on the same machine, so a run that was killed and repeated ends with the
same files as one that was not.
"""

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile

from stages.audio.marks import TAG, SourceType, with_wav_marks, xmp_packet
from stages.audio.samples import Samples

AudioFormat = Literal["flac", "wav", "mp3", "ogg"]

BLOCK = 2**14
"""Samples per channel given to an encoder in one call: libvorbis overflows its stack if it gets minutes of sound."""

_ENCODINGS = {
    "flac": ("FLAC", "PCM"),
    "wav": ("WAV", "PCM"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}
MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_ID3_FRAMES = {
    "title": "TIT2",
    "artist": "TPE1",
    "album": "TALB",
    "genre": "TCON",
    "bpm": "TBPM",
    "key": "TKEY",
    "date": "TDRC",
    "copyright": "TCOP",
}


def encode_audio(
    samples: Samples,
    sample_rate: int,
    format: AudioFormat,
    tags: Mapping[str, str] | None = None,
    bits: Literal[16, 24] = 16,
    source: SourceType | None = None,
) -> bytes:
    """Encode float samples [C, N] in [-1, 1]. FLAC and WAV are rounded to `bits`; MP3 and Ogg Vorbis use their
    encoders' defaults.

    Args:
        tags: values by name (`title`, `artist`, `description`, or any other name), written as Vorbis comments or ID3.
        source: how the sound was made, written in every place that the format has for it; None for sound that was not
            made here, such as an excerpt of a recording.

    Raises:
        ValueError: the samples are empty, not finite or beyond full scale, or the format cannot hold them.
    """
    if format not in _ENCODINGS:
        raise ValueError(f"expected one of {', '.join(_ENCODINGS)}, got {format!r}")
    if samples.ndim != 2 or not samples.size:
        raise ValueError(f"expected samples [channels, samples], got the shape {samples.shape}")
    peak = float(np.abs(samples).max())
    if not peak <= 1:
        raise ValueError(f"expected samples in [-1, 1], got a peak of {peak:g}: lower it first, or it would clip")
    if format == "mp3" and (sample_rate not in MP3_RATES or samples.shape[0] > 2):
        got = f"{samples.shape[0]} channels at {sample_rate} Hz"
        raise ValueError(f"expected one or two channels at one of {MP3_RATES} Hz for MP3, got {got}")
    container, encoding = _ENCODINGS[format]
    is_pcm = encoding == "PCM"
    encoding = f"PCM_{bits}" if is_pcm else encoding
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate, samples.shape[0], encoding, format=container) as encoder:
        for start in range(0, samples.shape[1], BLOCK):
            block = np.ascontiguousarray(samples[:, start : start + BLOCK].T)
            encoder.write(_rounded(block, bits) if is_pcm else block)
    if tags or source:
        _write_tags(file, format, {**(tags or {}), **({TAG: str(source)} if source else {})}, source)
    data = file.getvalue()
    if format == "wav" and source:
        return with_wav_marks(data, source)
    return _with_serial(data, 1) if format == "ogg" else data


def _rounded(block: Samples, bits: int) -> npt.NDArray[np.int16] | npt.NDArray[np.int32]:
    """Round samples to integers of `bits`. 24-bit values are in the upper bits of 32, as libsndfile expects them."""
    if bits == 16:
        short: npt.NDArray[np.int16] = np.rint(block * 32_767).astype(np.int16)
        return short
    integers: npt.NDArray[np.int32] = np.rint(block.astype(np.float64) * (2**23 - 1)).astype(np.int32) << 8
    return integers


def _write_tags(file: io.BytesIO, format: AudioFormat, tags: Mapping[str, str], source: SourceType | None) -> None:
    """Write tags into an encoded file: as Vorbis comments in FLAC and Ogg, as ID3 in MP3 and WAV."""
    file.seek(0)
    if format in ("flac", "ogg"):
        from mutagen.flac import FLAC
        from mutagen.oggvorbis import OggVorbis

        opened = FLAC(file) if format == "flac" else OggVorbis(file)
        for name, value in tags.items():
            opened[name] = value
        file.seek(0)
        opened.save(file)
    else:
        from mutagen.id3 import COMM, PRIV, TXXX, Frame, Frames
        from mutagen.mp3 import MP3
        from mutagen.wave import WAVE

        framed: Any = MP3(file) if format == "mp3" else WAVE(file)
        framed.add_tags()
        for name, value in tags.items():
            frame: Frame
            if name == "description":
                frame = COMM(encoding=3, lang="eng", desc="", text=[value])
            elif name in _ID3_FRAMES:
                frame = Frames[_ID3_FRAMES[name]](encoding=3, text=[value])
            else:
                frame = TXXX(encoding=3, desc=name, text=[value])
            framed.tags.add(frame)
        if source and format == "mp3":
            framed.tags.add(PRIV(owner="XMP", data=xmp_packet(source)))
        file.seek(0)
        framed.save(file)


def _with_serial(data: bytes, serial: int) -> bytes:
    """Return the same Ogg file with `serial` as its stream number. Encoders draw this number at random, so without this
    two encodings of the same clip would differ."""
    from mutagen.ogg import OggPage

    file, pages = io.BytesIO(data), []
    while file.tell() < len(data):
        page = OggPage(file)
        page.serial = serial
        pages.append(page.write())
    return b"".join(pages)
