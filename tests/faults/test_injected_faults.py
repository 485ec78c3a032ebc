"""Every operation of a run fails once, in every way, and the next run ends as if nothing had happened.

SQLite's method: the n-th operation fails, for n = 1, 2, … until a run meets no fault (sqlite.org/testing.html, 3).
There are thousands, so each form tries as many of them as it has time for, which the seed chooses.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas import Settings, Store
from stages.pipeline.runner import StageFailed
from tests.faults.comparing import Seen, differences, seen
from tests.faults.faulty import Fault, FaultyFileSystem, Killed, Kind, Operation, can_fail
from tests.faults.forms import SEED
from tests.worlds.tiny_chain import run_chain, write_inputs

URL = "faulty://disk/store"
SHORT, LONG = 5, 100
"""Faults of a scenario that the short form tries, and of each way in a scenario that the long one tries."""

TRACKS = {"a.txt": "do re", "b.txt": "re mi\nTitle", "c.txt": "silent", "d.txt": "unreadable", "e.txt": "fa"}
REQUESTS = ["2 calm", "1 loud like fa", "1 odd like sol", "no takes"]
NIGHT_TRACKS = {"a.txt": "do re", "moved.txt": "re mi\nOther", "d.txt": "unreadable", "e.txt": "fa", "f.txt": "sol"}
NIGHT_REQUESTS = ["1 loud like fa", "2 calm", "1 odd like sol", "1 more"]

WAYS = [(kind, lasting) for kind in get_args(Kind) for lasting in (False, True)]
WAYS = [way for way in WAYS if way not in {("killed before", True), ("killed after", True), ("away", False)}]


@dataclass(frozen=True)
class Scenario:
    """A store before a run, what the run is given, and what is seen after an undisturbed one."""

    before: Mapping[str, bytes]
    settings: Settings
    operations: Sequence[Operation]
    """What the undisturbed run asked of the filesystem."""
    wanted: Seen

    def faults(self, kind: Kind, lasting: bool) -> list[Fault]:
        """Return every fault of a way that the run can meet."""
        count = sum(can_fail(kind, operation) for operation in self.operations)
        return [Fault(kind, number, lasting) for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """A first run, and a later one for which tracks came, went, moved and were renamed, and requests too."""
    folder = tmp_path_factory.mktemp("inputs")
    scenarios, before = {}, dict[str, bytes]()
    for name, tracks, requests in (("first", TRACKS, REQUESTS), ("night", NIGHT_TRACKS, NIGHT_REQUESTS)):
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
    """Makes of what follows another process on another machine's disk: none that held a lease is there any more, and a
    cache is empty."""
    numbers = iter(range(1_000_000))

    def begin() -> None:
        number = str(next(numbers))
        monkeypatch.setattr("schemas.leases._start_of", lambda pid: number)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / number))

    return begin


def problem_after(fault: Fault, scenario: Scenario, new_process: Callable[[], None]) -> str | None:
    """Run with a fault and again without; return what was wrong, or None."""
    FaultyFileSystem.restore(dict(scenario.before))
    new_process()
    error: BaseException | None = None
    with FaultyFileSystem.failing(fault):
        try:
            run_chain(scenario.settings)
        except (Exception, Killed) as caught:
            error = caught
        assert FaultyFileSystem.met, f"nothing could fail: {fault}"
    if error is None:  # then it has done everything
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
    """Meet each, and return how many there were."""
    problems = [problem_after(fault, scenario, new_process) for fault in faults]
    found = [problem for problem in problems if problem]
    assert not found, f"{len(found)} of {len(faults)}:\n" + "\n".join(found[:10])
    return len(faults)


@pytest.mark.parametrize("name", ["first", "night"])
def test_a_run_that_meets_a_fault_ends_clearly_and_the_next_one_mends_all(
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
def test_a_run_that_meets_any_of_many_faults_ends_clearly_and_the_next_one_mends_all(
    name: str,
    kind: Kind,
    lasting: bool,
    scenarios: dict[str, Scenario],
    new_process: Callable[[], None],
    record_property: Callable[[str, Any], None],
) -> None:
    faults = random.Random(f"{SEED} {name} {kind} {lasting}").sample(scenarios[name].faults(kind, lasting), LONG)
    record_property("faults survived", survive(faults, scenarios[name], new_process))
