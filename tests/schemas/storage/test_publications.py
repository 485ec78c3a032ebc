"""What views show: only what passed, and what was held, rolled back and released by hand."""

import os
import threading

import pyarrow as pa
import pytest

import schemas.queries.database
from schemas import Store
from schemas.queries.database import query
from schemas.queries.kept_database import write_views
from schemas.queries.table_views import FILE
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import PUBLICATIONS, TOKENS


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}-{os.getpid()}")


def rows(*names: str, frames: int = 1) -> pa.Table:
    return pa.Table.from_pylist([{"track_id": name, "frames": frames} for name in names], schema=TOKENS.schema)


def publish(store: Store, version: str, run_id: str = "run", **shards: pa.Table) -> int:
    drafts = Drafts(store, TOKENS, version)
    for name, content in shards.items():
        drafts.write(name.removeprefix("s"), content, "k")
    drafts.publish()
    return Publications(store).publish(run_id, "tokenize", {"tokens": (version, drafts.manifest())}).sequence


def shown(store: Store) -> list[tuple[str, int]]:
    answer = query(store, "SELECT track_id, frames FROM tokens ORDER BY ALL")
    return [tuple(row.values()) for row in answer.to_pylist()]


def test_a_draft_is_in_no_view_and_no_glob_until_it_is_published(store):
    drafts = Drafts(store, TOKENS, "v1")
    drafts.write("0", rows("a"), "k")
    drafts.write_part("1", rows("b"))
    assert shown(store) == []
    assert [path for path in store.filesystem.find(store.root) if path.endswith(".parquet")] == []
    assert drafts.read().column("track_id").to_pylist() == ["a"]
    assert drafts.parts("1").column("track_id").to_pylist() == ["b"]
    publish(store, "v1")
    assert shown(store) == [("a", 1)]
    assert drafts.drafted() == []


def test_a_complete_shard_replaces_its_parts(store):
    drafts = Drafts(store, TOKENS, "v1")
    drafts.write_part("0", rows("a"))
    drafts.write_part("0", rows("b"))
    assert sorted(drafts.parts("0").column("track_id").to_pylist()) == ["a", "b"]
    assert drafts.unfinished_keys().keys() == {"0"}
    drafts.write("0", rows("a", "b"), "k")
    assert drafts.parts("0").num_rows == 0
    assert drafts.unfinished_keys() == {}


def test_shards_that_are_written_one_after_the_other_are_not_listed_for_each(store, monkeypatch):
    Drafts(store, TOKENS, "v1").write_part("7", rows("of a killed run"))
    drafts, listings = Drafts(store, TOKENS, "v1"), []
    listing = store._listing
    monkeypatch.setattr(
        store, "_listing", lambda *words, **named: (listings.append(words), listing(*words, **named))[1]
    )
    drafts.write("0", rows("a"), "k")
    first = len(listings)
    for number in range(1, 20):
        drafts.write_part(str(number), rows("a"))
        drafts.write(str(number), rows("a"), "k")
    assert len(listings) == first
    monkeypatch.undo()
    assert Drafts(store, TOKENS, "v1").unfinished_keys() == {}


def test_dropped_rows_are_found_again(store):
    publish(store, "v1", s0=rows("a", "b"))
    publish(store, "v1", s0=rows("a"))
    drafts = Drafts(store, TOKENS, "v1")
    assert drafts.replaced_keys([("b",), ("c",)]) == {("b",)}
    assert drafts.find_replaced([("b",), ("c",)]).column("track_id").to_pylist() == ["b"]


def test_every_earlier_catalog_is_restored_by_one_record_without_rewriting(store):
    first = publish(store, "v1", s0=rows("a"), s1=rows("b"))
    second = publish(store, "v1", s0=rows("a", frames=2))
    third = publish(store, "v2", s0=rows("c"))
    assert shown(store) == [("c", 1)]
    publications = Publications(store)
    publications.roll_back(second)
    assert shown(store) == [("a", 2), ("b", 1)]
    publications.roll_back(first)
    assert shown(store) == [("a", 1), ("b", 1)]
    publish(store, "v2", s0=rows("d"))
    assert shown(store) == [("a", 1), ("b", 1)], "what was taken back stays, whatever passes"
    publications.release()
    assert shown(store) == [("d", 1)]
    publications.roll_back(third)
    assert shown(store) == [("c", 1)]


def test_a_held_catalog_stays_until_it_is_released(store):
    publish(store, "v1", s0=rows("a"))
    Publications(store).hold()
    publish(store, "v1", s0=rows("b"))
    assert shown(store) == [("a", 1)]
    Publications(store).release()
    assert shown(store) == [("b", 1)]
    actions = query(store, "SELECT action FROM publications ORDER BY sequence").column("action").to_pylist()
    assert actions == ["stage", "hold", "stage", "release"]


def test_a_rollback_to_an_unknown_record_is_refused(store):
    publish(store, "v1", s0=rows("a"))
    with pytest.raises(ValueError, match=r"expected the number of a publication \(1 to 1\), got 7"):
        Publications(store).roll_back(7)


def test_a_rollback_to_files_that_were_cleaned_away_is_refused(store):
    first = publish(store, "v1", s0=rows("a"))
    publish(store, "v1", s0=rows("b"))
    store.remove("tokens/version=v1/history")
    # The shard's path holds other rows now, so showing them as the old ones would be wrong.
    with pytest.raises(ValueError, match="expected shard 0 of tokens as publication 1 had it"):
        Publications(store).roll_back(first)


def test_concurrent_publications_are_all_kept(tmp_path):
    url = str(tmp_path)
    tables = [f"v{number}" for number in range(8)]
    threads = [
        threading.Thread(target=lambda version=version: publish(Store(url), version, s0=rows(version)))
        for version in tables
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = Store(url).read(PUBLICATIONS, "1").to_pylist()
    assert [record["sequence"] for record in records] == list(range(1, 9))
    assert {dict(record["versions"])["tokens"] for record in records} == set(tables)


def test_a_machine_with_a_late_clock_publishes_after_the_publications_it_read(store, monkeypatch):
    from datetime import UTC, datetime

    import schemas.storage.publications

    publish(store, "v1", s0=rows("a"))

    class Behind(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(schemas.storage.publications, "datetime", Behind)
    publish(store, "v2", s0=rows("b"))
    assert shown(store) == [("b", 1)]


def test_a_reader_sees_the_old_or_the_new_publication_and_never_a_mix(tmp_path):
    store = Store(str(tmp_path))
    generations = [[(f"{shard}{row}", number) for shard in "012" for row in "ab"] for number in range(1, 25)]

    def publish_all() -> None:
        for number in range(1, 25):
            publish(store, "v1", **{f"s{shard}": rows(f"{shard}a", f"{shard}b", frames=number) for shard in "012"})

    publish(store, "v1", **{f"s{shard}": rows(f"{shard}a", f"{shard}b", frames=1) for shard in "012"})
    writer = threading.Thread(target=publish_all)
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(shown(Store(str(tmp_path))))
    writer.join()
    assert seen
    assert all(answer in generations for answer in seen)


def test_a_publication_during_a_query_is_noticed_even_with_the_same_file_names(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    publish(store, "v1", s0=rows("a"), s1=rows("b"))
    asked, answers = schemas.queries.database._query, []

    def interrupted(*given, **named):
        answer = asked(*given, **named)
        if not answers:
            publish(store, "v1", s0=rows("a", frames=2), s1=rows("b", frames=2))
        answers.append(answer)
        return answer

    monkeypatch.setattr(schemas.queries.database, "_query", interrupted)
    assert shown(store) == [("a", 2), ("b", 2)]
    assert len(answers) == 2


def test_the_database_file_shows_only_published_rows(tmp_path):
    import duckdb

    store = Store(str(tmp_path))
    publish(store, "v1", s0=rows("a"))
    Drafts(store, TOKENS, "v2").write("0", rows("b"), "k")
    write_views(store)
    with duckdb.connect(str(tmp_path / FILE), read_only=True) as client:
        assert client.execute("SELECT track_id FROM tokens").fetchall() == [("a",)]


def test_a_publication_that_a_repair_set_aside_keeps_no_view_from_being_read(store):
    publish(store, "v1", s0=rows("a"))
    Publications(store).hold()
    store.remove_shard(PUBLICATIONS, "1", f"{1:012d}")
    assert Publications(store).shown() == Publications(store).shown_files(["tokens"]) == {}
    assert shown(store) == [("a", 1)]
