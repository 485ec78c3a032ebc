"""What a plan says, and when results are made again, with tiny stages."""

import pickle
from dataclasses import replace
from types import ModuleType

import pytest

import schemas.storage.store
from schemas import Config, Settings, WeightsRef
from schemas.tables import CHROMA, CLAP, TRACKS
from schemas.weights import MissingWeights
from stages.pipeline.contract import Context, Dependencies, ReduceResult, Reject, Shard
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_stage
from tests.worlds.tiny_stages import Knobs, Training, make_mapping, make_pipeline, make_source, make_training, run


@pytest.mark.parametrize(("refresh", "times"), [("missing", 1), ("changed", 2), ("never", 0)])
def test_a_whole_set_stage_is_made_again_according_to_its_refresh_policy(tmp_path, refresh, times):
    calls: list[str] = []
    for run_id, names in (("r1", "ab"), ("r2", "ab"), ("r3", "abc")):
        stages = [*make_pipeline(tmp_path, list(names), make_mapping([])).stages.values()]
        pipeline = Pipeline(
            [*stages, ConfiguredStage("training", make_training(calls), Training(refresh=refresh))],
            Settings(store=str(tmp_path)),
        )
        for stage in pipeline.stages.values():
            run_stage(stage, pipeline.context(stage.name, run_id), by_name=False)
    assert len(calls) == times
    assert len(set(calls)) == times


def test_a_whole_set_stage_asked_by_name_runs_despite_its_policy(tmp_path):
    calls: list[str] = []
    stages = [*make_pipeline(tmp_path, list("ab"), make_mapping([])).stages.values()]
    pipeline = Pipeline(
        [*stages, ConfiguredStage("training", make_training(calls), Training(refresh="never"))],
        Settings(store=str(tmp_path)),
    )
    for stage in pipeline.stages.values():
        run_stage(stage, pipeline.context(stage.name, "r1"), by_name=True)
    assert len(calls) == 1


def test_refused_rows_are_tried_again_after_a_consulted_table_changed(tmp_path):
    calls: list[str] = []

    def consulting(names: str) -> Pipeline:
        mapping = make_mapping([])
        looking = make_mapping(calls)
        looking.READS, looking.CONSULTS, looking.WRITES = (CHROMA,), (TRACKS,), CLAP

        def shard(config, context, chroma):
            wanted, known = chroma.column("track_id").to_pylist(), context.rows(TRACKS).column("track_id").to_pylist()
            calls.extend(wanted)
            if "c" in known:
                yield Shard([{"track_id": name} for name in wanted])
            else:
                yield Shard([], [Reject(name, name, "unknown", "c is not there") for name in wanted])

        looking.shard = shard
        stages = [
            ConfiguredStage("source", make_source(list(names)), Knobs()),
            ConfiguredStage("mapping", mapping, Knobs()),
        ]
        return Pipeline(
            [*stages, ConfiguredStage("looking", looking, Knobs())], Settings(store=str(tmp_path), max_refused=1.0)
        )

    assert run(consulting("ab"), "r1")[2].refused == 2
    assert run(consulting("ab"), "r2")[2].refused == 2
    assert calls == ["a", "b"]
    third = run(consulting("abc"), "r3")[2]
    assert (third.made, third.refused) == (3, 0)


class Readers(Config):
    model: WeightsRef
    separator: WeightsRef | None = WeightsRef("./no/separator")
    level: float = 1.0


def make_reader(reads: bool) -> ModuleType:
    """A stage with a model that determines whether it needs a separator and whether it consults a table."""
    reader = make_mapping([])
    reader.CONSULTS, reader.WRITES = (CHROMA,), CLAP

    def dependencies(config, weights):
        assert weights(config.model).path.exists()
        return Dependencies(
            config if reads else config.model_copy(update={"separator": None}), (CHROMA,) if reads else ()
        )

    reader.dependencies = dependencies
    return reader


def test_weights_and_tables_that_a_stage_does_not_use_are_not_required_and_not_in_its_identity(tmp_path):
    (tmp_path / "model").write_text("weights")

    def pipeline(reads, level=1.0, separator="./no/separator"):
        config = Readers(model=str(tmp_path / "model"), separator=separator)
        stages = [*make_pipeline(tmp_path, list("ab"), make_mapping([]), level).stages.values()]
        return Pipeline(
            [*stages, ConfiguredStage("reader", make_reader(reads), config)], Settings(store=str(tmp_path / "store"))
        )

    assert pipeline(False).versions("reader").keys() == {"tracks"}
    assert pipeline(False).context("reader", "r1").versions.keys() == {"tracks"}
    assert pipeline(False).fingerprint("reader") == pipeline(False, 2.0, "./another").fingerprint("reader")
    assert len(plan_pipeline(pipeline(False), ["source", "mapping", "reader"], by_name=False)) == 3
    with pytest.raises(MissingWeights, match=r"expected weights at \./no/separator"):
        plan_pipeline(pipeline(True), ["source", "mapping", "reader"], by_name=False)
    (tmp_path / "separator").write_text("weights")
    there = str(tmp_path / "separator")
    assert pipeline(True, separator=there).versions("reader").keys() == {"tracks", "chroma"}
    fingerprints = [pipeline(True, level, there).fingerprint("reader") for level in (1.0, 2.0)]
    assert len({*fingerprints, pipeline(False).fingerprint("reader")}) == 3


def test_weights_for_an_optional_table_that_is_not_made_are_not_required(tmp_path):
    optional = make_mapping([])
    optional.OPTIONAL, optional.CONSULTS, optional.WRITES = (CHROMA,), (CHROMA,), CLAP
    lacking = ConfiguredStage("lacking", make_mapping([]), Readers(model=str(tmp_path / "model"), separator=None))
    stages = [
        ConfiguredStage("source", make_source(["a"]), Knobs()),
        lacking,
        ConfiguredStage("optional", optional, Knobs()),
    ]
    settings = Settings(store=str(tmp_path / "store"), offline=True)
    assert Pipeline(stages, settings, ["source", "optional"]).versions("optional").keys() == {"tracks"}
    with pytest.raises(MissingWeights, match="expected weights at"):
        Pipeline(stages, settings).versions("optional")
    (tmp_path / "model").write_text("weights")
    assert Pipeline(stages, settings).versions("optional").keys() == {"tracks", "chroma"}
    run(Pipeline(stages[:2], settings), "r1")
    assert Pipeline(stages, settings, ["optional"]).versions("optional").keys() == {"tracks", "chroma"}


def test_all_missing_weights_are_named_in_one_error(tmp_path):
    config = Readers(model="somebody/model", separator="somebody/separator")
    stages = [
        ConfiguredStage("source", make_source(["a"]), Knobs()),
        ConfiguredStage("reader", make_reader(True), config),
    ]
    stages.append(ConfiguredStage("other", make_mapping([]), Readers(model="somebody/else", separator=None)))
    pipeline = Pipeline(stages, Settings(store=str(tmp_path), offline=True))
    # What the model reads is unknown while it is missing, so it is not asked for.
    told = r"missing weights somebody/model \(reader\.model\), somebody/else \(other\.model\): .*--set reader\.model="
    with pytest.raises(MissingWeights, match=told):
        pipeline.fetch(["source", "reader", "other"])
    # A stage that will not run may still be part of another's identity, and is named in the same error.
    reading = make_mapping([])
    reading.READS, reading.WRITES = (CHROMA,), CLAP
    upstream = ConfiguredStage("reading", reading, Knobs())
    with pytest.raises(MissingWeights, match=r"missing weights somebody/else \(other\.model\): "):
        Pipeline([*stages, upstream], Settings(store=str(tmp_path), offline=True)).fetch(["reading"])
    with pytest.raises(MissingWeights, match=r"missing weights somebody/else \(other\.model\): "):
        pipeline.fingerprint("other")


def test_a_plan_of_an_empty_store_estimates_the_later_stages(tmp_path):
    pipeline = make_pipeline(tmp_path, list("abcd"), make_mapping([]))
    plans = plan_pipeline(pipeline, ["source", "mapping"], by_name=False)
    assert [(plan.stage, plan.make, plan.estimated) for plan in plans] == [("source", 4, False), ("mapping", 4, True)]
    run(pipeline)
    assert [(plan.jobs, plan.reuse) for plan in plan_pipeline(pipeline, ["source", "mapping"], by_name=False)] == [
        ((), 4),
        ((), 4),
    ]


@pytest.mark.parametrize("kept", ["abc", "ab", "d"])
def test_rows_dropped_at_the_source_are_not_reused_in_later_stages(tmp_path, kept):
    def with_training(names: str) -> Pipeline:
        stages = [*make_pipeline(tmp_path, list(names), make_mapping([])).stages.values()]
        training = ConfiguredStage("training", make_training([]), Training(refresh="changed"))
        return Pipeline([*stages, training], Settings(store=str(tmp_path)))

    names = ["source", "mapping", "training"]
    run(with_training("abcd"))
    counts = [(plan.make, plan.reuse, plan.drop) for plan in plan_pipeline(with_training(kept), names, by_name=False)]
    assert counts == [(0, len(kept), 4 - len(kept))] * 2 + [(1, 0, 0)]


def _ids(config, context, tracks):
    yield Shard([{"track_id": name} for name in tracks.column("track_id").to_pylist()])


def test_a_plan_reads_each_footer_of_an_object_store_once_and_the_next_plan_anew(tmp_path, monkeypatch):
    def planned(names: str) -> Pipeline:
        other = make_mapping([])
        other.WRITES, other.shard = CLAP, _ids
        stages = [
            ConfiguredStage("source", make_source(list(names)), Knobs()),
            ConfiguredStage("mapping", make_mapping([]), Knobs()),
            ConfiguredStage("other", other, Knobs()),
        ]
        return Pipeline(stages, Settings(store=f"memory://{tmp_path.name}"))

    pipeline = planned("ab")
    run(pipeline)
    reads: list[str] = []
    read_tail = schemas.storage.store.read_tail

    def noted(filesystem, path):
        reads.append(path)
        return read_tail(filesystem, path)

    monkeypatch.setattr(schemas.storage.store, "read_tail", noted)
    names = ["source", "mapping", "other"]
    assert [plan.jobs for plan in plan_pipeline(pipeline, names, by_name=False)] == [(), (), ()]
    assert len(reads) == len(set(reads)) == 3
    plan_pipeline(pipeline, names, by_name=False)
    assert len(reads) == 6
    # What another run writes between two plans of one pipeline is seen.
    source, mapping, _ = planned("abc").stages.values()
    for stage in (source, mapping):
        run_stage(stage, planned("abc").context(stage.name, "r2"))
    assert [plan.make for plan in plan_pipeline(pipeline, ["mapping", "other"], by_name=False)] == [0, 1]


def test_a_plan_says_which_knob_makes_what_is_there_anew_and_nothing_of_new_recordings(tmp_path):
    run(make_pipeline(tmp_path, list("ab"), make_mapping([])), "r1")

    def reasons(names: str, level: float) -> list[str]:
        pipeline = make_pipeline(tmp_path, list(names), make_mapping([]), level=level)
        return [plan.reason for plan in plan_pipeline(pipeline, ["source", "mapping"], by_name=False)]

    assert reasons("ab", 1.0) == ["", ""]
    assert reasons("ab", 2.0) == ["", "level: 1.0 → 2.0"]
    assert reasons("abc", 1.0) == ["", "after source"]
    # A run of the changed recipe that was killed is no version to compare with: it is the same recipe.
    pipeline = make_pipeline(tmp_path, list("ab"), make_mapping([], fail=("b",)), level=2.0)
    with pytest.raises(StageFailed):
        run(pipeline, "r2")
    assert reasons("ab", 2.0) == ["", "level: 1.0 → 2.0"]


def test_a_plan_says_which_tables_a_stage_would_read_in_another_version(tmp_path):
    def looking(level: float) -> Pipeline:
        training = make_training([])
        training.READS, training.CONSULTS = (TRACKS,), (CHROMA,)
        training.reduce = lambda config, context, tracks: ReduceResult([{"track_id": context.identity}])
        stages = [*make_pipeline(tmp_path, list("ab"), make_mapping([]), level=level).stages.values()]
        return Pipeline([*stages, ConfiguredStage("looking", training, Training())], Settings(store=str(tmp_path)))

    run(looking(1.0))
    plans = plan_pipeline(looking(2.0), ["source", "mapping", "looking"], by_name=False)
    assert [plan.reason for plan in plans] == ["", "level: 1.0 → 2.0", "reads other chroma"]


def test_a_pickled_context_leaves_its_stop_event_behind(tmp_path):
    pipeline = make_pipeline(tmp_path, list("ab"), make_mapping([]))
    context = replace(pipeline.context("source", "r1"))
    context.stop.set()
    other: Context = pickle.loads(pickle.dumps(context))
    assert other.fingerprint == context.fingerprint
    assert not other.stop.is_set()
