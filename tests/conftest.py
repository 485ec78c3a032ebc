"""Folders of reference numbers and recordings, a quiet and private environment for tests, and a list of what was not
checked."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from tests import shapes
from tests.faults.forms import SEED
from tests.worlds.prefect_home import make_home
from tests.worlds.smallest_run import segue

ROOT = Path(__file__).resolve().parents[1]

LONGEST_FIRST = (
    *("test_docs.py", "flows/service/test_deployments.py", "faults/test_s3_faults.py", "test_killed_pipeline.py"),
    *("flows/service/test_suspending.py", "flows/test_late_runs.py", "flows/runs/test_clusters.py"),
    *("stages/train/test_nodes.py", "stages/train/test_following.py", "stages/train/test_sharding.py"),
    *("stages/train_codec/test_train_codec.py", "stages/train/test_training_together.py", "test_pipeline.py"),
    *("stages/train/test_other_machines.py", "stages/train/test_train.py", "flows/commands/test_finetune.py"),
    *("flows/test_secrets.py", "flows/runs/test_stopping.py", "schemas/upkeep/test_cleaning.py", "test_segue.py"),
    *("flows/test_cli.py", "test_bare_checkout.py", "model/decoding/test_windows.py", "model/decoding/test_engine.py"),
)
"""The test files that take longest. They are run first: at the end, one of them would run alone. One test makes
`catalog` while others wait for it, so among the files that need it the first is the very first, and the next one comes
much later."""

# The time of an example depends on the load of the machine, and hypothesis allows a fifth of a second. `make test-slow`
# asks for the thorough profile.
for profile, examples in (("quick", 25), ("thorough", 100)):
    hypothesis.settings.register_profile(
        profile, max_examples=examples, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile("quick")

shapes.sample_shapes()  # before anything imports a package whose shapes are checked

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}: set {variable}")
    return folder


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of reference numbers: the committed one, or the one that `SEGUE_ORACLES` names."""
    return _folder("SEGUE_ORACLES", ROOT / "tests" / "oracles")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real recordings, which their licences keep out of the repository (`SEGUE_CORPUS`)."""
    return _folder("SEGUE_CORPUS", ROOT.parent / "shared" / "corpus")


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders inside one folder: pytest looks through all its own temporary folders, thousands of them, before it
    makes another."""
    folder = tmp_path_factory.mktemp("caches")

    def new_ones() -> Iterator[Path]:
        for number in itertools.count():
            place = folder / str(number)
            place.mkdir()
            yield place

    return new_ones()


@pytest.fixture(autouse=True)
def private_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from reading or writing the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(caches)))


@pytest.fixture(autouse=True)
def checked_shapes() -> None:
    """Check the shapes of the first calls of a test."""
    shapes.begin_test()


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def home(common: Path) -> Path:
    """The folder of Prefect and the cache for the runs below."""
    return common / "home"


@pytest.fixture(scope="session")
def catalog(common: Path, home: Path) -> Path:
    """A store filled by one undisturbed run."""
    store = common / "catalog"
    with FileLock(common / "catalog.lock"):
        if not (common / "catalog.done").exists():
            make_home(home / "prefect", common)
            done = segue(store, home)
            assert done.returncode == 0, done.stderr[-4000:]
            (common / "catalog.done").touch()
    return store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; all others keep their order."""
    places = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests that `-m "not slow"` leaves out, by the command that runs them; a worker sends its numbers to the
    process that reports."""
    if not items:
        return
    config = items[0].config
    counts = getattr(config, "workeroutput", config.stash.setdefault(_COUNTS, {}))
    slow = [item for item in items if item.get_closest_marker("slow")]
    counts["faults_deselected"] = sum(item.get_closest_marker("faults") is not None for item in slow)
    counts["slow_deselected"] = len(slow) - counts["faults_deselected"]


class Workers:
    """Receives the results of the workers of pytest-xdist."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Take a worker's number of deselected tests, which is the same for all, as each collects all tests."""
        node.config.stash.setdefault(_COUNTS, {}).update(getattr(node, "workeroutput", None) or {})


_COUNTS = pytest.StashKey[dict[str, Any]]()


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the workers."""
    config.pluginmanager.register(Workers())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print at the very end what was not checked, and why: each reason once, with its number of tests."""
    reasons: Counter[str] = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    counts = config.stash.get(_COUNTS, {})
    reasons["slow, `make test-slow` runs them"] = counts.get("slow_deselected", 0)
    reasons["many faults, `make test-faults` injects them"] = counts.get("faults_deselected", 0)
    properties = [one for report in terminalreporter.stats.get("passed", ()) for one in report.user_properties]
    survived = sum(number for name, number in properties if name == "faults survived")
    if survived:
        terminalreporter.write_line(f"FAULTS SURVIVED: {survived:,}, of seed {SEED}")
    for reason, count in sorted((+reasons).items()):
        tests = "test" if count == 1 else "tests"
        terminalreporter.write_line(f"NOT CHECKED: {count} {tests}: {reason}", yellow=True)


def _reason(report: Any) -> str:
    """Return why a test was skipped, without pytest's prefix."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")
