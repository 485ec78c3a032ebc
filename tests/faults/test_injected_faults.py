"""Every operation of a run fails once, in every way, and the next run ends as if nothing had happened.

SQLite's method: the n-th operation fails, for n = 1, 2, … until a run meets no fault (sqlite.org/testing.html, 3).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from schemas import Settings, Store
from stages.pipeline.runner import StageFailed
from tests.faults.comparing import Seen, differences, seen
from tests.faults.faulty import Fault, FaultyFileSystem, Killed, Kind
from tests.faults.forms import SEED, long_form
from tests.worlds.tiny_chain import run_chain, write_inputs

URL = "faulty://disk/store"
SAMPLE = 3
"""Faults of each way in the short form, chosen by the seed."""

TRACKS = {"a.txt": "do re", "b.txt": "re mi\nTitle", "c.txt": "silent", "d.txt": "unreadable", "e.txt": "fa"}
REQUESTS = ["2 calm", "1 loud like fa", "1 odd like sol", "no takes"]
NIGHT_TRACKS = {"a.txt": "do re", "moved.txt": "re mi\nOther", "d.txt": "unreadable", "e.txt": "fa", "f.txt": "sol"}
NIGHT_REQUESTS = ["1 loud like fa", "2 calm", "1 odd like sol", "1 more"]

WAYS = [(kind, lasting) for kind in get_args(Kind) for lasting in (False, True)]
WAYS = [way for way in WAYS if way not in {("killed before", True), ("killed after", True), ("away", False)}]
TODAY = ("before", "after", "stale", "killed before", "killed after")
WAYS = [way for way in WAYS if way[0] in TODAY]


@dataclass(frozen=True)
class Scenario:
    """A store before a run, what the run is given, and what is seen after an undisturbed one."""

    before: Mapping[str, bytes]
    settings: Settings
    wanted: Seen


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    """A first run, and a later one for which tracks came, went, moved and were renamed, and requests too."""
    folder = tmp_path_factory.mktemp("inputs")
    scenarios, before = {}, dict[str, bytes]()
    for name, tracks, requests in (("first", TRACKS, REQUESTS), ("night", NIGHT_TRACKS, NIGHT_REQUESTS)):
        settings = Settings(store=URL, **write_inputs(folder / name, tracks, requests))
        FaultyFileSystem.restore(before)
        run_chain(settings)
        scenarios[name] = Scenario(before, settings, seen(Store(URL)))
        before = FaultyFileSystem.contents()
    return scenarios


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Gives a run a cache of its own, or it would not read what it has read before."""
    numbers = iter(range(1_000_000))
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(next(numbers))))


def problem_after(fault: Fault, scenario: Scenario, new_cache: Callable[[], None]) -> str | None:
    """Run with a fault and again without; return what was wrong, or None."""
    FaultyFileSystem.restore(dict(scenario.before))
    new_cache()
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
    new_cache()
    try:
        run_chain(scenario.settings)
        lines = differences(seen(Store(URL)), scenario.wanted)
    except Exception as second:
        return f"{fault}: first {error!r}, then {second!r}"
    return f"{fault}: first {error!r}, then {'; '.join(lines)}" if lines else None


def possible_faults(kind: Kind, lasting: bool, scenario: Scenario, new_cache: Callable[[], None]) -> Iterator[Fault]:
    """Return every fault of a way that an undisturbed run can meet."""
    FaultyFileSystem.restore(dict(scenario.before))
    new_cache()
    with FaultyFileSystem.failing(Fault(kind, 1_000_000)):
        run_chain(scenario.settings)
        count = FaultyFileSystem.possible
    return (Fault(kind, number, lasting) for number in range(1, count + 1))


@pytest.mark.parametrize("form", ["short", pytest.param("long", marks=long_form)])
@pytest.mark.parametrize("name", ["first", "night"])
@pytest.mark.parametrize(("kind", "lasting"), WAYS)
def test_a_run_that_meets_a_fault_ends_clearly_and_the_next_one_mends_all(
    form: str,
    name: str,
    kind: Kind,
    lasting: bool,
    scenarios: dict[str, Scenario],
    new_cache: Callable[[], None],
    record_property: Callable[[str, Any], None],
) -> None:
    faults = list(possible_faults(kind, lasting, scenarios[name], new_cache))
    if form == "short":
        faults = random.Random(f"{SEED} {name} {kind} {lasting}").sample(faults, min(SAMPLE, len(faults)))
    problems = [problem_after(fault, scenarios[name], new_cache) for fault in faults]
    found = [problem for problem in problems if problem]
    assert not found, f"{len(found)} of {len(faults)}:\n" + "\n".join(found[:10])
    record_property("faults survived", len(faults))
