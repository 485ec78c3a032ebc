"""What a checkpoint records of its parents and of the recordings that it learned from."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas import Settings, Store
from schemas.licences import LicencePolicy
from schemas.queries.database import query
from schemas.storage.versions import record_version
from schemas.tables import CHECKPOINTS, LEARNED, TRACKS
from schemas.weights import WeightsLibrary
from stages.checkpoints.provenance import FACTS, parents_of, record_learned, tracks_to_learn
from stages.pipeline.contract import Context
from tests.worlds.tiny_models import world
from tests.worlds.training_world import fill, make_context, recipe, train_in


@pytest.fixture
def context(tmp_path: Path) -> Context:
    store = Store(str(tmp_path / "store"))
    versions = {"tokens": "k", "chroma": "unknown"}
    settings = Settings(store=store.url, device="cpu")
    own = '{"initial":null,"text_encoder":{"weights":"text"}}'
    return Context(store, settings, "run", "train", "f", versions, WeightsLibrary(store), config=own)


def add_checkpoint(store: Store, name: str, digest: str, day: int = 1) -> None:
    row = {"checkpoint_id": name, "digest": digest, "created_at": datetime(2026, 1, day, tzinfo=UTC)}
    store.write_shard(CHECKPOINTS, "c", name, pa.Table.from_pylist([row], schema=CHECKPOINTS.schema), name)


def test_parents_are_the_models_named_by_a_stage_and_those_behind_its_inputs(context: Context) -> None:
    record_version(
        context.store, "k", "tokenize", 1, '{"codec":{"weights":"codec"},"channels":"codec"}', {"tracks": "t"}
    )
    record_version(context.store, "t", "ingest", 1, '{"reader":{"weights":"reader"}}', {})
    add_checkpoint(context.store, "own-codec", "codec")
    assert parents_of(context) == ["own-codec", "reader", "text"]


def test_of_two_checkpoints_with_equal_weights_the_named_one_is_the_parent(context: Context) -> None:
    add_checkpoint(context.store, "named", "text", day=1)
    add_checkpoint(context.store, "newer", "text", day=2)
    assert parents_of(context, ["named"]) == ["named"]
    assert parents_of(context) == ["newer"]


def described(**changes: str) -> pa.Table:
    rows = [{"track_id": "a", "title": "A", "uri": "/music/a.wav"} | changes, {"track_id": "b", "title": "B"}]
    return pa.Table.from_pylist(rows, schema=pa.schema([LEARNED.schema.field(name) for name in FACTS]))


def test_models_trained_on_the_same_recordings_share_one_file_of_them(context: Context) -> None:
    first = record_learned(context, described())
    assert record_learned(context, described(uri="/moved/a.wav")) == first
    assert context.store.shards(LEARNED, "1") == [first]
    assert record_learned(context, described(licence="CC0")) != first
    assert len(context.store.shards(LEARNED, "1")) == 2


def test_a_removed_recording_can_still_be_traced_with_its_facts(tmp_path: Path) -> None:
    config, tables = recipe(tmp_path, optimization={"steps": 1}), world()
    rows = [row | {"title": f"Piece {row['track_id']}", "licence": "CC0"} for row in tables["tracks"].to_pylist()]
    fill(tmp_path, tracks=pa.Table.from_pylist(rows, schema=TRACKS.schema))
    row = train_in(tmp_path, config)
    trained_on = {row["track_id"] for row in rows if row["split"] == "train"}

    removed = sorted(trained_on)[0]
    left = {name: table.filter(pc.not_equal(table["track_id"], removed)) for name, table in tables.items()}
    fill(tmp_path, **left)
    _, context = make_context(tmp_path, config)
    assert tracks_to_learn(context, trained_on, LicencePolicy()).num_rows == len(trained_on) - 1
    sql = (
        "SELECT track_id, title, licence FROM learned JOIN checkpoints USING (training_set) WHERE checkpoint_id = '{}'"
    )
    answer = query(context.store, sql.format(row["checkpoint_id"])).to_pylist()
    assert {each["track_id"] for each in answer} == trained_on
    assert row["rows_seen"] == len(answer)
    assert {"track_id": removed, "title": f"Piece {removed}", "licence": "CC0"} in answer
