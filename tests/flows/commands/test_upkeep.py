"""`segue status` and `segue clean` on the command line."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from flows.cli import run_command
from flows.commands.upkeep import age_text, size_text
from schemas import Settings, Store
from schemas.storage.leases import hold_lease
from schemas.tables import CHROMA, GENERATIONS
from schemas.upkeep import cleaning
from tests.faults.comparing import seen
from tests.worlds.command_line import make_recordings
from tests.worlds.tiny_chain import run_chain, write_inputs


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A store after two runs, of which the second had other settings."""
    folder = tmp_path_factory.mktemp("chain")
    inputs = write_inputs(folder / "in", {"a.txt": "do re", "b.txt": "re mi"}, ["2 calm"])
    settings = Settings(store=str(folder / "store"), **inputs)
    run_chain(settings, run_id="first")
    run_chain(settings, scale=2.0, run_id="second")
    return folder / "store"


@pytest.fixture
def store(two_runs, tmp_path):
    return Store(shutil.copytree(two_runs, tmp_path / "store"))


class Later(datetime):
    """A clock that is forty days ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=40)


def output(capsys, store: Store, *words: str) -> list[str]:
    capsys.readouterr()
    assert run_command([*words, "--store", store.root]) == 0
    return capsys.readouterr().out.splitlines()


def test_clean_only_lists_files_until_it_is_confirmed(store, monkeypatch, capsys):
    before = seen(store)
    assert "0 files and folders, 0 B would be removed" in output(capsys, store, "clean", "--keep", "0")[-1]
    monkeypatch.setattr(cleaning, "datetime", Later)
    lines = output(capsys, store, "clean")
    assert any(line.startswith("chroma/version=") and "shown (publication" in line for line in lines)
    assert any(line.startswith("chroma ") and "nothing uses this version" in line for line in lines)
    assert lines[-1].endswith("would be removed (give --yes)")
    assert len(store.versions(CHROMA)) == 2
    lines = output(capsys, store, "clean", "--yes")
    assert lines[-1].endswith(": removed")
    assert len(store.versions(CHROMA)) == 1
    after = seen(store)
    for name in ("tracks", "chroma", "generations", "clips"):
        assert after[name] == before[name]
    for words in ([], ["2"]):
        assert run_command(["rollback", *words, "--store", store.root]) == 2
        assert "`segue clean` has removed" in capsys.readouterr().err


def test_on_eighty_columns_clean_and_rollback_keep_names_whole(store, monkeypatch, capsys):
    for name, value in {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    lines = output(capsys, store, "clean", "--keep", "0")
    versions = [f"generations/version={version}" for version in store.versions(GENERATIONS)]
    assert len(versions) == 2
    for name in versions:
        assert any(line.startswith(f"{name} ") for line in lines), lines
    lines += output(capsys, store, "rollback", "--list")
    assert all(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= 80 for line in lines), lines


def test_status_shows_the_version_age_and_size_of_each_table(store, capsys):
    lines = output(capsys, store, "status")
    (chroma,) = [line.split() for line in lines if line.startswith("chroma ")]
    assert chroma[1] == "2"
    assert chroma[4] == "2"
    assert any(line.startswith("audio/") for line in lines)
    assert any(line.startswith("last run: second") and line.endswith("7 stages") for line in lines)
    assert "last error: none" in lines
    assert all(len(line) <= 80 for line in lines), lines
    assert run_command(["publish", "--hold", "--store", store.root]) == 0
    assert any(line.startswith("held: ") for line in output(capsys, store, "status"))


def test_status_names_the_run_in_progress(store, capsys):
    with hold_lease(store, "chroma-abc", "20261130T131652-41c178", pytest.fail, lambda: None):
        (line,) = [line for line in output(capsys, store, "status") if line.startswith("at work: ")]
    assert "run 20261130T131652-41c178 (process" in line
    assert line.endswith("since 30 November 13:16 UTC), at chroma")
    assert not any(line.startswith("at work: ") for line in output(capsys, store, "status"))


def test_status_with_the_options_of_a_run_says_which_tables_that_run_would_make(store, tmp_path, capsys):
    source = make_recordings(tmp_path / "recordings", 1)
    lines = output(capsys, store, "status", "--preset", "miniature", "--source", str(source))
    assert "with these options" in lines[0]
    assert any(line.startswith("tracks ") and "stale" in line for line in lines), lines


def test_sizes_and_ages_are_printed_in_their_largest_unit():
    assert [size_text(count) for count in (0, 999, 1_000, 2_500_000, 3 * 10**9)] == [
        *("0 B", "999 B", "1.0 kB", "2.5 MB", "3.0 GB")
    ]
    now = datetime.now(UTC)
    ages = [age_text(now - timedelta(**{unit: 3})) for unit in ("seconds", "minutes", "hours", "days")]
    assert ages == ["3 s", "3 min", "3 h", "3 d"]
