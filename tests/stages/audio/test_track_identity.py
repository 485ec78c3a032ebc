"""Identity: retagging keeps it, other sound changes it, and damaged or joined files get another."""

import base64
import io
import struct
from functools import lru_cache

import mutagen
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, TIT2, ID3NoHeaderError
from mutagen.mp4 import MP4, MP4Cover

from stages.audio import AudioError
from stages.audio.identity import track_identity
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones

FORMATS = {
    "wav": lambda sound: encoded("WAV", sound),
    "aiff": lambda sound: encoded("AIFF", sound),
    "flac": lambda sound: encoded("FLAC", sound),
    "mp3": lambda sound: encoded("MP3", sound),
    "ogg": lambda sound: encoded("OGG", sound),
    "opus": lambda sound: encoded("OGG", sound, 48_000, "OPUS"),
    "m4a": lambda sound: encoded_by_ffmpeg("mp4", "aac", sound),
    "wma": lambda sound: encoded_by_ffmpeg("asf", "wmav2", sound),
    "aac": lambda sound: encoded_by_ffmpeg("adts", "aac", sound),
}


def _identity(data: bytes) -> str:
    return track_identity(io.BytesIO(data))


def _tagged(data: bytes, title: str, picture: bytes = bytes(50_000)) -> bytes:
    """The file with a title and a picture, or with a long text where pictures are impossible, so that pages and offsets
    move."""
    file = io.BytesIO(data)
    opened = mutagen.File(file)
    if opened.tags is None:
        opened.add_tags()
    if isinstance(opened.tags, mutagen.id3.ID3):
        opened.tags.setall("TIT2", [TIT2(encoding=3, text=[title])])
        opened.tags.setall("APIC", [APIC(encoding=3, mime="image/png", type=3, desc="", data=picture)])
    elif isinstance(opened, MP4):
        opened["\xa9nam"] = [title]
        opened["covr"] = [MP4Cover(picture, MP4Cover.FORMAT_PNG)]
    elif isinstance(opened.tags, mutagen.asf.ASFTags):
        opened["Title"] = [title]
        opened["Description"] = ["x" * (len(picture) // 5)]
    else:
        opened["title"] = [title]
        cover = Picture()
        cover.data, cover.mime = picture, "image/png"
        if isinstance(opened, FLAC):
            opened.add_picture(cover)
        else:
            opened["metadata_block_picture"] = [base64.b64encode(cover.write()).decode()]
    file.seek(0)
    opened.save(file)
    return file.getvalue()


def _untagged(data: bytes) -> bytes:
    """The file without any tags and pictures."""
    file = io.BytesIO(data)
    opened = mutagen.File(file)
    if isinstance(opened, FLAC):
        opened.clear_pictures()
    file.seek(0)
    opened.delete(file)
    return file.getvalue()


def _with_end_tags(data: bytes, title: str) -> bytes:
    """MPEG audio with ID3v1 after APEv2."""
    file = io.BytesIO(data)
    tags = APEv2()
    tags["Title"] = title or "none"
    tags.save(file)
    return file.getvalue() + b"TAG" + title.encode()[:30].ljust(125, b"\0")


def _with_chunks_after(data: bytes, text: bytes) -> bytes:
    """WAV with its INFO, or AIFF with its annotation, after the samples, and another program's own chunk."""
    text += b"\0" * (len(text) % 2)
    order, name, payload = ("<", b"LIST", b"INFOINAM" + struct.pack("<I", len(text)) + text)
    if data[:4] == b"FORM":
        order, name, payload = (">", b"ANNO", text)
    for chunk, content in ((name, payload), (b"xtra", text)):
        data += chunk + struct.pack(order + "I", len(content)) + content
    return data[:4] + struct.pack(order + "I", len(data) - 8) + data[8:]


@lru_cache
def _example(name: str) -> bytes:
    return FORMATS[name](tones())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "aac"])
@settings(max_examples=12, deadline=None)
@given(
    titles=some.lists(some.text(some.characters(exclude_categories=["Cs", "Cc"]), max_size=200), max_size=3),
    picture=some.binary(min_size=1, max_size=200) | some.integers(1, 300_000).map(bytes),
)
def test_writing_changing_and_removing_tags_and_pictures_keeps_the_identity(name, titles, picture):
    data = tagged = _example(name)
    for title in titles:
        tagged = _tagged(tagged, title, picture)
        assert _identity(tagged) == _identity(data)
    assert _identity(_untagged(tagged)) == _identity(data)
    if name == "mp3":
        assert _identity(_with_end_tags(tagged, picture.hex()[:200])) == _identity(data)
    if name in ("wav", "aiff"):
        assert _identity(_with_chunks_after(tagged, picture)) == _identity(data)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "aac"])
def test_retagging_keeps_the_identity(name):
    data = _example(name)
    once = _tagged(data, "A")
    twice = _tagged(once, "Another title – longer", bytes(20_000))
    assert len({data, once, twice}) == 3
    assert _identity(data) == _identity(once) == _identity(twice)


@pytest.mark.parametrize("name", ["mp3", "aac"])
def test_tags_at_the_end_of_mpeg_audio_do_not_change_the_identity(name):
    data = FORMATS[name](tones())
    file = io.BytesIO(data)
    tags = APEv2()
    tags["Title"] = "x" * 1000
    tags.save(file)
    ape = file.getvalue()
    id3v1 = b"TAG" + b"title".ljust(125, b"\0")
    lyrics = b"LYRICSBEGIN" + b"IND0000200"
    lyrics += b"%06d" % len(lyrics) + b"LYRICS200"
    variants = [ape, data + id3v1, ape + id3v1, data + lyrics + id3v1, data + b"TAG+" + bytes(223) + id3v1]
    assert {_identity(variant) for variant in variants} == {_identity(data)}


@pytest.mark.parametrize("name", FORMATS)
def test_other_sound_has_another_identity(name):
    first, second = tones(seed=1), tones(seed=2)
    assert _identity(FORMATS[name](first)) != _identity(FORMATS[name](second))


def test_the_same_samples_in_other_containers_are_other_recordings():
    sound = tones()
    identities = [_identity(FORMATS[name](sound)) for name in ("wav", "aiff", "flac")]
    assert len(set(identities)) == 3


def test_flac_compressed_harder_is_the_same_recording_if_it_has_a_digest():
    import soundfile

    sound, files = tones(), []
    for level in (0.0, 1.0):
        file = io.BytesIO()
        soundfile.write(file, sound.T, 44_100, format="FLAC", compression_level=level)
        files.append(file.getvalue())
    assert files[0] != files[1]
    assert _identity(files[0]) == _identity(files[1])
    blank = [data[:26] + bytes(16) + data[42:] for data in files]
    assert len({_identity(files[0]), _identity(blank[0]), _identity(blank[1])}) == 3
    assert _identity(_tagged(blank[0], "A")) == _identity(blank[0])


def test_the_sample_rate_changes_the_identity():
    sound = np.zeros((1, 1000), np.float32)
    rates = [encoded("WAV", sound, rate, "PCM_16") for rate in (16_000, 48_000)]
    assert _identity(rates[0]) != _identity(rates[1])


def test_a_wav_keeps_its_identity_when_a_wrong_size_is_corrected():
    data = encoded("WAV", tones(0.1), subtype="PCM_16")
    position = data.index(b"data")
    for claim in (0, 0x7FFFF000, 0xFFFFFFFF, len(data) - position - 8 + 36):
        assert _identity(data[: position + 4] + struct.pack("<I", claim) + data[position + 8 :]) == _identity(data)


@pytest.mark.parametrize("name", FORMATS)
def test_joined_files_differ_from_their_first_file(name):
    data, other = FORMATS[name](tones(seed=1)), FORMATS[name](tones(seed=2))
    joined = {track_identity(io.BytesIO(files), is_clean=False) for files in (data + other, data + data, other + data)}
    assert len({_identity(data), *joined}) == 4


def test_the_digest_of_a_damaged_flac_is_not_trusted():
    data = bytearray(encoded("FLAC", tones()))
    whole = _identity(bytes(data))
    data[len(data) // 2] ^= 1
    assert track_identity(io.BytesIO(data)) == whole
    assert track_identity(io.BytesIO(data), is_clean=False) != whole


@pytest.mark.parametrize("name", FORMATS)
def test_a_tag_before_the_file_does_not_change_the_identity(name):
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
    assert _identity(tag + _example(name)) == _identity(_example(name))


def test_a_file_of_unknown_format_is_identified_by_all_its_bytes():
    assert _identity(b"something else") != _identity(b"something els2")
    with pytest.raises(AudioError) as caught:
        _identity(b"")
    assert caught.value.kind == "empty"


def test_real_recordings_keep_their_identity_with_new_tags(corpus, tmp_path):
    paths = sorted([*corpus.rglob("*.ogg"), *corpus.rglob("*.mp3")])
    identities = set()
    for path in paths:
        data = path.read_bytes()
        assert _identity(_tagged(data, "Retagged")) == _identity(data)
        identities.add(_identity(data))
    assert len(identities) == len(paths) >= 2


def test_mpeg_audio_without_tags_is_not_shortened_by_chance():
    data = FORMATS["mp3"](tones(0.3))
    with pytest.raises(ID3NoHeaderError):
        mutagen.id3.ID3(io.BytesIO(data))
    import hashlib

    assert _identity(data) == hashlib.sha256(b"mp3\0" + data).hexdigest()
