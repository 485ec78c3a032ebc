"""The runner around tiny stages made here: real shards, real kills, no machine learning."""

import random
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from types import ModuleType

import pyarrow as pa
import pytest

from schemas import Config, Settings, Store
from schemas.tables import CHROMA, CLAP, RUNS, TRACKS
from stages.contract import Arrival, Context, Reject, Shard, Stopped, Survey, Whole
from stages.planning import Chain, Step, plan_chain, plan_stage
from stages.runner import StageFailed, run_stage

SHARD_SIZE = 3


class Knobs(Config):
    level: float = 1.0


class Training(Config):
    NOT_IDENTITY = ("refresh",)

    refresh: str = "missing"


def make_source(names: list[str]) -> ModuleType:
    """A stage that takes in `names`; one that starts with `bad` is refused."""
    module = ModuleType("source")
    module.READS, module.WRITES, module.VERSION = (), TRACKS, 1

    def survey(config, context, known, refused):
        there = set(known.column("track_id").to_pylist()) | set(refused.column("key").to_pylist())
        return Survey(len(set(names) - there), len(there & set(names)), len(there - set(names)))

    def arrivals(config, context, known, refused):
        rows = {row["track_id"]: row for row in known.to_pylist()}
        rejects = [Reject(name, name, "bad", "a bad name", "stamp") for name in names if name.startswith("bad")]
        shards = {row["shard"] for row in rows.values()}
        last = max(shards, default=0)
        for name in [name for name in names if name not in rows and not name.startswith("bad")]:
            last += sum(row["shard"] == last for row in rows.values()) >= SHARD_SIZE
            rows[name] = {"track_id": name, "shard": last}
            shards.add(last)
        for shard in sorted(shards):
            content = [row for row in rows.values() if row["shard"] == shard and row["track_id"] in names]
            yield Arrival(shard, content, made=len(content), rejects=rejects)

    module.survey, module.arrivals = survey, arrivals
    return module


def make_mapping(calls: list[str], refuse: tuple[str, ...] = (), fail: tuple[str, ...] = ()) -> ModuleType:
    """A stage that maps tracks to CHROMA and notes each track that it computed in `calls`."""
    module = ModuleType("mapping")
    module.READS, module.WRITES, module.VERSION = (TRACKS,), CHROMA, 1

    def shard(config, context, tracks):
        rows, rejects = [], []
        for name in tracks.column("track_id").to_pylist():
            context.check_stopped()
            calls.append(name)
            if name in fail:
                raise RuntimeError(f"cannot do {name}")
            if name in refuse:
                rejects.append(Reject(name, name, "refused", "as asked"))
            else:
                rows.append({"track_id": name, "frame_rate": config.level, "chroma": [[float(len(name))] * 12]})
        return Shard(rows, rejects)

    module.shard = shard
    return module


def make_chain(tmp_path, names, mapping=None, level=1.0, **settings) -> Chain:
    steps = [Step("source", make_source(names), Knobs())]
    if mapping is not None:
        steps.append(Step("mapping", mapping, Knobs(level=level)))
    return Chain(steps, Settings(store=str(tmp_path), **settings))


def run(chain: Chain, run_id: str = "r1"):
    return [run_stage(step, chain.context(step.name, run_id)).counts for step in chain.steps.values()]


def contents(chain: Chain) -> list:
    found = []
    for step in chain.steps.values():
        table, version = step.stage.WRITES, chain.fingerprint(step.name)
        for shard in chain.store.shards(table, version):
            found.append((table.name, shard, chain.store.read(table, version, [shard]).to_pylist()))
    return found


def test_every_row_flows_through_and_a_second_run_does_nothing(tmp_path):
    calls: list[str] = []
    chain = make_chain(tmp_path, list("abcde"), make_mapping(calls))
    first = run(chain)
    assert [counts.made for counts in first] == [5, 5]
    assert sorted(calls) == list("abcde")
    before = contents(chain)
    second = run(make_chain(tmp_path, list("abcde"), make_mapping(calls)), "r2")
    assert [(counts.made, counts.reused) for counts in second] == [(0, 5), (0, 5)]
    assert sorted(calls) == list("abcde")
    assert contents(chain) == before


def test_a_new_row_touches_one_shard_and_is_the_only_one_computed(tmp_path):
    calls: list[str] = []
    run(make_chain(tmp_path, list("abcd"), make_mapping(calls)))
    calls.clear()
    chain = make_chain(tmp_path, list("abcde"), make_mapping(calls))
    run_stage(chain.steps["source"], chain.context("source", "r2"))
    plan = plan_stage(chain.steps["mapping"], chain.context("mapping", "r2"), asked=False)
    assert (plan.jobs, plan.make, plan.reuse) == (("1",), 1, 4)
    assert run_stage(chain.steps["mapping"], chain.context("mapping", "r2")).counts.reused == 4
    assert calls == ["e"]


def test_a_removed_rows_results_go_and_the_rest_is_reused(tmp_path):
    calls: list[str] = []
    run(make_chain(tmp_path, list("abcd"), make_mapping(calls)))
    calls.clear()
    chain = make_chain(tmp_path, list("acd"), make_mapping(calls))
    run(chain, "r2")
    assert calls == []
    assert chain.store.read(CHROMA, chain.fingerprint("mapping")).column("track_id").to_pylist() == list("acd")


def test_a_refused_row_is_in_rejects_and_is_not_computed_again(tmp_path):
    calls: list[str] = []
    chain = make_chain(tmp_path, ["a", "b", "bad"], make_mapping(calls, refuse=("b",)))
    assert [counts.refused for counts in run(chain)] == [1, 1]
    again = make_chain(tmp_path, ["a", "b", "bad", "c"], make_mapping(calls, refuse=("b",)))
    assert [counts.refused for counts in run(again, "r2")] == [1, 1]
    assert calls == ["a", "b", "c"]
    from schemas.database import query

    rejects = query(chain.store, "SELECT stage, key, kind, run_id FROM rejects ORDER BY stage").to_pylist()
    assert rejects == [
        {"stage": "mapping", "key": "b", "kind": "refused", "run_id": "r1"},
        {"stage": "source", "key": "bad", "kind": "bad", "run_id": "r1"},
    ]


def test_more_refusals_than_allowed_fail_the_stage_and_keep_its_work(tmp_path):
    chain = make_chain(tmp_path, list("abc"), make_mapping([], refuse=("b", "c")), max_refused=0.5)
    with pytest.raises(StageFailed, match="refused 2 of 3 items"):
        run(chain)
    assert chain.store.read(CHROMA, chain.fingerprint("mapping")).num_rows == 1


def test_a_failing_shard_fails_the_stage_with_its_reason_and_the_other_shards_are_kept(tmp_path):
    chain = make_chain(tmp_path, list("abcde"), make_mapping([], fail=("b",)))
    with pytest.raises(StageFailed, match="1 of its shards failed; shard 0: cannot do b"):
        run(chain)
    assert chain.store.shards(CHROMA, chain.fingerprint("mapping")) == ["1"]
    row = next(row for row in chain.store.read(RUNS, "1").to_pylist() if row["stage"] == "mapping")
    assert "cannot do b" in row["error"]
    calls: list[str] = []
    repaired = make_chain(tmp_path, list("abcde"), make_mapping(calls))
    run(repaired, "r2")
    assert calls == list("abc")


def test_another_setting_makes_a_new_version_beside_the_old_one(tmp_path):
    chain, other = (make_chain(tmp_path, list("ab"), make_mapping([]), level=level) for level in (1.0, 2.0))
    run(chain)
    run(other, "r2")
    assert len(chain.store.versions(CHROMA)) == 2
    assert len(chain.store.versions(TRACKS)) == 1


def test_a_stage_that_is_asked_to_stop_stops_and_the_next_run_completes_it(tmp_path):
    calls: list[str] = []
    chain = make_chain(tmp_path, list("abcde"), make_mapping(calls))
    run_stage(chain.steps["source"], chain.context("source", "r1"))
    context = chain.context("mapping", "r1")
    context.stop.set()
    with pytest.raises(Stopped):
        run_stage(chain.steps["mapping"], context)
    assert run(chain, "r2")[1].made == 5


def test_a_stage_whose_input_is_missing_says_which_stage_to_run(tmp_path):
    chain = make_chain(tmp_path, list("ab"), make_mapping([]))
    step, context = chain.steps["mapping"], chain.context("mapping", "r1")
    from stages.runner import run_job

    with pytest.raises(ValueError, match=r"expected the table tracks .* run the stage that makes it first"):
        run_job(step, context, "0")


@pytest.mark.parametrize(
    ("rows", "rejects", "message"),
    [
        ([], [], "got nothing for a"),
        ([{"track_id": "a"}, {"track_id": "z"}], [], "got z besides"),
        ([{"track_id": "a"}], [Reject("a", "", "", "")], "got a besides"),
        ([{"track_id": "a", "colour": "red"}], [], r"got \['colour'\]"),
    ],
)
def test_a_stage_that_does_not_account_for_every_row_once_is_caught(tmp_path, rows, rejects, message):
    broken = make_mapping([])
    broken.shard = lambda config, context, tracks: Shard(rows, rejects)
    with pytest.raises(StageFailed, match=message):
        run(make_chain(tmp_path, ["a"], broken))


def make_training(calls: list[str]) -> ModuleType:
    module = ModuleType("training")
    module.READS, module.CONSULTS, module.WRITES, module.VERSION = (CHROMA,), (), CLAP, 1
    module.whole = lambda config, context, chroma: (
        calls.append(context.identity) or Whole([{"track_id": context.identity, "starts": [float(chroma.num_rows)]}])
    )
    return module


@pytest.mark.parametrize(("refresh", "times"), [("missing", 1), ("changed", 2), ("never", 0)])
def test_a_whole_set_stage_is_made_anew_as_its_refresh_policy_says(tmp_path, refresh, times):
    calls: list[str] = []
    for run_id, names in (("r1", "ab"), ("r2", "ab"), ("r3", "abc")):
        steps = [*make_chain(tmp_path, list(names), make_mapping([])).steps.values()]
        chain = Chain(
            [*steps, Step("training", make_training(calls), Training(refresh=refresh))], Settings(store=str(tmp_path))
        )
        for step in chain.steps.values():
            run_stage(step, chain.context(step.name, run_id), asked=False)
    assert len(calls) == times
    assert len(set(calls)) == times


def test_asked_by_name_a_whole_set_stage_runs_against_its_policy(tmp_path):
    calls: list[str] = []
    steps = [*make_chain(tmp_path, list("ab"), make_mapping([])).steps.values()]
    chain = Chain(
        [*steps, Step("training", make_training(calls), Training(refresh="never"))], Settings(store=str(tmp_path))
    )
    for step in chain.steps.values():
        run_stage(step, chain.context(step.name, "r1"), asked=True)
    assert len(calls) == 1


def test_what_was_refused_for_want_of_something_consulted_is_tried_again_once_that_changed(tmp_path):
    calls: list[str] = []

    def consulting(names: str) -> Chain:
        mapping = make_mapping([])
        looking = make_mapping(calls)
        looking.READS, looking.CONSULTS, looking.WRITES = (CHROMA,), (TRACKS,), CLAP

        def shard(config, context, chroma):
            wanted, known = chroma.column("track_id").to_pylist(), context.rows(TRACKS).column("track_id").to_pylist()
            calls.extend(wanted)
            if "c" in known:
                return Shard([{"track_id": name} for name in wanted])
            return Shard([], [Reject(name, name, "unknown", "c is not there") for name in wanted])

        looking.shard = shard
        steps = [Step("source", make_source(list(names)), Knobs()), Step("mapping", mapping, Knobs())]
        return Chain([*steps, Step("looking", looking, Knobs())], Settings(store=str(tmp_path), max_refused=1.0))

    assert run(consulting("ab"), "r1")[2].refused == 2
    assert run(consulting("ab"), "r2")[2].refused == 2
    assert calls == ["a", "b"]
    third = run(consulting("abc"), "r3")[2]
    assert (third.made, third.refused) == (3, 0)


def test_a_plan_of_an_empty_store_estimates_what_follows(tmp_path):
    chain = make_chain(tmp_path, list("abcd"), make_mapping([]))
    plans = plan_chain(chain, ["source", "mapping"], asked=False)
    assert [(plan.stage, plan.make, plan.estimated) for plan in plans] == [("source", 4, False), ("mapping", 4, True)]
    run(chain)
    assert [(plan.jobs, plan.reuse) for plan in plan_chain(chain, ["source", "mapping"], asked=False)] == [
        ((), 4),
        ((), 4),
    ]


def test_a_context_travels_to_another_process_without_its_listener(tmp_path):
    import pickle

    chain = make_chain(tmp_path, list("ab"), make_mapping([]))
    context = replace(chain.context("source", "r1"))
    context.stop.set()
    other: Context = pickle.loads(pickle.dumps(context))
    assert other.fingerprint == context.fingerprint
    assert not other.stop.is_set()


SLOW_RUN = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, sys.argv[2])
    from tests.stages.test_runner import make_chain, make_mapping, run
    mapping = make_mapping([])
    quick = mapping.shard
    mapping.shard = lambda *given: (time.sleep(0.02), quick(*given))[1]
    run(make_chain(sys.argv[1], [f"{n:03}" for n in range(60)], mapping))
""")


def test_a_run_killed_at_random_instants_and_run_again_equals_an_undisturbed_one(tmp_path, request):
    names = [f"{number:03}" for number in range(60)]
    undisturbed = make_chain(tmp_path / "undisturbed", names, make_mapping([]))
    run(undisturbed)
    seed, root = random.Random(1), str(request.config.rootpath)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(tmp_path / "killed"), root])
        while process.poll() is None and not (tmp_path / "killed").exists():
            time.sleep(0.01)
        time.sleep(seed.random() * 0.5)
        killed += process.poll() is None
        process.kill()
        process.wait()
    chain = make_chain(tmp_path / "killed", names, make_mapping([]))
    run(chain, "last")
    assert killed
    assert contents(chain) == contents(undisturbed)
    assert Store(str(tmp_path / "killed")).read(RUNS, "1").num_rows >= 2
    assert isinstance(chain.store.read(CHROMA, chain.fingerprint("mapping")), pa.Table)
