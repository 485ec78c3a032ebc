"""The runner around tiny stages: real shards, real kills, no machine learning."""

import random
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pyarrow as pa
import pytest

from schemas import Store
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.tables import CHROMA, RUNS, TRACKS
from stages.pipeline.contract import Reject, Shard, Stopped
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.remarks import Remark
from stages.pipeline.runner import StageFailed, run_stage
from tests.worlds.tiny_stages import Training, contents, make_mapping, make_pipeline, make_training, run


def test_every_row_flows_through_and_a_second_run_does_nothing(tmp_path):
    calls: list[str] = []
    pipeline = make_pipeline(tmp_path, list("abcde"), make_mapping(calls))
    first = run(pipeline)
    assert [counts.made for counts in first] == [5, 5]
    assert sorted(calls) == list("abcde")
    before = contents(pipeline)
    second = run(make_pipeline(tmp_path, list("abcde"), make_mapping(calls)), "r2")
    assert [(counts.made, counts.reused) for counts in second] == [(0, 5), (0, 5)]
    assert sorted(calls) == list("abcde")
    assert contents(pipeline) == before


def test_rows_have_the_order_of_their_inputs_whatever_order_they_finish_in(tmp_path):
    def backwards(mapping):
        forwards = mapping.shard
        mapping.shard = lambda config, context, tracks: iter(list(forwards(config, context, tracks))[::-1])
        return mapping

    pipeline = make_pipeline(tmp_path, list("ac"), backwards(make_mapping([])))
    run(pipeline)
    run(make_pipeline(tmp_path, list("abc"), backwards(make_mapping([]))), "r2")
    store = pipeline.store
    rows = [store.read(table, pipeline.fingerprint(name)) for table, name in ((TRACKS, "source"), (CHROMA, "mapping"))]
    assert rows[0].column("track_id").to_pylist() == rows[1].column("track_id").to_pylist()
    assert rows[1].num_rows == 3


def test_a_new_row_changes_one_shard_and_is_the_only_one_computed(tmp_path):
    calls: list[str] = []
    run(make_pipeline(tmp_path, list("abcd"), make_mapping(calls)))
    calls.clear()
    pipeline = make_pipeline(tmp_path, list("abcde"), make_mapping(calls))
    run_stage(pipeline.stages["source"], pipeline.context("source", "r2"))
    plan = plan_stage(pipeline.stages["mapping"], pipeline.context("mapping", "r2"), by_name=False)
    assert (plan.jobs, plan.make, plan.reuse) == (("1",), 1, 4)
    assert run_stage(pipeline.stages["mapping"], pipeline.context("mapping", "r2")).counts.reused == 4
    assert calls == ["e"]


def test_a_source_is_planned_once_and_later_stages_from_the_state_it_leaves(tmp_path):
    planned = []
    pipeline = make_pipeline(tmp_path, ["a", "b"], make_mapping([]))
    source = pipeline.stages["source"].module
    plan_source = source.plan_source
    source.plan_source = lambda *arguments: planned.append(arguments) or plan_source(*arguments)
    for made in (2, 0):
        results = [run_stage(stage, pipeline.context(stage.name, f"r{made}")) for stage in pipeline.stages.values()]
        assert [result.counts.made for result in results] == [made, made]
    assert len(planned) == 2  # once with work, and once without


def test_results_of_a_removed_row_are_removed_and_the_rest_is_reused(tmp_path):
    calls: list[str] = []
    run(make_pipeline(tmp_path, list("abcd"), make_mapping(calls)))
    calls.clear()
    pipeline = make_pipeline(tmp_path, list("acd"), make_mapping(calls))
    run(pipeline, "r2")
    assert calls == []
    assert pipeline.store.read(CHROMA, pipeline.fingerprint("mapping")).column("track_id").to_pylist() == list("acd")


def test_a_refused_row_is_in_rejects_and_is_not_computed_again(tmp_path):
    calls: list[str] = []
    pipeline = make_pipeline(tmp_path, ["a", "b", "bad"], make_mapping(calls, refuse=("b",)))
    assert [counts.refused for counts in run(pipeline)] == [1, 1]
    again = make_pipeline(tmp_path, ["a", "b", "bad", "c"], make_mapping(calls, refuse=("b",)))
    assert [counts.refused for counts in run(again, "r2")] == [1, 1]
    assert calls == ["a", "b", "c"]
    rejects = query(pipeline.store, "SELECT stage, key, kind, run_id FROM rejects ORDER BY stage").to_pylist()
    assert rejects == [
        {"stage": "mapping", "key": "b", "kind": "refused", "run_id": "r1"},
        {"stage": "source", "key": "bad", "kind": "bad", "run_id": "r1"},
    ]


def make_noticing(odd: str):
    """A mapping that remarks on every track, and also on those of `odd`."""
    mapping = make_mapping([])
    quick = mapping.shard

    def shard(config, context, tracks):
        for name in tracks.column("track_id").to_pylist():
            context.remarks.add("tracks that were seen", "", name)
            if name in odd:
                context.remarks.add("odd names", f"{name}.csv", name)
        return quick(config, context, tracks)

    mapping.shard = shard
    return mapping


def test_remarks_of_a_stage_are_kept_by_kind_and_location_with_the_first_examples(tmp_path):
    pipeline = make_pipeline(tmp_path, list("abcdefg"), make_noticing("bg"))
    run(pipeline)
    remarks = query(pipeline.store, "SELECT * FROM remarks ORDER BY what, location, examples").to_pylist()
    seen = {"stage": "mapping", "what": "tracks that were seen", "location": "", "run_id": "r1"}
    odd = {"stage": "mapping", "what": "odd names", "count": 1, "run_id": "r1"}
    assert remarks == [
        odd | {"location": "b.csv", "examples": ["b"]},
        odd | {"location": "g.csv", "examples": ["g"]},
        seen | {"count": 3, "examples": ["a", "b", "c"]},
        seen | {"count": 3, "examples": ["d", "e", "f"]},
        seen | {"count": 1, "examples": ["g"]},
    ]


def test_remarks_are_removed_with_their_shard_and_replaced_by_later_jobs(tmp_path):
    run(make_pipeline(tmp_path, list("abcdefg"), make_noticing("bg")))
    pipeline = make_pipeline(tmp_path, list("acdh"), make_noticing("bg"))
    run(pipeline, "r2")
    remarks = query(pipeline.store, "SELECT what, examples FROM remarks ORDER BY ALL").to_pylist()
    # The jobs of the shards that only lost rows remarked on nothing, and that of the last one on another track.
    assert remarks == [{"what": "tracks that were seen", "examples": ["h"]}]


def test_changed_remarks_of_a_source_are_work_to_do(tmp_path):
    def plan():
        return plan_stage(pipeline.stages["source"], pipeline.context("source", "r"), by_name=False)

    pipeline = make_pipeline(tmp_path, ["a"])
    run(pipeline)
    assert plan().jobs == ()
    source = pipeline.stages["source"].module
    quick, odd = source.plan_source, Remark("files of no known kind", "", 1, ("x.dsf",))

    def read_source(config, context, known, refused):
        context.remarks.add(odd.what, odd.location, *odd.examples)
        yield from ()

    source.plan_source = lambda *given: replace(quick(*given), remarks=[odd])
    source.read_source = read_source
    assert (plan().jobs, plan().make, plan().remarks) == (("all",), 0, (odd,))
    run(pipeline, "r2")
    assert plan().jobs == ()
    source.plan_source = lambda *given: replace(quick(*given), remarks=[])
    assert plan().jobs == ("all",)


def test_more_refusals_than_allowed_fail_the_stage_but_its_work_is_kept(tmp_path):
    pipeline = make_pipeline(tmp_path, list("abc"), make_mapping([], refuse=("b", "c")), max_refused=0.5)
    with pytest.raises(StageFailed, match="refused 2 of 3 items"):
        run(pipeline)
    drafts = Drafts(pipeline.store, CHROMA, pipeline.fingerprint("mapping"))
    assert drafts.read().num_rows == 1
    assert query(pipeline.store, "FROM chroma").num_rows == 0


def test_a_failing_shard_fails_the_stage_and_the_other_shards_are_kept(tmp_path):
    pipeline = make_pipeline(tmp_path, list("abcde"), make_mapping([], fail=("b",)))
    with pytest.raises(StageFailed, match="1 of its shards failed; shard 0: cannot do b"):
        run(pipeline)
    drafts = Drafts(pipeline.store, CHROMA, pipeline.fingerprint("mapping"))
    assert drafts.drafted() == ["1"]
    assert query(pipeline.store, "FROM chroma").num_rows == 0
    row = next(row for row in pipeline.store.read(RUNS, "1").to_pylist() if row["stage"] == "mapping")
    assert "cannot do b" in row["error"]
    calls: list[str] = []
    repaired = make_pipeline(tmp_path, list("abcde"), make_mapping(calls))
    run(repaired, "r2")
    assert calls == list("bc")


def test_another_setting_makes_a_new_version_beside_the_old_one(tmp_path):
    pipeline, other = (make_pipeline(tmp_path, list("ab"), make_mapping([]), level=level) for level in (1.0, 2.0))
    run(pipeline)
    run(other, "r2")
    assert len(pipeline.store.versions(CHROMA)) == 2
    assert len(pipeline.store.versions(TRACKS)) == 1


def test_a_stopped_stage_is_completed_by_the_next_run(tmp_path):
    calls: list[str] = []
    pipeline = make_pipeline(tmp_path, list("abcde"), make_mapping(calls))
    run_stage(pipeline.stages["source"], pipeline.context("source", "r1"))
    context = pipeline.context("mapping", "r1")
    context.stop.set()
    with pytest.raises(Stopped):
        run_stage(pipeline.stages["mapping"], context)
    assert run(pipeline, "r2")[1].made == 5


def test_a_stage_without_its_input_says_to_run_the_stage_before_it(tmp_path):
    pipeline = make_pipeline(tmp_path, list("ab"), make_mapping([]))
    stage, context = pipeline.stages["mapping"], pipeline.context("mapping", "r1")
    from stages.pipeline.jobs import run_job

    with pytest.raises(ValueError, match=r"expected the table tracks .* run the stage that makes it first"):
        run_job(stage, context, "0")


def test_an_optional_input_may_be_missing(tmp_path):
    mapping = make_mapping([])
    pipeline = make_pipeline(tmp_path, ["a"], mapping)
    training = ConfiguredStage("training", make_training([]), Training())
    pipeline = Pipeline([*pipeline.stages.values(), training], pipeline.settings)
    with pytest.raises(StageFailed, match=r"expected the table chroma .* run the stage that makes it first"):
        run_stage(training, pipeline.context("training", "r1"))
    training.module.OPTIONAL = (CHROMA,)
    assert run_stage(training, pipeline.context("training", "r2")).counts.made == 1


@pytest.mark.parametrize(
    ("rows", "rejects", "message"),
    [
        ([], [], "got nothing for a"),
        ([{"track_id": "a"}, {"track_id": "z"}], [], "got z in addition"),
        ([{"track_id": "a"}], [Reject("a", "", "", "")], "got a in addition"),
        ([{"track_id": "a", "colour": "red"}], [], r"got \['colour'\]"),
    ],
)
def test_a_stage_must_account_for_every_row_exactly_once(tmp_path, rows, rejects, message):
    broken = make_mapping([])
    broken.shard = lambda config, context, tracks: iter([Shard(rows, rejects)])
    with pytest.raises(StageFailed, match=message):
        run(make_pipeline(tmp_path, ["a"], broken))


SLOW_RUN = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, sys.argv[2])
    from tests.worlds.tiny_stages import make_pipeline, make_mapping, run
    mapping = make_mapping([])
    quick = mapping.shard
    mapping.shard = lambda *given: (time.sleep(0.02), quick(*given))[1]
    run(make_pipeline(sys.argv[1], [f"{n:03}" for n in range(60)], mapping))
""")


def test_a_run_killed_at_random_instants_and_run_again_equals_an_undisturbed_one(tmp_path, request):
    names = [f"{number:03}" for number in range(60)]
    undisturbed = make_pipeline(tmp_path / "undisturbed", names, make_mapping([]))
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
    pipeline = make_pipeline(tmp_path / "killed", names, make_mapping([]))
    run(pipeline, "last")
    assert killed
    assert contents(pipeline) == contents(undisturbed)
    assert Store(str(tmp_path / "killed")).read(RUNS, "1").num_rows >= 2
    assert isinstance(pipeline.store.read(CHROMA, pipeline.fingerprint("mapping")), pa.Table)
