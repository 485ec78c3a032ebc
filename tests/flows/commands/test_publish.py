"""`segue publish`, `rollback` and `diff`: which catalog users see, and how it changed."""

import shutil

import pytest

from flows.cli import run_command
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.queries.table_views import FILE
from schemas.storage.publications import Publications
from tests.worlds.tiny_chain import run_chain, write_inputs


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory):
    """A folder, which no test changes, with a store after two nights: the second has one more track and another
    setting."""
    folder = tmp_path_factory.mktemp("two nights")
    inputs = write_inputs(folder / "in", {"a.txt": "do re", "b.txt": "re mi"}, ["2 calm"])
    settings = Settings(store=str(folder / "store"), **inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run_chain(settings, run_id="first")
        write_inputs(folder / "in", {"a.txt": "do re", "b.txt": "re mi", "c.txt": "fa"}, ["2 calm"])
        run_chain(settings, scale=2.0, run_id="second")
    return folder


@pytest.fixture
def settings(two_nights, tmp_path):
    """Settings of a copy of the store and of its inputs."""
    shutil.copytree(two_nights, tmp_path, dirs_exist_ok=True)
    inputs = {"source": str(tmp_path / "in" / "music"), "requests": str(tmp_path / "in" / "requests.txt")}
    return Settings(store=str(tmp_path / "store"), **inputs)


@pytest.fixture
def two_catalogs(settings):
    return Store(settings.store)


def count(store: Store, table: str) -> int:
    return query(store, f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"]


def words(store: Store, *given: str) -> list[str]:
    return [*given, "--store", store.url.removeprefix("file://")]


def test_rollback_restores_the_previous_catalog_and_publish_the_latest(two_catalogs, capsys):
    store = two_catalogs
    before = query(store, "SELECT * FROM chroma ORDER BY ALL")
    assert run_command(words(store, "rollback")) == 0
    assert "segue publish" in capsys.readouterr().out
    assert [count(store, name) for name in ("tracks", "chroma", "clips")] == [2, 2, 2]
    import duckdb

    with duckdb.connect(store.path(FILE), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM tracks").fetchall() == [(2,)]
    assert run_command(words(store, "publish")) == 0
    assert "follow what passes" in capsys.readouterr().out
    assert query(store, "SELECT * FROM chroma ORDER BY ALL") == before


def test_a_held_catalog_does_not_change_until_publish(two_catalogs, settings, tmp_path, capsys):
    store = two_catalogs
    assert run_command(words(store, "publish", "--hold")) == 0
    assert "stay as they are; `segue publish`" in capsys.readouterr().out
    write_inputs(tmp_path / "in", {"a.txt": "do re"}, ["2 calm"])
    run_chain(settings, scale=2.0, run_id="third")
    assert count(store, "tracks") == 3
    assert run_command(words(store, "publish")) == 0
    assert count(store, "tracks") == 1


def test_a_rollback_beyond_the_first_catalog_is_refused_in_one_line(two_catalogs, capsys):
    store = two_catalogs
    assert run_command(words(store, "rollback")) == 0
    assert run_command(words(store, "rollback")) == 2
    assert "expected an earlier catalog" in capsys.readouterr().err
    assert run_command(words(store, "rollback", "999")) == 2
    assert "expected the number of a publication (1 to" in capsys.readouterr().err
    assert count(store, "tracks") == 2


def test_the_list_has_a_line_for_each_run_and_marks_the_shown_one(two_catalogs, capsys):
    store = two_catalogs
    for command in ("publish", "rollback"):
        assert run_command(words(store, command, "--list")) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[3] for line in lines[1:]] == ["second", "first"]
        assert lines[1].rstrip().endswith("shown")
        assert "tracks 3, chroma 3" in lines[1]
        assert int(lines[2].split()[0]) < int(lines[1].split()[0])
    assert run_command(words(store, "rollback", lines[2].split()[0])) == 0
    run_command(words(store, "rollback", "--list"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip().endswith("shown") for line in lines[-3:]] == [False, False, True]
    assert lines[-3].split()[3] == "rollback"


def test_a_diff_names_rows_columns_and_the_changed_setting(two_catalogs, capsys):
    store = two_catalogs
    assert run_command(words(store, "diff", "chroma")) == 0
    out = capsys.readouterr().out
    assert "rows: in 1, out 0, changed 2, the same 0" in out
    assert "why: chroma.scale: 1.0 → 2.0" in out
    assert out.count("frame_rate") == 2
    assert run_command(words(store, "diff", "tracks", "--limit", "0")) == 0
    out = capsys.readouterr().out
    assert "in 1, out 0, changed 0, the same 2" in out
    assert "why: the same settings, but other rows" in out
    assert "(1 more" in out
    first, *_ = [number for number in Publications(store).sequences()]
    assert run_command(words(store, "diff", "tracks", str(first), str(first))) == 0
    assert "in 0, out 0, changed 0, the same 2" in capsys.readouterr().out


def test_an_impossible_comparison_is_refused_in_one_line(two_catalogs, capsys):
    store = two_catalogs
    for given, said in (
        (["runs"], "expected a table that stages publish"),
        (["tracks", "999", "1"], "expected a publication of tracks"),
        (["tracks", "1"], "expected two publications or versions"),
    ):
        assert run_command(words(store, "diff", *given)) == 2
        assert said in capsys.readouterr().err
    assert run_command(["diff", "tracks", "--store", "nowhere"]) == 2
    assert "expected a store" in capsys.readouterr().err
