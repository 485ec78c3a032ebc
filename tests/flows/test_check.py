"""`segue check`: every kind of damage is reported in one line with its cure, and a repair marks exactly what must be
made again."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from flows.cli import run_command
from schemas import Settings, Store
from schemas.storage.publications import Publications
from schemas.tables import CHECKPOINTS, CHROMA, CLIPS, PUBLICATIONS, TRACKS
from tests.faults.comparing import seen
from tests.worlds.tiny_chain import run_chain, write_inputs

TEXTS = {"a.txt": "do re", "b.txt": "re mi", "c.txt": "fa sol"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store filled by one run; each test damages a copy of it."""
    folder = tmp_path_factory.mktemp("sound")
    settings = Settings(store=str(folder / "store"), **write_inputs(folder / "in", TEXTS, ["2 calm", "1 loud"]))
    run_chain(settings)
    return settings


@pytest.fixture
def settings(sound, tmp_path):
    shutil.copytree(Store(sound.store).root, tmp_path / "store")
    return sound.model_copy(update={"store": str(tmp_path / "store")})


@pytest.fixture
def store(settings):
    return Store(settings.store)


def check(store: Store, capsys, *words: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = run_command(["check", *words, "--store", store.root])
    output = capsys.readouterr()
    assert not output.err, output.err
    return code, output.out.splitlines()


def shard(store: Store, table, number: str = "0") -> str:
    record = Publications(store).shown()[table.name]
    return store.shard_path(table, record.versions[table.name], number)


def change_byte(store: Store, path: str, position: int) -> None:
    data = bytearray(Path(store.path(path)).read_bytes())
    data[position] ^= 1
    Path(store.path(path)).write_bytes(bytes(data))


def age(store: Store, path: str) -> None:
    old = time.time() - 7200
    os.utime(store.path(path), (old, old))


def test_an_undamaged_store_has_no_problems(store, capsys):
    for words in ((), ("--deep",), ("tracks", "clips"), ("--repair",)):
        code, lines = check(store, capsys, *words)
        assert code == 0, lines
        assert len(lines) == 1, lines
        assert "0 problems, 0 notes" in lines[0]


def test_changed_bytes_with_an_intact_footer_are_found_set_aside_and_made_again(store, settings, capsys):
    before, path = seen(store), shard(store, CHROMA)
    digests = {file: hashlib.sha256(store.read_bytes(file)).digest() for file in (path, shard(store, CHROMA, "1"))}
    footer = store.footer_of(path)
    for position in (40, footer.data_bytes - 1):
        change_byte(store, path, position)
        code, lines = check(store, capsys, "chroma", "--deep")
        assert code == 1
        assert lines[0].startswith(f"{path}: damaged")
        assert "segue check --repair" in lines[0]
        assert len(lines) == 2, lines
        assert check(store, capsys, "--deep", "--repair")[0] == 1  # the shown shard is missing until it is made again
        assert store.files("damaged/" + path.rpartition("/")[0]) == [path.rpartition("/")[2]]
        results = run_chain(settings).results
        assert {result.stage: result.counts.made for result in results}["chroma"] == 2
        assert seen(store) == before
        assert check(store, capsys, "--deep")[0] == 0
        assert {file: hashlib.sha256(store.read_bytes(file)).digest() for file in digests} == digests


def test_a_truncated_shard_is_found_by_its_footer(store, capsys):
    path = shard(store, TRACKS)
    Path(store.path(path)).write_bytes(Path(store.path(path)).read_bytes()[:-9])
    code, lines = check(store, capsys)
    assert code == 1
    assert [line for line in lines if line.startswith(f"{path}: damaged")], lines


def test_a_key_in_two_shards_is_found(store, capsys):
    rows = store.read_files(TRACKS, [shard(store, TRACKS)])
    version = Publications(store).shown()["tracks"].versions["tracks"]
    store.write_shard(TRACKS, version, "7", rows, "k")
    code, lines = check(store, capsys, "tracks")
    assert code == 1
    assert f"{rows.num_rows} of its keys are in shard 0 too" in lines[0]
    assert lines[0].startswith(store.shard_path(TRACKS, version, "7"))


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
def test_a_missing_truncated_or_changed_file_of_a_clip_is_found_and_made_again(store, settings, capsys, harm):
    before = seen(store)
    path = store.read_files(CLIPS, [shard(store, CLIPS)]).column("path").to_pylist()[0]
    if harm == "gone":
        store.remove(path)
    elif harm == "cut":
        Path(store.path(path)).write_bytes(b"")
    else:
        change_byte(store, path, 0)
        assert check(store, capsys)[0] == 0
    code, lines = check(store, capsys, "--deep")
    assert code == 1
    expected = {"gone": "is not there", "cut": "has 0 bytes", "changed": "other bytes than were written"}
    assert len([line for line in lines if line.startswith(f"{path}: ") and expected[harm] in line]) == 1, lines
    assert "makes it again" in lines[0]
    check(store, capsys, "--deep", "--repair")
    results = run_chain(settings).results
    assert {result.stage: result.counts.made for result in results}["decode"] == 1
    assert seen(store) == before


def test_a_changed_model_is_set_aside_and_trained_again(store, settings, capsys):
    before = seen(store)
    path = store.read_all(CHECKPOINTS).column("path").to_pylist()[0]
    change_byte(store, f"{path}/weights", 0)
    assert check(store, capsys)[0] == 0
    code, lines = check(store, capsys, "--deep", "--repair")
    assert code == 0, lines
    assert "moved to damaged/models/" in lines[0]
    run_chain(settings)
    assert seen(store) == before
    assert check(store, capsys, "--deep")[0] == 0


def test_files_that_no_row_names_are_listed_after_an_hour_and_are_not_a_problem(store, capsys):
    things = ["audio/version=x/lost.flac", "models/lost/weights", "audio/.a.flac.0f.inprogress", "report/lost.html"]
    for path in things:
        store.write_bytes(path, b"lost")
    assert len(check(store, capsys)[1]) == 1
    for path in things:
        age(store, path)
    code, lines = check(store, capsys)
    assert code == 0
    assert sorted(line.partition(":")[0] for line in lines[:-1]) == sorted(things)
    assert all("segue clean" in line for line in lines[:-1])
    assert "4 notes" in lines[-1]


def test_a_foreign_file_among_shards_is_named(store, capsys):
    folder = shard(store, TRACKS).rpartition("/")[0]
    for name in ("shard=0 (conflicted copy).parquet", "._shard=0.parquet"):
        store.write_bytes(f"{folder}/{name}", b"?")
    code, lines = check(store, capsys, "tracks")
    assert code == 0
    assert len(lines) == 3
    assert all("does not belong to the store; move it away" in line for line in lines[:2])


def test_a_table_made_from_rows_that_have_since_changed_is_reported(store, settings, tmp_path, capsys):
    fewer = write_inputs(tmp_path / "in", {"a.txt": "do re"}, ["2 calm", "1 loud"])
    run_chain(settings.model_copy(update=fewer), names=["ingest"])
    code, lines = check(store, capsys, "chroma")
    assert code == 0
    assert any("made from other rows than tracks has" in line for line in lines[:-1]), lines


def test_a_damaged_publication_is_set_aside_and_the_next_run_publishes_again(store, settings, capsys):
    before = seen(store)
    path = store.shard_path(PUBLICATIONS, "1", f"{Publications(store).sequences()[0]:012d}")
    Path(store.path(path)).write_bytes(b"half")
    code, lines = check(store, capsys)
    assert code == 1
    assert [line for line in lines if line.startswith(f"{path}: damaged")], lines
    assert check(store, capsys, "--repair")[0] == 0
    run_chain(settings)
    assert seen(store) == before
    assert check(store, capsys)[0] == 0


def test_an_unknown_table_is_refused_in_one_line(store, capsys):
    assert run_command(["check", "nothing", "--store", store.root]) == 2
    assert "expected tables of tracks" in capsys.readouterr().err
