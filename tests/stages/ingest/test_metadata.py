"""Metadata files: which of them describe a recording, and in which order; a broken one loses only its own data."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.ingest import rows
from stages.ingest.fields import resolve
from stages.ingest.listing import list_source
from stages.ingest.metadata import SourceMetadata
from tests.worlds.recordings import write


@pytest.fixture
def music(tmp_path):
    """Four files with names of recordings; nothing here opens them."""
    for name in ("a.ogg", "sub/b.mp3", "sub/deep/c.wav", "d.flac"):
        write(tmp_path / name, b"never read")
    return tmp_path


def _fields(folder, relative):
    listing = list_source(str(folder))
    source_metadata = SourceMetadata(listing.recordings, listing.metadata)
    recording = next(file for file in listing.recordings if file.relative == relative)
    return resolve(source_metadata.fields_of([recording])[0])


def _by(artist):
    """The fields of a recording by one artist."""
    return {"artist": artist, "artists": [artist]}


def _stamp(folder, relative):
    listing = list_source(str(folder))
    recording = next(file for file in listing.recordings if file.relative == relative)
    return SourceMetadata(listing.recordings, listing.metadata).stamp(recording)


def test_the_corpus_is_described_by_its_table_and_its_sidecars(corpus):
    battle = _fields(corpus, "orchestral/battle-epic.ogg").values
    assert battle["moods"] == ["epic", "fast"]
    assert battle["instrument"] == "brass, drums"
    assert "title" not in battle
    first = _fields(corpus, "electronic/electro_1.mp3").values
    assert first["keywords"] == ["bright", "pulsing", "cool"]
    assert first["moods"] == ["uplifting", "motivational"]
    assert "bpm" not in first
    assert "key" not in first
    assert _fields(corpus, "orchestral/defeat2.ogg").values == {}


def test_fields_come_from_tables_then_sidecars_then_manifests(music):
    write(music / "metadata.csv", b"file_name,title\na.ogg,from table\n")
    write(music / "a.json", json.dumps({"title": "from sidecar", "artist": "from sidecar", "bpm": ""}).encode())
    line = {"path": "a.ogg", "duration": 3, "title": "from manifest", "artist": "from manifest", "bpm": 90}
    write(music / "data.jsonl", json.dumps(line).encode())
    assert _fields(music, "a.ogg").values == {"title": "from table", **_by("from sidecar"), "bpm": 90.0}


def test_tables_of_every_form_are_read_and_the_nearest_wins(music):
    write(music / "metadata.csv", b"\xef\xbb\xbffile_name,title,moods\nsub/b.mp3,far,x;y\nsub/deep/c.wav,far,\n")
    write(
        music / "sub" / "metadata.jsonl",
        b'{"file_name": "b.mp3", "title": "near"}\n\n{"file_name": "deep/c.wav", "bpm": 99}',
    )
    table = pa.table({"file_name": ["c.wav"], "artist": ["parquet"], "moods": [["a", "b"]]})
    pq.write_table(table, music / "sub" / "deep" / "metadata.parquet")
    assert _fields(music, "sub/b.mp3").values == {"title": "near", "moods": ["x", "y"]}
    assert _fields(music, "sub/deep/c.wav").values == {
        **_by("parquet"),
        "moods": ["a", "b"],
        "bpm": 99.0,
        "title": "far",
    }


@pytest.mark.parametrize("path", ["deep/c.wav", "{root}/sub/deep/c.wav", "sub/deep/c.wav", "{name}/sub/deep/c.wav"])
def test_a_manifest_may_name_a_file_relative_to_any_folder(path, music):
    named = path.format(root=music, name=music.name)
    line = json.dumps({"path": named, "title": "found"}) + "\n"
    write(music / "sub" / "data.jsonl.gz", gzip.compress(line.encode()))
    assert _fields(music, "sub/deep/c.wav").values == {"title": "found"}
    assert _fields(music, "a.ogg").values == {}


def test_a_manifest_path_that_fits_two_files_describes_neither(music):
    write(music / "other" / "deep" / "c.wav", b"never read")
    write(music / "egs" / "data.jsonl", b'{"path": "deep/c.wav", "title": "whose?"}')
    assert _fields(music, "sub/deep/c.wav").values == {}
    assert _fields(music, "other/deep/c.wav").values == {}


def test_paths_in_metadata_are_never_opened(music, tmp_path_factory):
    secret = tmp_path_factory.mktemp("outside") / "secret.json"
    write(secret, b'{"title": "secret"}')
    os.mkfifo(music / "pipe.bin")  # opening it would hang
    rows = [str(secret), f"../{secret.parent.name}/secret.json", "pipe.bin", "/dev/zero", "a.ogg"]
    write(music / "metadata.csv", ("file_name,title\n" + "".join(f"{row},t\n" for row in rows)).encode())
    lines = [json.dumps({"path": row, "info_path": str(secret), "artist": "x"}) for row in rows]
    write(music / "m.jsonl", "\n".join(lines).encode())
    assert _fields(music, "a.ogg").values == {"title": "t", **_by("x")}


def test_decomposed_and_composed_names_are_the_same_name(music):
    write(music / "e\u0301.wav", b"never read")
    write(music / "metadata.csv", "file_name,title\n\u00e9.wav,found\n".encode())
    assert _fields(music, "e\u0301.wav").values == {"title": "found"}


BROKEN = {
    "metadata.csv": [
        (b"", "expected rows with a column file_name"),
        (b"a,b\n1,2\n", "expected rows with a column file_name"),
        (b"\xff\xfef\x00i\x00l\x00e\x00", "expected rows with a column file_name"),
    ],
    "metadata.jsonl": [
        (b'{"file_name": "d.flac"}\n{broken\n[1]\n{"x"\n', "line 2: expected JSON"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"file_name": "' + b"x" * 2_000_000 + b'"}\n{"file_name": "d.flac"}', "expected lines of at most"),
        (b'{"file_name": "\xff\xfe"}', "expected UTF-8"),
    ],
    "metadata.parquet": [(b"PAR1 but not really PAR1", "expected a Parquet table")],
    "x.jsonl.gz": [
        (b"not gzip", "expected a whole gzip file"),
        (gzip.compress(b'{"path": "d.flac"}\n' * 9000)[:-40], "expected a whole gzip file"),
    ],
    "a.json": [
        (b"{", "expected JSON"),
        (b"\xff\xfe{}", "expected UTF-8"),
        (b'["list"]', "expected a JSON object"),
        (b'{"a": ' * 50_000, "nested too deeply"),
        (b" " * 5_000_000, "expected at most"),
        (b'{"bpm": ' + b"9" * 10_000 + b"}", "expected"),
    ],
}


@pytest.mark.parametrize(
    ("name", "data", "sentence"), [(name, *case) for name, cases in BROKEN.items() for case in cases]
)
def test_a_broken_file_is_a_warning_on_every_track_that_it_may_describe(name, data, sentence, music):
    write(music / name, data)
    fields = _fields(music, "a.ogg")
    assert fields.values == {}
    assert any(sentence in warning and warning.startswith(name) for warning in fields.warnings), fields.warnings
    if name == "metadata.jsonl" and b"d.flac" in data:
        assert _fields(music, "d.flac").warnings == ()


def test_bad_bytes_in_a_field_lose_only_that_field(music):
    write(music / "metadata.csv", b'file_name,title,artist\na.ogg,caf\x81,me\nd.flac,"' + b"x" * 1_000_000 + b'",you\n')
    fields = _fields(music, "a.ogg")
    assert fields.values == _by("me")
    assert "expected UTF-8" in fields.warnings[0]
    assert len(_fields(music, "d.flac").values["title"]) == 500


def test_unpacking_a_gzip_bomb_stops_at_its_limit(music, monkeypatch):
    monkeypatch.setattr(rows, "UNPACKED_BYTES", 2**20)
    write(music / "m.jsonl.gz", gzip.compress(b"\n" * 2**22 + b'{"path": "a.ogg", "title": "too far"}'))
    assert _fields(music, "a.ogg").values == {}


def test_the_stamp_changes_only_with_the_metadata_of_its_recording(music):
    table = music / "metadata.csv"
    write(table, b"file_name,title\na.ogg,one\nd.flac,other\n")
    before = _stamp(music, "a.ogg"), _stamp(music, "d.flac")
    write(table, b"file_name,title\na.ogg,two\nd.flac,other\n")
    after = _stamp(music, "a.ogg"), _stamp(music, "d.flac")
    assert before[0] != after[0]
    assert before[1] == after[1]
    write(music / "a.json", b"{}")
    assert _stamp(music, "a.ogg") != after[0]
    assert _stamp(music, "d.flac") == after[1]
