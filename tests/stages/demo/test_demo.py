"""The stage `demo`: files like those that people have, and rows that describe them truly."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stages import demo
from stages.audio import read_audio
from stages.audio.marks import read_marks
from stages.demo import corpus as corpus_writing
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.ingest.config import Limits
from stages.ingest.probe import AudioProbe, probe_recording
from stages.pipeline.contract import Stopped
from tests.worlds.world_of_sound import make_context


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    rows = demo.reduce(demo.Config(pieces=16), make_context(folder)).rows
    return folder / "store" / "demo", rows


def test_every_row_names_a_file_that_holds_the_piece(corpus):
    _, rows = corpus
    assert len({row["uri"] for row in rows}) == 16
    for row in rows:
        recording = read_audio(row["uri"])
        mix = render(compose(row["seed"], row["index"])).sum(0)
        assert recording.sample_rate == row["sample_rate"] == 16_000
        assert recording.samples.shape == (1, len(mix))
        difference = recording.samples[0] - mix.numpy()
        if row["uri"].endswith(".ogg"):
            assert np.square(difference).mean() < 0.05 * np.square(mix.numpy()).mean()
        else:
            assert np.abs(difference).max() < 1e-4


def test_files_come_in_three_formats_with_both_kinds_of_metadata(corpus):
    folder, rows = corpus
    assert Counter(Path(row["uri"]).suffix for row in rows) == {".flac": 10, ".wav": 3, ".ogg": 3}
    by_uri = {row["uri"]: row for row in rows}
    sidecars = sorted(folder.rglob("*.json"))
    assert len(sidecars) == 10
    for sidecar in sidecars:
        said, row = json.loads(sidecar.read_text()), by_uri[str(sidecar.with_suffix(".flac"))]
        for name in ("title", "artist", "genre", "moods", "key", "bpm", "description"):
            assert said[name] == row[name]
    with open(folder / "radio" / "metadata.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 6
    for said in listed:
        row = by_uri[str(folder / "radio" / said["file_name"])]
        assert (said["title"], said["moods"].split(";")) == (row["title"], row["moods"])


def test_every_file_is_marked_as_synthetic_but_not_as_made_by_a_trained_model(corpus):
    _, rows = corpus
    for row in rows:
        with open(row["uri"], "rb") as file:
            assert {mark.term for mark in read_marks(file)} == {"algorithmicMedia"}
        assert isinstance(probe_recording(row["uri"], Limits()), AudioProbe)


def test_the_folder_holds_nothing_but_the_corpus(corpus):
    folder, rows = corpus
    files = {str(path) for path in folder.rglob("*") if path.is_file()}
    described = {path for path in files if path.endswith((".json", ".csv"))}
    assert files - described == {row["uri"] for row in rows}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_replaces_the_corpus(tmp_path):
    context = make_context(tmp_path)
    folder = tmp_path / "store" / "demo"

    def contents() -> dict:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    demo.reduce(demo.Config(pieces=12), context)
    first = contents()
    demo.reduce(demo.Config(pieces=12), context)
    assert contents() == first
    demo.reduce(demo.Config(pieces=3, seed=5), context)
    assert len(contents()) == 6
    assert not contents().keys() & {path for path in first if path.suffix == ".flac" and "0000" not in path.name}


def test_a_stop_leaves_no_half_corpus(tmp_path):
    context = make_context(tmp_path)
    context.stop.set()
    with pytest.raises(Stopped):
        demo.reduce(demo.Config(pieces=3), context)
    assert not (tmp_path / "store" / "demo").exists()


def test_pieces_played_by_many_processes_equal_those_of_one_byte_for_byte(tmp_path, monkeypatch):
    written = []
    for number, (cores, each) in enumerate(((1, 128), (2, 2))):
        monkeypatch.setattr(corpus_writing, "available_cores", lambda cores=cores: cores)
        monkeypatch.setattr(corpus_writing, "PIECES_PER_WORKER", each)
        folder, told = tmp_path / str(number), []
        rows = corpus_writing.write_corpus(0, 5, 8_000, folder, lambda told=told: told.append(1))
        assert len(told) == 5
        written.append((rows, {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}))
    assert written[0] == written[1]
    assert len(written[0][0]) == 5
