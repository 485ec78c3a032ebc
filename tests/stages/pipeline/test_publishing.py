"""What a run publishes, keeps and makes again: tiny stages, the real runner, views as users see them."""

import hashlib
import threading
import time
from types import ModuleType

import pytest

from schemas import Settings, Store
from schemas.queries.checks import Check
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.tables import CHROMA, CLIPS, GENERATIONS, REQUESTS
from stages.pipeline import jobs, runner
from stages.pipeline.contract import Reject, Shard, ShardUpdate, SourcePlan, Stopped
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_stage
from tests.worlds.kept_work import kept_keys
from tests.worlds.tiny_stages import Knobs, make_mapping, make_pipeline, make_training, run


def shown(store: Store) -> list[tuple[str, float]]:
    answer = query(store, "SELECT track_id, frame_rate FROM chroma ORDER BY ALL")
    return [tuple(row.values()) for row in answer.to_pylist()]


def test_a_failed_stage_leaves_users_the_last_version_that_passed(tmp_path):
    names = list("abcdefghij")
    run(make_pipeline(tmp_path, names, make_mapping([])))
    before = shown(Store(str(tmp_path)))
    assert len(before) == 10
    gone = make_mapping([], refuse=tuple(names[:8]))
    with pytest.raises(StageFailed, match="refused 8 of 10"):
        run(make_pipeline(tmp_path, names, gone, level=2.0), "r2")
    assert shown(Store(str(tmp_path))) == before
    run(make_pipeline(tmp_path, names, make_mapping([]), level=3.0), "r3")
    assert [rate for _, rate in shown(Store(str(tmp_path)))] == [3.0] * 10


def test_returning_to_an_earlier_setting_shows_its_version_and_makes_nothing(tmp_path):
    calls: list[str] = []
    for number, level in enumerate((1.0, 2.0, 1.0)):
        run(make_pipeline(tmp_path, ["a"], make_mapping(calls), level=level), f"r{number}")
        assert shown(Store(str(tmp_path))) == [("a", level)]
    assert calls == ["a", "a"]


def checked(tmp_path, run_id, level, *checks):
    pipeline = make_pipeline(tmp_path, ["a", "b"], make_mapping([]), level=level)
    for stage in pipeline.stages.values():
        context = pipeline.context(stage.name, run_id)
        context.checks = checks
        run_stage(stage, context)


def test_a_user_check_holds_a_version_back_until_it_passes(tmp_path):
    store = Store(str(tmp_path))
    quiet = Check(name="not too loud", table="chroma", sql="SELECT * FROM chroma WHERE frame_rate > 5")
    checked(tmp_path, "r1", 1.0, quiet)
    with pytest.raises(StageFailed, match=r"the check 'not too loud' of chroma expects no rows, got 2, first .*6\.0"):
        checked(tmp_path, "r2", 6.0, quiet)
    assert {rate for _, rate in shown(store)} == {1.0}
    with pytest.raises(StageFailed, match="not too loud"):
        checked(tmp_path, "r3", 6.0, quiet)  # nothing is left to make, and the check still fails
    assert {rate for _, rate in shown(store)} == {1.0}
    checked(tmp_path, "r4", 6.0)
    assert {rate for _, rate in shown(store)} == {6.0}
    rows = query(store, "SELECT run_id, value, passed FROM checks WHERE \"check\" = 'not too loud' ORDER BY run_id")
    assert [tuple(row.values()) for row in rows.to_pylist()] == [("r1", 0, True), ("r2", 2, False), ("r3", 2, False)]


def test_a_check_that_warns_is_logged_and_the_run_continues(tmp_path, caplog):
    checked(tmp_path, "r1", 6.0, Check(table="chroma", severity="warn", sql="FROM chroma WHERE frame_rate > 5"))
    assert "FROM chroma WHERE frame_rate > 5' of chroma expects no rows, got 2" in caplog.text
    assert len(shown(Store(str(tmp_path)))) == 2


def test_a_column_that_lost_all_its_values_is_logged(tmp_path, caplog):
    run(make_pipeline(tmp_path, ["a"], make_mapping([])))
    emptied = make_mapping([])
    emptied.shard = lambda config, context, tracks: iter([Shard([{"track_id": "a"}])])
    run(make_pipeline(tmp_path, ["a"], emptied, level=2.0), "r2")
    assert "every row of chroma lost its frame_rate" in caplog.text


def test_replaced_rows_have_not_lost_their_values(tmp_path, caplog):
    run(make_pipeline(tmp_path, ["a"], make_mapping([])))
    without = make_mapping([])
    without.shard = lambda config, context, tracks: iter([Shard([{"track_id": "b"}])])
    run(make_pipeline(tmp_path, ["b"], without, level=2.0), "r2")
    assert [track for track, _ in shown(Store(str(tmp_path)))] == ["b"]
    assert "lost its" not in caplog.text


def test_finished_rows_of_a_shard_are_kept_when_the_run_is_stopped(tmp_path):
    names, calls = [f"{number:02}" for number in range(3)], list[str]()
    mapping = make_mapping(calls)
    pipeline = make_pipeline(tmp_path, names, mapping)
    source = pipeline.stages["source"]
    run_stage(source, pipeline.context("source", "r1"))
    context = pipeline.context("mapping", "r1")
    whole = mapping.shard

    def stopped(config, context, tracks):
        for number, part in enumerate(whole(config, context, tracks)):
            yield part
            if number == 1:
                context.stop.set()

    mapping.shard = stopped
    with pytest.raises(Stopped):
        run_stage(pipeline.stages["mapping"], context)
    assert kept_keys(Store(str(tmp_path)), CHROMA) == [("00",), ("01",)]
    plan = plan_stage(pipeline.stages["mapping"], pipeline.context("mapping", "r2"), True)
    assert (plan.make, plan.reuse) == (1, 2)
    mapping.shard = whole
    again = run_stage(pipeline.stages["mapping"], pipeline.context("mapping", "r2"))
    assert (again.counts.made, again.counts.reused) == (1, 2)
    assert calls == names
    assert len(shown(Store(str(tmp_path)))) == 3


def test_a_slow_item_is_saved_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "SAVE_SECONDS", 0.05)
    monkeypatch.setattr(jobs, "SAVE_SHARE", 0)
    kept: list[int] = []
    mapping = make_mapping([])
    whole = mapping.shard

    def slow(config, context, tracks):
        for part in whole(config, context, tracks):
            time.sleep(0.06)
            kept.append(len(kept_keys(Store(str(tmp_path)), CHROMA)))
            yield part

    mapping.shard = slow
    run(make_pipeline(tmp_path, list("abc"), mapping))
    assert kept == [0, 1, 2]


def test_passing_refusals_are_tried_again_in_the_next_run(tmp_path):
    calls: list[str] = []
    away = make_mapping(calls)

    def shard(config, context, tracks):
        for name in tracks.column("track_id").to_pylist():
            calls.append(name)
            yield Shard([], [Reject(name, name, "missing", "not there just now", passing=name != "bad")])

    away.shard = shard
    settings = {"max_refused": 1.0}
    run(make_pipeline(tmp_path, ["a", "c"], away, **settings))
    assert calls == ["a", "c"]
    calls.clear()
    run(make_pipeline(tmp_path, ["a", "c"], make_mapping(calls), **settings), "r2")
    assert calls == ["a", "c"]
    assert len(shown(Store(str(tmp_path)))) == 2


def test_two_simultaneous_runs_make_everything_once(tmp_path):
    calls: list[str] = []
    mapping = make_mapping(calls)
    whole = mapping.shard

    def slow(config, context, tracks):
        for part in whole(config, context, tracks):
            time.sleep(0.05)
            yield part

    mapping.shard = slow
    threads = [
        threading.Thread(target=lambda run_id=run_id: run(make_pipeline(tmp_path, list("abcdef"), mapping), run_id))
        for run_id in ("r1", "r2")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list("abcdef")
    assert query(Store(str(tmp_path)), "SELECT track_id FROM tracks").num_rows == 6


def test_unreachable_files_raise_the_question_whether_the_disk_is_mounted(tmp_path, caplog):
    away = make_mapping([])
    away.shard = lambda config, context, tracks: iter([Shard([], [Reject("a", "/mnt/a", "missing", "", passing=True)])])
    run(make_pipeline(tmp_path, ["a"], away, max_refused=1.0))
    assert "mapping: 1 items could not be reached (is their disk mounted?)" in caplog.text


def test_a_plan_carried_out_by_another_run_meanwhile_is_made_again(tmp_path):
    calls: list[str] = []
    mapping, training = make_mapping([]), make_training(calls)
    stages = [*make_pipeline(tmp_path, ["a"], mapping).stages.values(), ConfiguredStage("training", training, Knobs())]
    for name in ("source", "mapping"):
        pipeline = Pipeline(stages, Settings(store=str(tmp_path)))
        run_stage(pipeline.stages[name], pipeline.context(name, "r1"))
    stage, plan = pipeline.stages["training"], plan_stage(stages[-1], pipeline.context("training", "r1"), True)
    for run_id in ("r1", "r2"):
        run_stage(stage, pipeline.context("training", run_id), plan=plan)
    assert plan.jobs == ("all",)
    assert len(calls) == 1


# -- several rows per request, with files -----------------------------------------------------------------------------


def make_requests(takes: dict[str, int]) -> ModuleType:
    module = ModuleType("requests")
    module.READS, module.WRITES, module.VERSION = (), REQUESTS, 1

    def content():
        return {name: {"request_id": name, "takes": count, "shard": 0} for name, count in takes.items()}

    def plan_source(config, context, known, refused):
        before = {row["request_id"]: row["takes"] for row in known.to_pylist()}
        changed = sum(before.get(name) != count for name, count in takes.items())
        return SourcePlan(changed, len(takes) - changed, len(before.keys() - takes.keys()))

    def read_source(config, context, known, refused):
        yield ShardUpdate(0, list(content().values()), len(takes))

    module.plan_source, module.read_source = plan_source, read_source
    return module


def make_takes(calls: list[tuple[str, int]]) -> ModuleType:
    module = ModuleType("generate")
    module.READS, module.WRITES, module.VERSION = (REQUESTS,), GENERATIONS, 1

    def shard(config, context, requests):
        for row in requests.to_pylist():
            for take in range(1, row["takes"] + 1):
                if (row["request_id"], str(take)) not in context.kept:
                    calls.append((row["request_id"], take))
                    yield Shard([{"request_id": row["request_id"], "take": take}])

    module.shard = shard
    return module


def make_files(calls: list[str]) -> ModuleType:
    module = ModuleType("decode")
    module.READS, module.WRITES, module.VERSION = (GENERATIONS,), CLIPS, 1

    def shard(config, context, generations):
        for row in generations.to_pylist():
            name = f"{row['request_id']}-{row['take']}"
            calls.append(name)
            data = name.encode() * 3
            path = f"audio/version={context.fingerprint}/{name}.flac"
            context.store.write_bytes(path, data)
            digest = hashlib.sha256(data).hexdigest()
            yield Shard(
                [
                    {**{key: row[key] for key in ("request_id", "take")}, "path": path, "bytes": len(data)}
                    | {"sha256": digest}
                ]
            )

    module.shard = shard
    return module


class Catalog:
    """Requests, takes of them, and a file for each take."""

    def __init__(self, folder) -> None:
        self.store = Store(str(folder))
        self.generated: list[tuple[str, int]] = []
        self.decoded: list[str] = []

    def pipeline(self, takes: dict[str, int]) -> Pipeline:
        modules = {
            "requests": make_requests(takes),
            "generate": make_takes(self.generated),
            "decode": make_files(self.decoded),
        }
        stages = [ConfiguredStage(name, module, Knobs()) for name, module in modules.items()]
        return Pipeline(stages, Settings(store=self.store.url))

    def run(self, run_id: str, **takes: int) -> list[tuple[str, int]]:
        self.generated.clear()
        self.decoded.clear()
        run(self.pipeline(takes), run_id)
        shown = query(self.store, "SELECT request_id, take FROM clips ORDER BY ALL").to_pylist()
        assert [tuple(row.values()) for row in shown] == [
            (name, take) for name in sorted(takes) for take in range(1, takes[name] + 1)
        ]
        return list(self.generated)


@pytest.fixture
def made(tmp_path):
    return Catalog(tmp_path)


def test_only_new_takes_are_made_and_removed_ones_are_found_when_they_return(made):
    assert made.run("r1", a=3, b=1) == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]
    assert made.run("r2", a=2, b=1) == []
    assert made.run("r3", a=4, b=1) == [("a", 4)]
    assert made.decoded == ["a-4"]


def test_undoing_an_edit_makes_nothing(made):
    made.run("r1", a=1, b=1)
    assert made.run("r2", a=1, c=1) == [("c", 1)]
    assert made.run("r3", a=1, b=1) == []
    assert made.decoded == []


def test_a_clip_with_a_missing_or_truncated_file_is_made_again(made):
    made.run("r1", a=2, b=1)
    paths = query(made.store, "SELECT path FROM clips ORDER BY ALL").column("path").to_pylist()
    made.store.remove(paths[0])
    made.store.write_bytes(paths[2], b"cut")
    pipeline = made.pipeline({"a": 2, "b": 1})
    plan = plan_stage(pipeline.stages["decode"], pipeline.context("decode", "plan"), True)
    assert (plan.make, plan.reuse) == (2, 1)
    assert plan.reason == f"{paths[0]} is not there"
    assert made.run("r2", a=2, b=1) == []
    assert made.decoded == ["a-1", "b-1"]
    assert made.store.read_bytes(paths[2]) == b"b-1b-1b-1"


def test_a_draft_of_a_killed_run_is_published_by_the_next_that_passes(made, monkeypatch):
    monkeypatch.setattr(runner, "_publish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(made.pipeline({"a": 1}), "r1")
    monkeypatch.undo()
    assert Drafts(made.store, REQUESTS, made.pipeline({"a": 1}).fingerprint("requests")).drafted() == ["0"]
    made.run("r2", a=1)
