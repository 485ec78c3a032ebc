"""Nearest tracks: those of the training split that exist now, whatever existed before."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.tables import CLAP, NEAREST, SCORES, TRACKS, Table
from schemas.weights import WeightsLibrary
from stages import nearest
from stages.pipeline.contract import Context, ReduceResult, Shard
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.tiny_stages import Knobs, make_source

VERSIONS = {"scores": "s", "tracks": "t", "clap": "e"}
WIDTH = 8


def unit(seed: int, windows: int = 1) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((windows, WIDTH)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def put(store: Store, table: Table, rows: list[dict], shard: str = "0") -> None:
    shown = pa.Table.from_pylist(rows, schema=table.schema)
    store.write_shard(table, VERSIONS[table.name], shard, shown, "made by a test")


def put_clips(store: Store, embeddings: dict[str, np.ndarray | None]) -> None:
    rows = [
        {"request_id": name, "take": 1, "embeddings": None if value is None else list(value)}
        for name, value in embeddings.items()
    ]
    put(store, SCORES, rows)


def put_tracks(store: Store, embeddings: dict[str, np.ndarray], shard: str = "0", split: str = "train") -> None:
    put(store, TRACKS, [{"track_id": name, "split": split, "shard": int(shard)} for name in embeddings], shard)
    put(store, CLAP, [{"track_id": name, "embeddings": list(value)} for name, value in embeddings.items()], shard)


def found(store: Store) -> dict[str, tuple[str, float]]:
    """The nearest track of each clip, and its similarity."""
    settings = Settings(store=store.url, device="cpu")
    context = Context(store, settings, "run", "nearest", "n", VERSIONS, WeightsLibrary(store))
    tables = [context.rows(table) for table in nearest.READS if table not in nearest.STREAMS]
    rows = nearest.reduce(nearest.Config(), context, *tables).rows
    pa.Table.from_pylist([dict(row) for row in rows], schema=NEAREST.schema)
    return {row["request_id"]: (row["nearest_track"], row["nearest_similarity"]) for row in rows}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_the_nearest_track_has_the_closest_pair_of_windows_in_any_shard(store: Store) -> None:
    clips = {f"clip {seed}": unit(seed, 1 + seed % 3) for seed in range(5)}
    tracks = {f"track {seed}": unit(100 + seed, 1 + seed % 4) for seed in range(9)}
    put_clips(store, clips)
    for shard in range(3):
        put_tracks(store, {name: value for name, value in tracks.items() if int(name[-1]) % 3 == shard}, str(shard))
    result = found(store)
    assert result.keys() == clips.keys()
    for name, windows in clips.items():
        pairs = {track: float((windows @ value.T).max()) for track, value in tracks.items()}
        best = max(pairs, key=pairs.__getitem__)
        assert result[name] == (best, pytest.approx(pairs[best], abs=1e-6))


def test_only_the_training_split_counts_and_a_tie_goes_to_the_first_id(store: Store) -> None:
    put_clips(store, {"a": unit(1), "b": unit(2)})
    put_tracks(store, {"held out": unit(1)}, "0", split="test")
    put_tracks(store, {"z": unit(2), "far": unit(3)}, "1")
    put_tracks(store, {"y": unit(2)}, "2")
    result = found(store)
    assert result["b"] == ("y", pytest.approx(1.0))
    assert result["a"][0] != "held out"


def test_clips_without_embeddings_and_stores_without_tracks_give_no_row(store: Store) -> None:
    put_clips(store, {"a": unit(1), "refused": None, "b": unit(2, 2)})
    assert found(store) == {}
    put_tracks(store, {"one": unit(1)})
    assert found(store).keys() == {"a", "b"}
    put_clips(store, {"refused": None})
    assert found(store) == {}


def test_embeddings_of_another_width_are_refused_naming_the_setting(store: Store) -> None:
    put_clips(store, {"a": unit(1)[:, :4]})
    put_tracks(store, {"one": unit(1)})
    with pytest.raises(ValueError, match=r"evaluate.clap .* 8 numbers, got one with 4"):
        found(store)


EMBEDDINGS = {"a": unit(5), "b": unit(1), "c": unit(1) + unit(2)}
"""Embeddings of tracks: the clip equals `b`, and half of `c`."""


def pipeline(store: Store, names: list[str]) -> Pipeline:
    """Tracks of the training split, their embeddings, one clip, and the track nearest to it."""
    source, clap, scores = make_source(names), ModuleType("clap"), ModuleType("scores")
    read = source.read_source

    def read_training_split(*given):
        for update in read(*given):
            yield replace(update, rows=[row | {"split": "train"} for row in update.rows])

    def embed(config, context, tracks):
        for name in tracks.column("track_id").to_pylist():
            yield Shard([{"track_id": name, "starts": [0.0], "embeddings": list(EMBEDDINGS[name])}])

    source.read_source = read_training_split
    clap.READS, clap.WRITES, clap.VERSION, clap.shard = (TRACKS,), CLAP, 1, embed
    scores.READS, scores.WRITES, scores.VERSION = (), SCORES, 1
    scores.reduce = lambda config, context: ReduceResult([{"request_id": "r", "take": 1, "embeddings": list(unit(1))}])
    stages = [ConfiguredStage(stage.__name__, stage, Knobs()) for stage in (source, clap, scores)]
    return Pipeline([*stages, ConfiguredStage("nearest", nearest, nearest.Config())], Settings(store=store.url))


def test_the_nearest_track_is_updated_when_tracks_come_or_go(store: Store) -> None:
    def nearest_after(names: list[str], run_id: str) -> list[str]:
        built = pipeline(store, names)
        for stage in built.stages.values():
            run_stage(stage, built.context(stage.name, run_id), by_name=False)
        context = built.context("nearest", run_id)
        assert plan_stage(built.stages["nearest"], context, by_name=False).jobs == ()
        return built.store.read(NEAREST, built.fingerprint("nearest")).column("nearest_track").to_pylist()

    assert nearest_after(["a"], "r1") == ["a"]
    assert nearest_after(["a", "c"], "r2") == ["c"]
    assert nearest_after(["a", "b", "c"], "r3") == ["b"]
    assert nearest_after(["a", "c"], "r4") == ["c"]
