"""Where the packs and recordings outside the repository lie, and quiet, private surroundings for every test."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.worlds.smallest_run import segue

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set {variable} to its folder")
    return folder


@pytest.fixture(scope="session")
def oracles() -> Path:
    """The folder of reference numbers (`SEGUE_ORACLES`)."""
    return _folder("SEGUE_ORACLES", SHARED / "oracles")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real recordings (`SEGUE_CORPUS`)."""
    return _folder("SEGUE_CORPUS", SHARED / "corpus")


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one test run share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def home(common: Path) -> Path:
    """Where Prefect and the cache of the runs below are."""
    return common / "home"


@pytest.fixture(scope="session")
def catalog(common: Path, home: Path) -> Path:
    """A store that one undisturbed run has filled."""
    store = common / "catalog"
    with FileLock(common / "catalog.lock"):
        if not (common / "catalog.done").exists():
            done = segue(store, home)
            assert done.returncode == 0, done.stderr[-4000:]
            (common / "catalog.done").touch()
    return store
