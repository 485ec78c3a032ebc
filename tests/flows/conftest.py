"""A real Prefect server for the tests that need one, on the loopback, with a home of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.service.service import SERVER_SETTINGS
from tests.worlds.postgresql import PROGRAMS, postgresql
from tests.worlds.prefect_home import keep_database, make_home

# Set before anything imports Prefect, which reads its settings once.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="segue-prefect-")
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ["PREFECT_CLI_PROMPT"] = "false"

ROOT = Path(__file__).resolve().parents[2]
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

START_SECONDS = 300.0
"""A first start migrates its database, which takes two minutes and more on a busy machine."""

LOG_CHARACTERS = 6_000
"""Number of characters that a failed test shows of the end of a log."""

_FOLDER = pytest.StashKey[Path]()


@dataclass(frozen=True)
class Server:
    """A running Prefect server."""

    url: str
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """The server's log file."""
        return Path(self.environment["PREFECT_HOME"]) / "server.log"

    def command(self, *words: str, timeout: float = 120, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run a program that talks to this server."""
        return subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
        )


@pytest.fixture(autouse=True)
def folder_of_logs(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """If a test fails, its report shows what servers and workers wrote into its folder."""
    request.node.stash[_FOLDER] = tmp_path


@pytest.fixture(autouse=True)
def own_database(common: Path) -> None:
    """Runs that start a server of their own find the saved database, if there is one."""
    make_home(Path(os.environ["PREFECT_HOME"]), common)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of a failed test's logs."""
    report = yield
    folder = item.stash.get(_FOLDER, None)
    if report.failed and folder is not None:
        for log in sorted({log.resolve() for log in folder.rglob("*.log")}):
            report.sections.append((log.name, log.read_text(errors="replace")[-LOG_CHARACTERS:]))
    return report


class ServerProcess:
    """A Prefect server that can be ended and started again, with the same database and address."""

    def __init__(self, home: Path, **settings: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        environment = os.environ | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self._port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            **SERVER_SETTINGS,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path),
            "XDG_CACHE_HOME": str(home / "cache"),
            "COLUMNS": "200",
        }
        self.server = Server(environment["PREFECT_API_URL"], environment | settings)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        with open(self.server.log, "a") as log:
            environment = self.server.environment | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
            self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{self.server.url}/health"):
            assert self._process.poll() is None, f"the server ended:\n{self.server.log.read_text()}"
            assert time.monotonic() < deadline, f"the server did not start within {START_SECONDS:g} s"
            time.sleep(0.2)

    def kill(self) -> None:
        """End the server at once, as if its machine were gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the server in good order."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, common: Path) -> Iterator[Server]:
    home = make_home(tmp_path_factory.mktemp("prefect") / "home", common)
    process = ServerProcess(home)
    try:
        process.start()
        keep_database(home, common)
        yield process.server
    finally:
        process.end()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def away(tmp_path: Path, common: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server of the test's own, which can be ended; with PostgreSQL if the test's parameter says so."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with ExitStack() as stack:
        settings = {}
        if getattr(request, "param", SQLITE) == POSTGRESQL:
            if PROGRAMS is None:
                pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
            settings = {DATABASE: stack.enter_context(postgresql())}
        process = ServerProcess(make_home(tmp_path / "prefect", common), **settings)
        stack.callback(process.end)
        process.start()
        stack.enter_context(temporary_settings({PREFECT_API_URL: process.server.url}))
        yield process


@pytest.fixture
def on_server(server: Server) -> Iterator[Server]:
    """Flows that this process runs report to the server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def write_words(source: Path):
    """Writes files for the tiny stages: one a word, two a shard."""

    def write(*words: str) -> None:
        for number, word in enumerate(words):
            (source / f"{number}.txt").write_text(word)

    return write
