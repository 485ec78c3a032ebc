"""A source read by many jobs: the tables equal those of one job, even after kills, and nothing is read twice."""

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Settings
from schemas.storage.drafts import Drafts
from schemas.tables import PRINTS, REJECTS, TRACKS
from stages import ingest
from stages.ingest.config import Limits
from stages.ingest.listing import File
from stages.ingest.probe import AudioProbe, Refused, probe_recording
from stages.ingest.readings import READING, reading_row, result_of
from stages.pipeline.contract import Context, Stopped
from stages.pipeline.jobs import JobResult, run_job
from stages.pipeline.parts import PART, Readings, cut_ranges, list_parts
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_one_by_one, run_stage
from tests.worlds.ingest_world import Counter, World
from tests.worlds.recordings import write

FILES = 26


class Shared(World):
    """A source whose files are read by many jobs, at most three files each."""

    opened: list[str]

    def context(self) -> Context:
        context = super().context()
        context.settings = Settings(store=self.store.url, source=self.source, workers=1, concurrency=3)
        return context

    def run_in_parts(self, run_jobs=run_one_by_one) -> None:
        run_stage(ConfiguredStage("ingest", ingest, self.config), self.context(), run_jobs=run_jobs)

    def scratch(self) -> list[str]:
        return self.store.files("scratch/ingest-v")


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the files that were read, in order."""
    names: list[str] = []

    def probe(uri: str, limits: Limits) -> AudioProbe | Refused:
        names.append(Path(uri).name)
        return probe_recording(uri, limits)

    monkeypatch.setattr("stages.ingest.probe.probe_recording", probe)
    monkeypatch.setattr("stages.pipeline.parts.FEWEST_ITEMS", 3)
    monkeypatch.setattr("stages.pipeline.parts.SAVE_SECONDS", 0.0)
    return names


@pytest.fixture
def calm(tmp_path: Path) -> World:
    """A source ingested by one job, with repeated sounds, a copy and files that are not audio."""
    world = World(tmp_path / "calm", shard_size=4)
    for number in range(FILES):
        world.add(f"{number:02}.flac", number % 22, seconds=0.6)
    for name in ("03 bad.wav", "17 bad.wav"):
        write(world.music / name, b"bad")
    world.run()
    return world


def shared(calm: World, folder: Path) -> Shared:
    world = Shared(folder, shard_size=4)
    world.music, world.source = calm.music, calm.source
    return world


def all_tables(world: World) -> list:
    prints = [world.store.read(PRINTS, "v", [shard]).to_pylist() for shard in world.store.shards(PRINTS, "v")]
    return [*world.tables(), prints]


def test_many_jobs_make_the_same_tables_as_one_and_read_each_file_once(calm, tmp_path, opened) -> None:
    world, done = shared(calm, tmp_path / "shared"), []

    def run_jobs(stage, context, jobs):
        done.append(list(jobs))
        return run_one_by_one(stage, context, list(reversed(jobs)))  # in any order

    world.run_in_parts(run_jobs)
    assert done == [[f"{PART}{number}" for number in range(10)], ["all"]]
    assert sorted(opened) == sorted(path.name for path in calm.music.iterdir())
    assert all_tables(world) == all_tables(calm)
    assert world.scratch() == []


def test_a_run_with_killed_jobs_is_completed_reading_only_the_rest(calm, tmp_path, opened) -> None:
    world = shared(calm, tmp_path / "shared")

    def killed(stage, context, jobs):
        run_one_by_one(stage, context, [jobs[7], jobs[2]])
        context.stop = threading.Event()
        context.progress = StopAfter(context.stop, 2)
        with pytest.raises(Stopped):
            run_job(stage, context, jobs[4])
        return [JobResult(jobs[0], error=ConnectionError("the worker is gone"))]

    with pytest.raises(StageFailed, match="1 of its jobs failed; job part-0: the worker is gone"):
        world.run_in_parts(killed)
    before = len(opened)
    assert before == 3 + 3 + 2
    assert Drafts(world.store, TRACKS, "v").shards() == []
    world.run_in_parts()
    assert len(opened) == FILES + 2
    assert len(set(opened)) == FILES + 2
    assert all_tables(world) == all_tables(calm)


class StopAfter(Counter):
    """Asks a run to stop after it has read so many files."""

    def __init__(self, stop: threading.Event, wanted: int) -> None:
        super().__init__()
        self.stop, self.wanted = stop, wanted

    def advance(self, count: int = 1, note: str = "") -> None:
        super().advance(count)
        if self.done == self.wanted:
            self.stop.set()


def test_a_job_done_twice_reads_nothing_the_second_time(calm, tmp_path, opened) -> None:
    world = shared(calm, tmp_path / "shared")
    stage = ConfiguredStage("ingest", ingest, world.config)
    jobs = list_parts(stage, world.context())
    run_job(stage, world.context(), jobs[1])
    assert len(opened) == 3
    run_job(stage, world.context(), jobs[1])
    assert len(opened) == 3
    assert len(list_parts(stage, world.context())) == 9


def test_a_file_changed_after_a_job_read_it_is_read_again(calm, tmp_path, opened) -> None:
    world = shared(calm, tmp_path / "shared")
    stage = ConfiguredStage("ingest", ingest, world.config)
    run_job(stage, world.context(), list_parts(stage, world.context())[0])
    calm.add("00.flac", seed=40, seconds=0.8)
    world.run_in_parts()
    assert opened.count("00.flac") == 2
    alone = World(tmp_path / "alone", shard_size=4)
    alone.music, alone.source = calm.music, calm.source
    alone.run()
    assert all_tables(world) == all_tables(alone)


def test_files_that_a_job_could_not_reach_are_read_by_the_run_itself(calm, tmp_path, opened, monkeypatch) -> None:
    world = shared(calm, tmp_path / "shared")
    reached = probe_recording

    def run_jobs(stage, context, jobs):
        def away(uri: str, limits: Limits) -> AudioProbe | Refused:
            return Refused("unreadable", "expected a file, got none: it is not mounted", lasting=False)

        monkeypatch.setattr("stages.ingest.probe.probe_recording", away if len(jobs) > 1 else reached)
        return run_one_by_one(stage, context, jobs)

    world.run_in_parts(run_jobs)
    assert all_tables(world) == all_tables(calm)
    assert {row["kind"] for row in world.store.read(REJECTS, "v").to_pylist()} == {"unreadable"}


def test_without_concurrency_or_with_few_files_there_is_one_job(calm, tmp_path) -> None:
    world = shared(calm, tmp_path / "shared")
    stage = ConfiguredStage("ingest", ingest, world.config)
    assert len(list_parts(stage, world.context())) == 4
    assert list_parts(stage, World.context(world)) == ()
    (few := shared(calm, tmp_path / "few")).config = world.config.model_copy(update={"include": ("00.flac",)})
    assert list_parts(ConfiguredStage("ingest", ingest, few.config), few.context()) == ()


def test_parts_are_limited_in_items_and_bytes_and_use_the_concurrency() -> None:
    assert list(cut_ranges([1] * 100, at_once=1)) == [(0, 25), (25, 50), (50, 75), (75, 100)]
    assert list(cut_ranges([1] * 20, at_once=8)) == [(0, 8), (8, 16), (16, 20)]
    assert len(list(cut_ranges([1] * 1_000_000, at_once=1))) == 3907
    assert list(cut_ranges([2**29, 2**29, 1, 2**31, 1], at_once=1)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(cut_ranges([], at_once=1)) == []


def test_readings_of_files_are_restored_unchanged(tmp_path) -> None:
    world = World(tmp_path)
    path = world.add("one.flac", seconds=1.2)
    file = File(str(path), "one.flac", "1", path.stat().st_size)
    results = [probe_recording(file.uri, Limits()), Refused("silent", "expected sound")]
    readings = Readings(world.context())
    for number, result in enumerate(results):
        readings.keep([reading_row(file._replace(uri=str(number)), result)], READING)
    kept = Readings(world.context())
    taken = [kept.take((str(number), "1")) for number in range(2)]
    assert [result_of(each) for each in taken] == results
    assert isinstance(results[0], AudioProbe)
    assert taken[0].schema.field("loudness").type == pa.float64()
