"""After any history, a store equals a new store with the same inputs; Hypothesis generates the histories."""

import itertools
import re
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from schemas import Settings, Store
from schemas.storage.publications import Publications
from stages.pipeline.runner import StageFailed
from tests.faults.comparing import Seen, differences, seen
from tests.faults.faulty import Fault, FaultyFileSystem, Killed, Kind
from tests.faults.forms import SEED, long_form
from tests.worlds.tiny_chain import chain, run_chain, write_inputs

URL, NEW_URL = "faulty://disk/store", "faulty://disk/new"
NAMES, MELODIES = ("a.txt", "b.txt", "c.txt", "d.txt"), ("do", "re", "mi", "silent", "unreadable")
LINES = ("1 calm", "2 loud", "1 like do", "1 like sol", "2 like re", "no takes")
KILLS: tuple[Kind, ...] = ("killed before", "killed after")
STAGES = [stage.name for stage in chain()]

processes = itertools.count()


def without_records(found: Seen) -> Seen:
    """What a user sees, without models (models of earlier data stay) and the ids that depend on them."""
    names = ("checkpoints", "training", "files", "reports")
    clips = [row for row in found["files"] if row.startswith("audio/")]
    return {name: rows for name, rows in found.items() if name not in names} | {"clips' files": clips}


class History(RuleBasedStateMachine):
    """Inputs that change, and runs that are disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="segue-history-"))
        self.tracks: dict[str, str] = {}
        self.requests: list[str] = []
        self.scale = 1.0
        self.held: Seen | None = None

    @initialize(tracks=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(MELODIES), min_size=2))
    def begin(self, tracks: dict[str, str]) -> None:
        FaultyFileSystem.restore({})
        self.tracks, self.requests = {"z.txt": "fa", "y.txt": "sol"} | tracks, list(LINES[:2])
        self.run_all()

    # -- inputs -------------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), melody=st.sampled_from(MELODIES), title=st.sampled_from(("", "\nA title")))
    def add_or_change_a_track(self, name: str, melody: str, title: str) -> None:
        self.tracks[name] = melody + title

    @rule(name=st.sampled_from(NAMES))
    def rename_a_track(self, name: str) -> None:
        if name in self.tracks:
            self.tracks[f"moved {name}"] = self.tracks.pop(name)

    @rule(name=st.sampled_from((*NAMES, *(f"moved {name}" for name in NAMES))))
    def remove_a_track(self, name: str) -> None:
        self.tracks.pop(name, None)

    @rule(lines=st.permutations(LINES), count=st.integers(2, len(LINES)))
    def edit_and_reorder_requests(self, lines: list[str], count: int) -> None:
        self.requests = ["3 always", *lines[:count]]

    @rule(scale=st.sampled_from((1.0, 2.0)))
    def change_a_setting_or_go_back(self, scale: float) -> None:
        self.scale = scale

    # -- runs ---------------------------------------------------------------------------------------------------------

    def given(self, folder: str = "inputs", url: str = URL) -> Settings:
        return Settings(store=url, max_refused=1, **write_inputs(self.folder / folder, self.tracks, self.requests))

    def begin_process(self) -> None:
        """Start a new process: for leases, what ran before is dead."""
        number = str(next(processes))
        self.patch.setattr("schemas.storage.leases._start_of", lambda pid: number)
        self.patch.setattr("schemas.storage.leases.LOOK_SECONDS", 0.02)
        self.patch.setenv("XDG_CACHE_HOME", str(self.folder / f"cache {number}"))

    patch = pytest.MonkeyPatch()

    @rule()
    def run_all(self) -> None:
        self.begin_process()
        run_chain(self.given(), self.scale)

    @rule(name=st.sampled_from(STAGES))
    def run_one_stage(self, name: str) -> None:
        self.begin_process()
        try:
            run_chain(self.given(), self.scale, [name])
        except (StageFailed, ValueError) as error:
            if not re.search("expected (the table|a trained checkpoint)", str(error)):
                raise  # otherwise its input is not made yet with this setting

    @rule()
    def run_two_at_once(self) -> None:
        self.begin_process()
        given, errors = self.given(), list[BaseException]()

        def work() -> None:
            try:
                run_chain(given, self.scale)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    @rule(at=st.integers(1, 2000), kind=st.sampled_from(KILLS))
    def kill_a_run(self, at: int, kind: Kind) -> None:
        self.begin_process()
        with FaultyFileSystem.failing(Fault(kind, at)), suppress(Killed):
            run_chain(self.given(), self.scale)

    @rule()
    def hold_and_run_and_release(self) -> None:
        self.begin_process()
        publications = Publications(Store(URL))
        publications.hold()
        before = without_records(seen(Store(URL)))
        run_chain(self.given(), self.scale)
        after = without_records(seen(Store(URL)))
        assert [line for line in differences(after, before) if not line.startswith("rejects")] == []
        publications.release()

    @rule(back=st.integers(1, 8))
    def roll_back_and_release(self, back: int) -> None:
        publications = Publications(Store(URL))
        publications.roll_back(publications.sequences()[-back:][0])
        seen(Store(URL))
        publications.release()

    def teardown(self) -> None:
        self.run_all()
        found = without_records(seen(Store(URL)))
        self.begin_process()
        run_chain(self.given(url=NEW_URL), self.scale)
        wanted = without_records(seen(Store(NEW_URL)))
        self.patch.undo()
        assert differences(found, wanted) == []


@pytest.mark.parametrize(("examples", "steps"), [(1, 6), pytest.param(60, 15, marks=long_form)])
def test_any_history_ends_with_the_same_tables_as_a_new_store(examples: int, steps: int, tmp_path: Path) -> None:
    quiet = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # with threads, a failing history may fail differently when it is shortened
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(SEED)(History), settings=quiet)  # type: ignore[no-untyped-call]
