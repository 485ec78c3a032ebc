"""Requests are shown together with their clips, not before."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.runs.running import Run, RunPlan, run_stages
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.storage.publications import Publications
from stages.pipeline.contract import Context
from stages.pipeline.jobs import JobResult
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_one_by_one
from tests.worlds.tiny_chain import INPUTS, chain, run_chain, write_inputs

TRACKS, ORDER = INPUTS["first"]


def shown(store: Store) -> tuple[set[str], int]:
    """The descriptions of the shown requests, and the number of shown clips of other requests."""
    requests = query(store, "SELECT description FROM requests").column("description").to_pylist()
    strangers = query(store, "FROM clips ANTI JOIN requests USING (request_id)").num_rows
    return set(requests), strangers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inputs = write_inputs(tmp_path, TRACKS, ["2 calm", "1 loud like fa"])
    settings = Settings(store=str(tmp_path / "store"), max_refused=1.0, **inputs)
    run_chain(settings)
    return settings


def test_a_new_order_is_shown_once_its_clips_have_passed_even_if_a_run_fails_before(
    settings: Settings, tmp_path: Path
) -> None:
    store, looks = Store(settings.store), {}
    assert shown(store) == ({"calm", "loud like fa"}, 0)
    write_inputs(tmp_path, TRACKS, ["1 other"])

    def run(ends: str | None) -> None:
        def do(stage: ConfiguredStage, context: Context, jobs: Sequence[str]) -> Sequence[JobResult]:
            looks[stage.name] = shown(store)
            if stage.name == ends:
                raise StageFailed(f"{ends} fails")
            return run_one_by_one(stage, context, jobs)

        stages = chain()
        run_stages(Run(RunPlan(stages, [stage.name for stage in stages], settings)), do)

    with pytest.raises(StageFailed):
        run("decode")
    assert looks["generate"] == looks["decode"] == ({"calm", "loud like fa"}, 0)
    assert shown(store) == ({"calm", "loud like fa"}, 0)
    run(None)
    assert looks["report"] == ({"other"}, 0)
    newest = Publications(store).shown()
    assert newest["requests"].sequence + 1 == newest["clips"].sequence


def test_an_order_without_a_run_of_its_clips_or_without_new_clips_is_shown_at_once(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings.store)
    write_inputs(tmp_path, TRACKS, ["1 other"])
    run_chain(settings, names=["requests"])
    assert shown(store)[0] == {"other"}
    run_chain(settings)
    assert shown(store) == ({"other"}, 0)
    write_inputs(tmp_path, TRACKS, ["1 other", "1 odd like sol"])  # which is refused
    run_chain(settings)
    assert shown(store) == ({"other", "odd like sol"}, 0)
