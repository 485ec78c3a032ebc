"""Orders from the command line: a run does what its plan said, and no mistake in a file costs a finished clip."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.cli import run_command
from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.queries.database import query
from stages.checkpoints.converting import convert_checkpoint
from stages.pipeline.runner import StageFailed
from tests.worlds.open_gate import OPEN_GATE
from tests.worlds.small_checkpoint import find, small_checkpoint

STAGES = ["requests", "generate", "gate", "decode"]
OPEN = [f"{name}={value}" for name, value in OPEN_GATE.items()]
LINES = [{"name": name, "description": "slow jazz piano", "seconds": 1.0, "takes": 3} for name in ("a", "b")]


@dataclass(frozen=True)
class World:
    """A store whose last order, two requests of three takes each, is complete; and a small model that makes clips."""

    folder: Path
    store: Store

    def file(self, *lines: dict[str, object]) -> str:
        path = self.folder / "order.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    def words(self, file: str, *more: str) -> list[str]:
        knobs = (f"generate.checkpoint={self.folder}/imported", "settings.device=cpu", "settings.offline=true", *OPEN)
        place = ["--preset", "musicgen-small", "--store", self.store.url, "--source", "nowhere", "--requests", file]
        return [*place, *(word for knob in knobs for word in ("--set", knob)), *more]

    def run(self, file: str, **settings: object) -> dict[str, int]:
        """Run the stages, and return how many rows each of them made."""
        knobs = [f"generate.checkpoint={self.folder}/imported", "settings.device=cpu", "settings.offline=true", *OPEN]
        options = {"store": self.store.url, "source": "nowhere", "requests": file, **settings}
        run = Run(parse_run_options(STAGES, "musicgen-small", options, knobs).plan)
        run_stages(run)
        return {result.stage: result.counts.made for result in run.results}

    def clips(self) -> set[tuple[str, int, str]]:
        rows = query(self.store, "SELECT name, take, path FROM clips JOIN requests USING (request_id)").to_pylist()
        return {(row["name"], row["take"], row["path"]) for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("orders")
    convert_checkpoint(small_checkpoint(folder).folder, folder / "imported", "segue", find)
    world = World(folder, Store(str(folder / "store")))
    assert world.run(world.file(*LINES)) == {"requests": 2, "generate": 6, "gate": 6, "decode": 6}
    return world


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The world, restored after each test: what a test dropped comes back from the history."""
    yield made
    made.run(made.file(*LINES), drop_requests=True)
    assert len(made.clips()) == 6


@pytest.fixture
def plan(world: World, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, list[str]], str, str]]:
    """Plans an order, and returns the exit code, the table's cells by stage, the lines after it, and the errors."""

    def planned(file: str, *more: str) -> tuple[int, dict[str, list[str]], str, str]:
        code = run_command(["plan", *STAGES, *world.words(file, *more)])
        captured = capfd.readouterr()
        lines = captured.out.splitlines()
        table = {line.split()[0]: line.split()[1:] for line in lines if line.split()[0] in STAGES}
        return code, table, "\n".join(lines[1 + len(table) :]), captured.err

    return planned


def test_a_plan_counts_the_clips_that_the_run_then_makes(world, plan):
    file = world.file(LINES[0], LINES[1] | {"takes": 5}, {"name": "c", "description": "fast rock", "seconds": 2.0})
    code, table, said, errors = plan(file)
    assert (code, errors) == (0, "")
    assert {stage: (cells[1], cells[2]) for stage, cells in table.items()} == {
        **{"requests": ("2", "1"), "generate": ("3", "6"), "gate": ("3", "6"), "decode": ("3", "6")}
    }
    assert said.splitlines()[0] == "order: 3 requests, 9 clips, 10 seconds of sound"
    assert re.match(r"to make: 3 clips, 100 frames, 4 seconds of sound; about \d+ s \(generate ", said.splitlines()[1])
    assert re.search(r"and [\d.]+ (kB|MB), judging by earlier runs of this store$", said.splitlines()[1])
    assert re.match(r"in all: about \d+ s and [\d.]+ (kB|MB), judging by earlier runs", said.splitlines()[2])
    assert world.run(file) == {"requests": 2, "generate": 3, "gate": 3, "decode": 3}
    _, table, said, _ = plan(file)
    assert [cells[1] for cells in table.values()] == ["0"] * len(STAGES)
    assert "to make" not in said


def test_a_reordered_file_makes_nothing(world, plan):
    file = world.file(*reversed(LINES))
    code, table, _, errors = plan(file)
    assert (code, errors) == (0, "")
    assert [cells[1] for cells in table.values()] == ["0"] * len(STAGES)
    assert world.run(file) == {"requests": 0, "generate": 0, "gate": 0, "decode": 0}


def test_a_refused_line_costs_no_finished_clip_and_is_reported_by_plan_and_run(world, plan):
    before = world.clips()
    file = world.file(LINES[0], LINES[1] | {"seconds": -1})
    code, table, _, errors = plan(file)
    assert code == 1
    assert table["requests"][1:5] == ["0", "2", "0", "1"]
    assert "  line 2: seconds: expected greater than 0 seconds, got -1 (bad value)" in errors.splitlines()
    assert "requests: 3 clips of 1 request would stay as they are, marked stale" in errors.splitlines()
    assert "segue: a run would stop: requests: refused 1 of 2 lines" in errors
    with pytest.raises(StageFailed, match="refused 1 of 2 lines"):
        world.run(file)
    assert world.clips() == before
    assert plan(file, "--accept-refused", "1")[0] == plan(file, "--accept-refused", "50%")[0] == 0
    assert world.run(file, accept_refused=1) == {"requests": 0, "generate": 0, "gate": 0, "decode": 0}
    assert world.clips() == before
    (row,) = query(world.store, "SELECT name, stale FROM requests WHERE stale IS NOT NULL").to_pylist()
    assert row == {"name": "b", "stale": "line 2: seconds: expected greater than 0 seconds, got -1"}


def test_a_file_that_would_drop_clips_is_refused_without_drop(world, plan):
    before = world.clips()
    file = world.file({"name": "x", "description": "fast rock", "seconds": 1.0})
    code, _, _, errors = plan(file)
    assert code == 1
    assert "requests: would drop 6 clips of 2 requests of the last order (a, b)" in errors.splitlines()
    assert "--drop" in errors
    with pytest.raises(StageFailed, match="would drop 6 clips"):
        world.run(file)
    assert world.clips() == before
    code, _, _, errors = plan(file, "--drop")
    assert code == 0
    assert "requests: would drop 6 clips of 2 requests of the last order (a, b)" in errors.splitlines()
    assert world.run(file, drop_requests=True) == {"requests": 1, "generate": 1, "gate": 1, "decode": 1}
    assert {name for name, _, _ in world.clips()} == {"x"}


def test_a_changed_title_remakes_only_the_requests_row_and_the_files(world, plan):
    file = world.file(LINES[0], LINES[1] | {"title": "Evening"})
    table = plan(file)[1]
    assert [table[stage][1] for stage in STAGES] == ["1", "0", "0", "3"]
    assert world.run(file) == {"requests": 1, "generate": 0, "gate": 0, "decode": 3}


def test_an_invalid_accept_refused_is_one_line_and_exit_code_2(world, plan):
    for word in ("many", "1.5", "-1"):
        code, _, _, errors = plan(world.file(*LINES), f"--accept-refused={word}")
        assert (code, len(errors.splitlines())) == (2, 1)
        assert "accept" in errors


def test_the_query_that_a_failure_names_prints_the_whole_reason(world, capfd):
    with pytest.raises(StageFailed) as failure:
        world.run(world.file(*LINES, {"name": "c", "seconds": "eight and a half, or perhaps nine, who knows"}))
    statement = re.search(r"SELECT .* WHERE stage = 'requests'", str(failure.value))[0]
    assert run_command(["sql", statement, "--store", world.store.url]) == 0
    assert "got 'eight and a half, or perhaps nine, who knows'" in capfd.readouterr().out
