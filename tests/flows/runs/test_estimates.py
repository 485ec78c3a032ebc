"""The expected time and size of a run: from the rates of the store's earlier runs, and none where there were none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest

from flows.runs.estimates import LATEST_RUNS, Estimate, amount, duration, estimate, latest_runs, total_line
from schemas import Config, Settings, Store
from schemas.storage.publications import Publications
from schemas.tables import CHROMA, CLIPS, GENERATIONS, REQUESTS, RUNS, TRACKS
from stages.pipeline.contract import ReduceResult
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage, Plan
from tests.schemas.queries.test_views import publish
from tests.worlds.tiny_stages import Knobs, make_source, make_training, run

START = datetime(2026, 1, 1, tzinfo=UTC)


def pipeline_on(store: Store, **writes: object) -> SimpleNamespace:
    """Stages of a pipeline by name, as far as estimates use them: `maps` or `reduces` says how a stage works."""
    stages = {}
    for name, (table, how) in writes.items():  # type: ignore[misc]
        module = ModuleType(name)
        module.WRITES = table  # type: ignore[attr-defined]
        setattr(module, {"maps": "shard", "reduces": "reduce"}[how], lambda: None)
        stages[name] = SimpleNamespace(module=module)
    return SimpleNamespace(store=store, stages=stages)


def ran(store: Store, *runs: tuple[str, float, int, str | None]) -> None:
    rows = [
        {
            **{"run_id": f"run-{number}", "stage": stage, "started_at": START + timedelta(minutes=number)},
            **{"seconds": seconds, "rows_made": made, "error": error, "sequence": number},
        }
        for number, (stage, seconds, made, error) in enumerate(runs)
    ]
    store.write_shard(RUNS, "1", "all", pa.Table.from_pylist(rows, RUNS.schema), input_key="all")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_mapping_stage_takes_time_for_each_row_and_a_reducing_stage_as_long_as_last_time(store: Store) -> None:
    ran(
        store,
        ("chroma", 30.0, 10, None),
        ("chroma", 10.0, 10, None),
        ("train", 50.0, 1, None),
        ("train", 70.0, 1, None),
    )
    pipeline = pipeline_on(store, chroma=(CHROMA, "maps"), train=(CHROMA, "reduces"))
    plans = [Plan("chroma", jobs=("0",), make=7), Plan("train", jobs=("all",), make=1)]
    assert [one.seconds for one in estimate(pipeline, plans)] == [pytest.approx(14.0), 70.0]  # type: ignore[arg-type]


def test_runs_that_failed_made_nothing_or_are_long_past_do_not_count_for_the_rate(store: Store) -> None:
    latest = [("chroma", 2.0, 1, None)] * LATEST_RUNS
    ran(store, ("chroma", 900.0, 1, None), *latest, ("chroma", 500.0, 3, "StageFailed"), ("chroma", 1.0, 0, None))
    plans = [Plan("chroma", jobs=("0",), make=3)]
    assert estimate(pipeline_on(store, chroma=(CHROMA, "maps")), plans)[0].seconds == pytest.approx(6.0)  # type: ignore[arg-type]


def test_clips_take_time_and_bytes_in_proportion_to_their_length(store: Store) -> None:
    ran(store, ("generate", 16.0, 2, None))
    publish(store, CLIPS, [{"request_id": "before", "take": take, "seconds": 8.0, "bytes": 800} for take in (1, 2)])
    pipeline = pipeline_on(store, requests=(REQUESTS, "maps"), generate=(GENERATIONS, "maps"), decode=(CLIPS, "maps"))
    order = Plan("requests", content={"0": [{"request_id": "new", "seconds": 2.0}]})
    missing = (("new", "1"), ("new", "2"), ("new", "3"))
    plans = [order, Plan("generate", jobs=("0",), make=3, missing=missing), Plan("decode", jobs=("0",), make=3)]
    generate, decode = estimate(pipeline, plans)  # type: ignore[arg-type]
    assert generate.seconds == pytest.approx(3 * 8.0 / 4)
    whole = sum(store.size(file) or 0 for file in Publications(store).shown_files([CLIPS.name])[CLIPS.name])
    assert decode.bytes == pytest.approx(3 * (800 + whole / 2) / 4)


class Steps(Config):
    steps: int = 100
    learning_rate: float = 0.1
    precision: str = "float32"


class Trained(Config):
    optimization: Steps = Steps()
    lora: Steps | None = None
    batch_size: int = 8
    seed: int = 0


def test_a_training_takes_as_long_as_one_of_the_same_sizes_did_step_by_step_and_another_is_not_known(
    tmp_path: Path,
) -> None:
    training = make_training([])
    training.READS, training.KINDS = (TRACKS,), ("language_model",)
    training.reduce = lambda config, context, tracks: ReduceResult([{"track_id": context.identity}])

    def pipeline(names: str, config: Trained) -> Pipeline:
        stages = [ConfiguredStage("source", make_source(list(names)), Knobs())]
        return Pipeline([*stages, ConfiguredStage("training", training, config)], Settings(store=str(tmp_path)))

    def seconds(config: Trained, names: str = "ab") -> float | None:
        return estimate(pipeline(names, config), [Plan("training", jobs=("all",), make=1)])[0].seconds

    assert seconds(Trained()) is None
    run(pipeline("ab", Trained()))
    (only,) = latest_runs(Store(str(tmp_path)))["training"]
    took = pytest.approx(only["seconds"])
    assert seconds(Trained(), "abc") == took
    assert seconds(Trained(seed=1, optimization=Steps(learning_rate=0.2))) == took
    assert seconds(Trained(optimization=Steps(steps=200))) == pytest.approx(2 * only["seconds"])
    for other in (Trained(batch_size=16), Trained(lora=Steps()), Trained(optimization=Steps(precision="bfloat16"))):
        assert seconds(other) is None
    run(pipeline("ab", Trained(batch_size=16)), "r2")
    assert seconds(Trained()) == took  # by the run of its like, which is not the newest
    assert seconds(Trained(batch_size=16)) is not None


def test_a_stage_that_never_ran_has_no_estimate_and_a_stage_without_work_is_left_out(store: Store) -> None:
    ran(store, ("chroma", 2.0, 1, None))
    pipeline = pipeline_on(store, chroma=(CHROMA, "maps"), decode=(CLIPS, "maps"))
    plans = [Plan("chroma", reuse=5), Plan("decode", jobs=("0",), make=3)]
    estimates = estimate(pipeline, plans)  # type: ignore[arg-type]
    assert estimates == [Estimate("decode", None, None)]
    assert total_line(estimates) is None
    told = total_line([Estimate("chroma", 120.0, 3e6), *estimates])
    known = "about 2 min and 3.0 MB, judging by earlier runs of this store"
    assert told == f"{known}; unknown for decode, which never ran here in this way"


def test_times_and_sizes_are_printed_in_readable_units() -> None:
    assert [duration(seconds) for seconds in (12.4, 89.0, 600.0, 3 * 3600.0)] == ["12 s", "89 s", "10 min", "3.0 h"]
    assert [amount(size) for size in (12_345, 2.5e6, 8.4e10)] == ["12 kB", "2.5 MB", "84.0 GB"]
