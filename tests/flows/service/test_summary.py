"""The summary of a run: pictures of what it made, metadata as plain text, and no pictures if nothing was made."""

import pytest

from flows.runs.running import Run, RunPlan
from flows.service.summary import CLIPS, summary_text
from schemas import Settings
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CLIPS as CLIPS_TABLE
from schemas.tables import REQUESTS
from stages import report, train
from stages.pipeline.jobs import Counts
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, StageResult
from tests.stages.report.test_report import make
from tests.worlds.small_catalog import VERSION, request_row, small_catalog

STAGES = [ConfiguredStage("train", train, train.Config()), ConfiguredStage("report", report, report.Config())]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("store"))
    requests = [request_row(number) | {"title": "![](http://elsewhere/x.png) <script>"} for number in range(5)]
    context = small_catalog(folder, requests)
    make(context)
    for table in (CLIPS_TABLE, REQUESTS):
        manifest = Drafts(context.store, table, VERSION).manifest()
        Publications(context.store).publish("r0", table.name, {table.name: (VERSION, manifest)})
    return folder


def run(store, *, changed):
    plan = RunPlan(STAGES, [stage.name for stage in STAGES], Settings(store=store))
    results = [StageResult(stage.name, Counts(1), 90.0, changed) for stage in STAGES]
    return Run(plan, run_id="r1", results=results)


def test_a_run_that_trained_and_made_the_page_shows_curves_and_spectrograms_of_three_clips(store):
    text = summary_text(run(store, changed=True), None)
    assert text.startswith("# Run r1 is complete")
    assert text.count("![spectrogram](data:image/png;base64,") == CLIPS
    assert "![Loss](data:image/svg+xml;base64," in text
    assert "It took 3 min in its stages" in text
    assert len(text) < 200_000


def test_metadata_in_the_summary_is_in_an_indented_block(store):
    lines = summary_text(run(store, changed=True), None).splitlines()
    assert [line for line in lines if "elsewhere" in line] == ["    ![](http://elsewhere/x.png) <script>"] * CLIPS


def test_a_run_that_changed_nothing_or_failed_shows_no_pictures(store):
    idle = summary_text(run(store, changed=False), None)
    assert idle.startswith("# There was nothing to do")
    failed = summary_text(run(store, changed=False), StageFailed("decode: all of it\nfailed"))
    assert "# Run r1 ended with an error\n\n    decode: all of it failed" in failed
    assert "data:" not in idle + failed


def test_a_failed_run_in_a_missing_store_has_a_summary(tmp_path):
    empty = Run(RunPlan(STAGES, ["train"], Settings(store=str(tmp_path / "none"))), run_id="r1")
    assert "No stage ended." in summary_text(empty, ValueError("expected weights"))
