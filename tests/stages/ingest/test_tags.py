"""Tags of every format under one set of names."""

import io
import struct

import mutagen
import mutagen.apev2
import pytest
import soundfile
from mutagen.id3 import COMM, TALB, TBPM, TCON, TIT2, TKEY, TPE1, TXXX, USLT
from mutagen.mp4 import MP4

from stages.ingest.tags import read_tags
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones

EXPECTED = {
    "title": "Tëst",
    "artist": "Me",
    "artists": ["Me"],
    "album": "Of",
    "genre": "Jazz",
    "bpm": 98.0,
    "key": "C minor",
    "description": "slow",
    "moods": ["calm", "dark"],
}


def _saved(data: bytes, fill) -> io.BytesIO:
    file = io.BytesIO(data)
    opened = mutagen.File(file)
    if opened.tags is None:
        opened.add_tags()
    fill(opened.tags)
    file.seek(0)
    opened.save(file)
    return file


def _id3(tags) -> None:
    for frame in (
        TIT2(text="Tëst"),
        TPE1(text="Me"),
        TALB(text="Of"),
        TCON(text="(8)"),
        TBPM(text="98"),
        TKEY(text="C minor"),
    ):
        tags.add(frame)
    tags.add(COMM(encoding=3, lang="eng", desc="iTunNORM", text="000"))
    tags.add(COMM(encoding=3, lang="eng", desc="", text="slow"))
    tags.add(TXXX(encoding=3, desc="mood", text="calm; dark"))


def _vorbis(tags) -> None:
    names = {"TITLE": "Tëst", "ARTIST": "Me", "ALBUM": "Of", "GENRE": "Jazz", "BPM": "98", "KEY": "C minor"}
    for name, value in {**names, "COMMENT": "slow", "MOOD": ["calm", "dark"]}.items():
        tags[name] = value


def _mp4(tags) -> None:
    tags.update({"\xa9nam": ["Tëst"], "\xa9ART": ["Me"], "\xa9alb": ["Of"], "\xa9gen": ["Jazz"], "tmpo": [98]})
    tags["\xa9cmt"] = ["slow"]
    tags["----:com.apple.iTunes:initialkey"] = [b"C minor"]
    tags["----:com.apple.iTunes:MOOD"] = [b"calm", b"dark"]


def _asf(tags) -> None:
    names = {"Title": "Tëst", "Author": "Me", "WM/AlbumTitle": "Of", "WM/Genre": "Jazz", "WM/BeatsPerMinute": "98"}
    for name, value in {**names, "WM/InitialKey": "C minor", "Description": "slow", "WM/Mood": "calm, dark"}.items():
        tags[name] = [value]


CASES = {
    "mp3": (lambda: encoded("MP3", tones()), _id3),
    "wav": (lambda: encoded("WAV", tones()), _id3),
    "aiff": (lambda: encoded("AIFF", tones()), _id3),
    "flac": (lambda: encoded("FLAC", tones()), _vorbis),
    "ogg": (lambda: encoded("OGG", tones()), _vorbis),
    "opus": (lambda: encoded("OGG", tones(), 48_000, "OPUS"), _vorbis),
    "m4a": (lambda: encoded_by_ffmpeg("mp4", "aac", tones()), _mp4),
    "wma": (lambda: encoded_by_ffmpeg("asf", "wmav2", tones()), _asf),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tags_of_every_format_are_found(name):
    make, fill = CASES[name]
    tags = read_tags(_saved(make(), fill))
    assert tags.values == EXPECTED
    assert tags.warnings == ()


def test_info_chunks_are_read_if_there_are_no_other_tags(tmp_path):
    with soundfile.SoundFile(tmp_path / "x.wav", "w", 16_000, 1) as file:
        file.title, file.artist = "Info", "Chunk"
        file.write(tones(0.2, sample_rate=16_000, channels=1).T)
    with open(tmp_path / "x.wav", "rb") as file:
        assert read_tags(file).values == {"title": "Info", "artist": "Chunk", "artists": ["Chunk"]}


def test_several_values_are_several_artists_and_a_single_text_is_split():
    for values, artists in ((["A", "B feat. C"], ["A", "B", "C"]), (["Earth, Wind & Fire"], ["Earth, Wind & Fire"])):
        file = _saved(CASES["flac"][0](), lambda tags, values=values: tags.update({"artist": values}))
        assert read_tags(file).values["artists"] == artists
        assert read_tags(file).values["artist"] == ", ".join(values)


def test_apev2_tags_are_read_if_there_are_no_others():
    file = io.BytesIO(encoded("MP3", tones()))
    tags = mutagen.apev2.APEv2()
    tags.update({"Title": "Ape", "Artist": ["A", "B"], "BPM": "120,5", "Key": "8A", "Comment": "www.example.com"})
    tags.save(file)
    found = read_tags(file)
    expected = {"title": "Ape", "artist": "A, B", "artists": ["A", "B"], "bpm": 120.5, "key": "A minor"}
    assert found.values == expected
    assert "got an address" in found.warnings[0]


def test_lyrics_and_replay_gain_are_not_a_description():
    def fill(tags) -> None:
        tags.add(USLT(encoding=3, lang="eng", desc="", text="La la\nla"))
        tags.add(TXXX(encoding=3, desc="REPLAYGAIN_TRACK_GAIN", text="-6.30 dB"))

    assert read_tags(_saved(CASES["mp3"][0](), fill)).values == {"lyrics": "La la la", "replay_gain": -6.3}


@pytest.mark.parametrize("comment", ["www.example.com", "LAME 3.100", "0", "00000B1C 00000D2E"])
def test_a_comment_that_is_not_about_the_music_is_not_a_description(comment):
    found = read_tags(_saved(CASES["flac"][0](), lambda tags: tags.update({"comment": comment})))
    assert found.values == {}
    assert found.warnings[0].startswith("tags: description: expected a description of the music, got ")


def test_text_in_another_encoding_is_kept_with_a_warning():
    def fill(tags) -> None:  # as Chinese taggers of ID3v1's time wrote them
        tags.add(TIT2(encoding=0, text="隐患".encode("gbk").decode("latin-1")))
        tags.add(COMM(encoding=3, lang="chi", desc="", text="www.91ting.com"))

    tags = read_tags(_saved(CASES["mp3"][0](), fill))
    assert tags.values == {"title": "Òþ»¼"}
    assert tags.warnings == (
        "tags: description: expected a description of the music, got an address: 'www.91ting.com', so it was dropped",
        "tags: title: expected readable text, got text in another encoding: 'Òþ»¼'",
    )


def test_real_recordings_have_their_artist_and_licence(corpus):
    with open(corpus / "orchestral" / "defeat2.ogg", "rb") as file:
        tags = read_tags(file).values
    assert tags["artist"] == "Ryan Reilly"
    assert tags["licence"] == "GPL"
    with open(corpus / "orchestral" / "silence.ogg", "rb") as file:
        assert read_tags(file).values == {}


def test_broken_or_hostile_tags_never_raise():
    flac = encoded("FLAC", tones(0.2))
    comment = struct.pack("<I", 4) + b"test" + struct.pack("<I", 2**31)
    broken = flac[:4] + b"\x04" + len(comment).to_bytes(3, "big") + comment + flac[4:]
    for data in (broken, flac[:60], b"", b"ID3\x04\x00\xff\x7f\x7f\x7f\x7f", b"\0" * 1000):
        tags = read_tags(io.BytesIO(data))
        assert tags.values == {}
    assert "tags: expected readable tags" in read_tags(io.BytesIO(broken)).warnings[0]
    bad = _saved(CASES["ogg"][0](), lambda tags: tags.update({"bpm": ["quick"], "title": ["x" * 10_000, "\x00<b>"]}))
    tags = read_tags(bad)
    assert len(tags.values["title"]) == 500
    assert len(tags.warnings) == 2


def test_an_mp4_without_tags_gives_no_warning():
    data = encoded_by_ffmpeg("mp4", "aac", tones(0.5))
    assert MP4(io.BytesIO(data)) is not None
    assert read_tags(io.BytesIO(data)).warnings == ()
