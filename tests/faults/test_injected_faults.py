"""Every operation of a run fails once, in every way, and the next run ends as if nothing had happened.

SQLite's method: the n-th operation fails, for n = 1, 2, … until a run meets no fault (sqlite.org/testing.html, 3).
There are thousands of faults, so each form tries as many as it has time for, chosen by the seed.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.storage.drafts import Drafts
from schemas.storage.shards import distinct
from stages.pipeline import jobs
from stages.pipeline.runner import StageFailed
from tests.faults.comparing import Seen, differences, seen
from tests.faults.faulty import Fault, FaultyFileSystem, Killed, Kind, Operation, can_fail
from tests.faults.forms import SEED
from tests.worlds.tiny_chain import INPUTS, run_chain, write_inputs

URL = "faulty://disk/store"
SHORT, LONG = 3, 100
"""Number of faults that the short form tries in a scenario, and that the long form tries for each way in a scenario."""

WAYS = [(kind, lasting) for kind in get_args(Kind) for lasting in (False, True)]
WAYS = [way for way in WAYS if way not in {("killed before", True), ("killed after", True), ("away", False)}]


@dataclass(frozen=True)
class Scenario:
    """A store before a run, the inputs of the run, and what is seen after an undisturbed run."""

    before: Mapping[str, bytes]
    settings: Settings
    operations: Sequence[Operation]
    """The operations of the undisturbed run."""
    wanted: Seen

    def faults(self, kind: Kind, lasting: bool) -> list[Fault]:
        """Return every fault of this kind that the run can meet."""
        count = sum(can_fail(kind, operation) for operation in self.operations)
        return [Fault(kind, number, lasting) for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """A first run, and a later one."""
    folder = tmp_path_factory.mktemp("inputs")
    scenarios, before = {}, dict[str, bytes]()
    for name, (tracks, requests) in INPUTS.items():
        settings = Settings(store=URL, **write_inputs(folder / name, tracks, requests))
        FaultyFileSystem.restore(before)
        with FaultyFileSystem.failing(None):
            run_chain(settings)
            operations = list(FaultyFileSystem.log)
        scenarios[name] = Scenario(before, settings, operations, seen(Store(URL)))
        before = FaultyFileSystem.contents()
    return scenarios


@pytest.fixture
def new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes later runs look like another process on another machine: earlier holders of leases are gone, and the cache
    is empty."""
    numbers = iter(range(1_000_000))

    def begin() -> None:
        number = str(next(numbers))
        monkeypatch.setattr("schemas.storage.leases._start_of", lambda pid: number)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / number))

    return begin


def problem_after(fault: Fault, scenario: Scenario, new_process: Callable[[], None]) -> str | None:
    """Run with a fault and again without it; return what was wrong, or None."""
    FaultyFileSystem.restore(dict(scenario.before))
    new_process()
    error: BaseException | None = None
    with FaultyFileSystem.failing(fault):
        try:
            run_chain(scenario.settings)
        except (Exception, Killed) as caught:
            error = caught
        assert FaultyFileSystem.met, f"nothing could fail: {fault}"
    if error is None:  # then the run has done everything
        lines = differences(seen(Store(URL)), scenario.wanted)
        return f"{fault}: no error, and yet {'; '.join(lines)}" if lines else None
    if not isinstance(error, OSError | ValueError | StageFailed | Killed):
        return f"{fault}: an error that tells a person nothing: {error!r}"
    new_process()
    try:
        run_chain(scenario.settings)
        lines = differences(seen(Store(URL)), scenario.wanted)
    except Exception as second:
        return f"{fault}: first {error!r}, then {second!r}"
    return f"{fault}: first {error!r}, then {'; '.join(lines)}" if lines else None


def survive(faults: Sequence[Fault], scenario: Scenario, new_process: Callable[[], None]) -> int:
    """Run with each fault, and return their number."""
    problems = [problem_after(fault, scenario, new_process) for fault in faults]
    found = [problem for problem in problems if problem]
    assert not found, f"{len(found)} of {len(faults)}:\n" + "\n".join(found[:10])
    return len(faults)


@pytest.mark.parametrize("name", ["first", pytest.param("night", marks=pytest.mark.slow)])
def test_a_run_that_meets_a_fault_ends_clearly_and_the_next_run_repairs_everything(
    name: str,
    scenarios: dict[str, Scenario],
    new_process: Callable[[], None],
    record_property: Callable[[str, Any], None],
) -> None:
    draw = random.Random(f"{SEED} {name}")
    faults = [draw.choice(scenarios[name].faults(*way)) for way in draw.sample(WAYS, SHORT)]
    record_property("faults survived", survive(faults, scenarios[name], new_process))


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", ["first", "night"])
@pytest.mark.parametrize(("kind", "lasting"), WAYS)
def test_a_run_that_meets_one_of_many_faults_ends_clearly_and_the_next_run_repairs_everything(
    name: str,
    kind: Kind,
    lasting: bool,
    scenarios: dict[str, Scenario],
    new_process: Callable[[], None],
    record_property: Callable[[str, Any], None],
) -> None:
    faults = random.Random(f"{SEED} {name} {kind} {lasting}").sample(scenarios[name].faults(kind, lasting), LONG)
    record_property("faults survived", survive(faults, scenarios[name], new_process))


def plant_mark_first(patch: pytest.MonkeyPatch) -> None:
    """Plant a bug: a shard, whose footer counts the refusals, is written before the refusals."""
    write, write_rejects = Drafts.write, jobs._write_rejects
    waiting: list[Any] = []

    def write_first(*words: Any) -> None:
        later = waiting.copy()
        waiting.clear()
        write(*words)
        for rejects in later:
            write_rejects(*rejects)

    patch.setattr(jobs, "_write_rejects", lambda *words: waiting.append(words))
    patch.setattr(Drafts, "write", write_first)


def plant_append(patch: pytest.MonkeyPatch) -> None:
    """Plant a bug: a shard is added to instead of replaced."""
    write = Drafts.write

    def write_more(drafts: Drafts, shard: str, rows: pa.Table, *words: Any) -> None:
        write(drafts, shard, distinct(drafts.table, [drafts.read([shard]), rows]), *words)

    patch.setattr(Drafts, "write", write_more)


def plant_not_found_is_nothing(patch: pytest.MonkeyPatch) -> None:
    """Plant a bug: a file that is not found is taken for absent."""
    patch.setattr(Store, "_is_listed", lambda store, relative: False)


@pytest.mark.parametrize(
    ("plant", "name", "kind", "operation", "table"),
    [
        (plant_mark_first, "first", "killed after", "pipe_file", "chroma"),
        pytest.param(plant_append, "night", "before", "pipe_file", "tracks", marks=pytest.mark.slow),
        pytest.param(plant_not_found_is_nothing, "night", "not found", "cat_file", "tracks", marks=pytest.mark.slow),
    ],
)
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    name: str,
    kind: Kind,
    operation: str,
    table: str,
    scenarios: dict[str, Scenario],
    new_process: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = scenarios[name]
    plant(monkeypatch)
    FaultyFileSystem.restore(dict(scenario.before))
    new_process()
    with FaultyFileSystem.failing(None):
        run_chain(scenario.settings)
        asked = [one for one in FaultyFileSystem.log if can_fail(kind, one)]
    places = [number for number, one in enumerate(asked, 1) if one.name == operation and f"/{table}/" in one.path]
    assert any(problem_after(Fault(kind, number), scenario, new_process) for number in places[:-13:-1])
