"""Marks: files of every format say how their sound was made, where mutagen, libsndfile and FFmpeg read it."""

import ast
import io
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as some
from mutagen.id3 import ID3, PRIV, TXXX
from mutagen.mp4 import MP4, MP4FreeForm

from stages.audio import SourceType, encode_audio
from stages.audio.marks import TAG, VOCABULARY, Mark, read_marks, read_own_tags, xmp_packet
from tests.worlds.recordings import RATE, encoded, encoded_by_ffmpeg, tones

TRAINED = "trainedAlgorithmicMedia"
PLACES = {"flac": ("tag",), "ogg": ("tag",), "mp3": ("XMP", "tag"), "wav": ("INFO", "XMP", "tag")}


def marked(format: str, source: SourceType | None = SourceType.TRAINED) -> bytes:
    return encode_audio(tones(1.0), RATE, format, {"title": "a"}, source=source)


@pytest.mark.parametrize("format", PLACES)
def test_a_file_says_how_its_sound_was_made_in_every_place_of_its_format(format):
    assert read_marks(io.BytesIO(marked(format))) == tuple(Mark(place, TRAINED) for place in PLACES[format])
    algorithmic = read_marks(io.BytesIO(marked(format, SourceType.ALGORITHMIC)))
    assert {mark.term for mark in algorithmic} == {"algorithmicMedia"}
    assert not any(mark.is_generated for mark in algorithmic)
    assert read_marks(io.BytesIO(marked(format, None))) == ()


@pytest.mark.parametrize("format", PLACES)
def test_mutagen_and_ffmpeg_find_the_mark_and_the_samples_are_unchanged(format):
    data, plain = marked(format), marked(format, None)
    assert SourceType.TRAINED in str(mutagen.File(io.BytesIO(data)).tags.pprint())
    with av.open(io.BytesIO(data)) as container:
        texts = {**container.metadata, **container.streams.audio[0].metadata}
        assert texts[TAG] == SourceType.TRAINED
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(data))[0], soundfile.read(io.BytesIO(plain))[0])


def test_libsndfile_reads_the_comment_of_a_wav_whose_chunk_sizes_are_exact():
    data = marked("wav")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert str(SourceType.TRAINED) in file.comment
        assert file.software == "Segue"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert data.count(b"_PMX") == 1
    assert xmp_packet(SourceType.TRAINED) in data


def test_xmp_is_well_formed_and_holds_the_iptc_property():
    from xml.etree import ElementTree

    root = ElementTree.fromstring(xmp_packet(SourceType.TRAINED).decode().removeprefix("\ufeff"))
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == SourceType.TRAINED


def test_marks_written_by_other_programs_are_read():
    mp3 = io.BytesIO(encoded("MP3", tones(1.0)))
    tags = ID3()
    tags.add(TXXX(encoding=1, desc="AI", text=f"{VOCABULARY}compositeWithTrainedAlgorithmicMedia"))  # UTF-16
    tags.add(PRIV(owner="XMP", data=xmp_packet(SourceType.TRAINED).replace(b"'", b'"')))
    tags.save(mp3)
    assert read_marks(mp3) == (Mark("XMP", TRAINED), Mark("tag", "compositeWithTrainedAlgorithmicMedia"))
    m4a = io.BytesIO(encoded_by_ffmpeg("mp4", "aac", tones(1.0)))
    opened = MP4(m4a)
    opened["----:com.apple.iTunes:source"] = MP4FreeForm(SourceType.TRAINED.encode())
    m4a.seek(0)
    opened.save(m4a)
    assert read_marks(m4a) == (Mark("tag", TRAINED),)
    box = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + xmp_packet(SourceType.ALGORITHMIC)
    boxed = io.BytesIO(m4a.getvalue() + (len(box) + 8).to_bytes(4, "big") + b"uuid" + box)
    assert Mark("XMP", "algorithmicMedia") in read_marks(boxed)


def test_a_clip_with_only_the_older_generated_tag_reads_as_generated():
    old = io.BytesIO(encode_audio(tones(0.5), RATE, "ogg", {"generated": "true"}))
    assert [mark.is_generated for mark in read_marks(old)] == [True]
    assert read_own_tags(old)["generated"] == "true"


@given(some.binary(max_size=300))
def test_reading_marks_of_garbage_finds_none_and_raises_nothing(data):
    for head in (b"", b"ID3\x04\0\0\0\0\0\x40", b"fLaC", b"RIFF\xff\0\0\0WAVE", b"OggS\0\2"):
        assert read_marks(io.BytesIO(head + data)) == ()


def test_every_file_that_a_stage_writes_states_the_source_of_its_sound():
    calls = []
    for path in Path("stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "encode_audio":
                named = any(keyword.arg == "source" for keyword in node.keywords) or len(node.args) == 6
                calls.append((str(path), named))
    assert len(calls) >= 3
    # Excerpts are of recordings, which were not made here; the lossy form in which a watermark is looked for is never a
    # file.
    unnamed = sorted(path for path, named in calls if not named)
    assert unnamed == ["stages/report/excerpts.py", "stages/watermark.py"]
