"""`segue show` and `segue schema`: a table, a row, and the meaning of columns."""

import csv
import io

import pyarrow as pa
import pytest

from flows.cli import run_command
from schemas import Store
from schemas.queries.columns import COLUMNS
from schemas.tables import CLIPS, REQUESTS, TABLES, TRACKS, TRAINING
from tests.worlds.command_line import complaints


@pytest.fixture
def words(tmp_path):
    """The options that name a store of two tracks and three logged steps."""
    store = Store(str(tmp_path / "store"))
    rows = [{"track_id": name * 32, "title": name, "loudness": -14.123456789} for name in ("ab", "ac")]
    store.write_shard(TRACKS, "v1", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), "k")
    steps = [{"checkpoint_id": "model", "step": step, "split": "train", "loss": 1.0 * step} for step in (1, 2, 10)]
    store.write_shard(TRAINING, "1", "0", pa.Table.from_pylist(steps, schema=TRAINING.schema), "k")
    return ["--store", store.url]


@pytest.fixture
def catalog(tmp_path):
    """The options that name a store of two requests: `opening` with one take, and `a/2` with two."""
    store = Store(str(tmp_path / "catalog"))
    requests = [{"request_id": "0a" * 8, "name": "opening"}, {"request_id": "0b" * 8, "name": "a/2"}]
    store.write_shard(REQUESTS, "v1", "0", pa.Table.from_pylist(requests, schema=REQUESTS.schema), "k")
    clips = [{"request_id": each * 8, "take": take} for each, take in (("0a", 1), ("0b", 1), ("0b", 2))]
    store.write_shard(CLIPS, "v1", "0", pa.Table.from_pylist(clips, schema=CLIPS.schema), "k")
    return ["--store", store.url]


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (["requests", "opening"], ["request_id", "0a" * 8, "name", "opening"]),
        (["clips", "opening"], ["request_id", "0a" * 8, "take", "1"]),
        (["clips", "opening/1"], ["request_id", "0a" * 8, "take", "1"]),
        (["requests", "a/2"], ["request_id", "0b" * 8, "name", "a/2"]),
        (["clips", "a/2/2"], ["request_id", "0b" * 8, "take", "2"]),
        (["clips", "0b/1"], ["request_id", "0b" * 8, "take", "1"]),
    ],
    ids=" ".join,
)
def test_a_row_is_also_shown_by_the_name_of_its_request(key, shown, catalog, capfd):
    assert run_command(["show", *key, *catalog]) == 0
    assert capfd.readouterr().out.split()[:4] == shown


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (["clips", "a/2"], ["got 2 of clips", "0b" * 8 + "/1", "0b" * 8 + "/2"]),
        (["clips", "openin"], ["or the name of its request, got 'openin'", "did you mean opening?"]),
        (["clips", "opening/3"], ["expected a key of clips (request_id/take)", "got 'opening/3'"]),
    ],
    ids=" ".join,
)
def test_a_name_that_fits_no_row_or_several_is_refused_in_one_line(key, told, catalog, capfd):
    assert run_command(["show", *key, *catalog]) == 2
    (line,) = complaints(capfd.readouterr().err)
    assert all(word in line for word in told), line


def test_a_table_is_described_with_its_columns_key_and_number_of_rows(words, capfd):
    assert run_command(["show", "tracks", *words]) == 0
    out = capfd.readouterr().out
    assert COLUMNS["loudness"] in out
    assert out.splitlines()[-1] == "One row is a distinct recording. Key: track_id. 2 rows."
    assert run_command(["show", "lineage", *words]) == 0
    assert "how many trainings lie between the two models" in capfd.readouterr().out


def test_a_row_is_shown_in_full_by_the_beginning_of_its_key(words, capfd):
    assert run_command(["show", "tracks", "aca", *words]) == 0
    shown = dict(line.split(None, 1) for line in capfd.readouterr().out.splitlines() if " " in line.strip())
    assert shown["track_id"].strip() == "ac" * 32
    assert shown["loudness"].strip() == "-14.123456789"


def test_numbers_in_a_key_must_match_whole(words, capfd):
    assert run_command(["show", "training", "mod/1", *words]) == 0
    assert capfd.readouterr().out.split()[:4] == ["checkpoint_id", "model", "step", "1"]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (["tracks", "a"], ["got 2 of tracks that match 'a'", "ab" * 32, "ac" * 32]),
        (["tracks", "b"], ["expected a key of tracks (track_id), got 'b', which no row has"]),
        (["training", "model"], ["got 3 of training", "model/1", "model/10"]),
        (["training", "model/x"], ["expected a number for step", "'x'"]),
        (["trakcs"], ["unknown table 'trakcs' (did you mean tracks?)"]),
        (["quarantin"], ["unknown table 'quarantin' (did you mean quarantine?)"]),
        (["quarantine", "a"], ["got the view quarantine: query it by segue sql"]),
    ],
)
def test_a_key_that_fits_no_row_or_several_is_refused_in_one_line(key, told, words, capfd):
    assert run_command(["show", *key, *words]) == 2
    (line,) = complaints(capfd.readouterr().err)
    assert all(word in line for word in told), line


def test_the_schema_is_printed_without_a_store(capfd):
    assert run_command(["schema", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert len(rows) == sum(len(table.schema) for table in TABLES.values())
    assert {"table": "tracks", "column": "loudness", "type": "float64", "what it holds": COLUMNS["loudness"]} in rows
