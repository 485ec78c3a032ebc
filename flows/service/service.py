"""The service on this machine: Prefect's server, its pools, deployments and automations, and a worker for each pool.

Everything listens on the loopback interface only. The service's state is in the user's state folder
(`$XDG_STATE_HOME/segue`, by default `~/.local/state/segue`): process ids, with the times at which the processes began,
so that a later process with the same id is not mistaken for one of these; logs; and Prefect's folder with its SQLite
database.
"""

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from schemas.storage.local_disk import replace_file

MARK = "SEGUE_SERVICE"
"""The environment variable that marks every process of the service. Its value is the state folder."""

HOST, PORT = "127.0.0.1", 4200
POOLS = ("cpu", "gpu")
SERVER = "server"

START_SECONDS = 180.0
"""Seconds that the server has to start. The first start migrates its database, which can take a busy machine a minute
or more."""

END_SECONDS = 45.0
"""Seconds that a process has to end when it is told to: a run at work ends at its next batch."""

RETENTION_DAYS = 30
"""Days for which Prefect keeps finished runs with their logs. What a run did is in the store's own table `runs`."""

POSTGRESQL_PORT = 5432
"""PostgreSQL's port if the database's address names none."""
CONNECT_SECONDS = 10.0
"""Seconds that a database has to answer."""

ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Invalid\w*|NotFound|Refused): ")
"""Matches the beginning of the line of a traceback that says what was raised."""

SERVER_SETTINGS = {
    # By default events are deleted after a week and runs never.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 86_400),
    # By default leases of concurrency slots are in memory and lost when the server ends: a run that was about to begin
    # is then cancelled, and a run at work is ended when it renews its lease, up to four minutes later.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # By default what automations wait for is dropped a minute after it is due, even if the server was down then: a run
    # that was killed meanwhile would stay "Running" for ever.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
    # A worker that ended a cancelled run while the server was down cannot report it: the run's slot is freed by this.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "60",
    # SQLite has a single writer, for which others wait, and PostgreSQL is slow too on a busy machine: after Prefect's
    # 10 s, a run would get the answer "Internal Server Error".
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}
"""Settings that a Prefect server needs, wherever it runs, so that it survives its own outages and does not grow for
ever."""


@dataclass(frozen=True)
class Part:
    """A process of the service."""

    pid: int
    began: float
    """When the process began, in seconds since the epoch, as the system reports it."""

    def process(self) -> psutil.Process | None:
        """Return the process; None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Service:
    """The service that `segue up` started, as recorded in the state folder."""

    port: int = PORT
    database: str | None = None
    """The URL of a PostgreSQL database; None for Prefect's own SQLite file."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """The processes: `server`, and a worker under the name of its pool."""
    deployed: str = ""
    """A digest of what was last deployed."""

    @property
    def url(self) -> str:
        """The address of the server's API."""
        return f"http://{HOST}:{self.port}/api"

    def running(self, name: str) -> psutil.Process | None:
        """Return the process of a part; None if it does not run."""
        part = self.parts.get(name)
        return part.process() if part else None

    def answers(self, url: str | None = None) -> bool:
        """Return whether the server answers.

        Args:
            url: the address of another server's API; None asks this service's.
        """
        try:
            with urllib.request.urlopen(f"{url or self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def environment(self) -> dict[str, str]:
        """Return the environment for the service's processes and for whoever talks to them."""
        ours = {
            MARK: str(state_folder()),
            "PREFECT_HOME": str(state_folder() / "prefect"),
            "PREFECT_API_URL": self.url,
            # Prefect writes its page's files into its package, which may belong to another user; then it has no page.
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(state_folder() / "page"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_CLI_PROMPT": "false",
            **SERVER_SETTINGS,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        if self.database:
            ours["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.database
        return os.environ | ours


def state_folder() -> Path:
    """Return the folder with the service's state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "segue"


def log_of(name: str) -> Path:
    """Return the log file of a part."""
    return state_folder() / f"{name}.log"


def load_service() -> Service:
    """Return the service recorded in the state folder; a new one if none is."""
    file = state_folder() / "service.json"
    if not file.exists():
        return Service()
    content = json.loads(file.read_text(encoding="utf-8"))
    return Service(**content | {"parts": {name: Part(**part) for name, part in content["parts"].items()}})


def save_service(service: Service) -> None:
    """Record the service. Only this user may read the file, since a database's URL may contain a password."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "service.json"
    replace_file(str(file), json.dumps(asdict(service), indent=1).encode())
    file.chmod(0o600)


@contextmanager
def only_one_process(on_wait: Callable[[], None]) -> Iterator[None]:
    """Run a block while no other process runs one under the same state folder. Two processes that start missing parts
    at the same time would start each part twice, and two servers would want one port.

    Args:
        on_wait: called once if another process is in such a block and must be waited for.
    """
    state_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(state_folder() / "up.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start_part(service: Service, name: str, words: Sequence[str]) -> Service:
    """Start a part as a process that outlives this one, and return the service with it.

    Args:
        words: the arguments of `prefect`.
    """
    state_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log_of(name), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=service.environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    part = Part(process.pid, psutil.Process(process.pid).create_time())
    service = replace(service, parts={**service.parts, name: part})
    save_service(service)
    return service


def start_server(service: Service) -> Service:
    """Start Prefect's server and wait until it answers.

    Raises:
        ValueError: its port is taken, or its database does not answer.
        ChildProcessError: the server ended, or did not answer in time.
    """
    if service.database is not None:
        _require_database(service.database)
    with closing(socket.socket()) as probe:
        if probe.connect_ex((HOST, service.port)) == 0:
            raise ValueError(
                f"expected port {service.port} of this machine to be free, got an answer from another program: end it, "
                "or give another --port"
            )
    log = log_of(SERVER)
    known = log.stat().st_size if log.exists() else 0
    service = start_part(service, SERVER, ["server", "start", "--host", HOST, "--port", str(service.port)])
    deadline = time.monotonic() + START_SECONDS
    while not service.answers():
        if service.running(SERVER) is None or time.monotonic() > deadline:
            output = log.read_bytes()[known:].decode(errors="replace")
            raise ChildProcessError(
                f"expected Prefect's server to answer within {START_SECONDS:.0f} s, got: {cause_in(output)} "
                f"(its log: {log})"
            )
        time.sleep(0.5)
    return service


def _require_database(url: str) -> None:
    """Check that something answers at the database's address. If the database does not answer, Prefect's server ends,
    and its last messages are sometimes lost.

    Raises:
        ValueError: nothing answers.
    """
    address = urllib.parse.urlsplit(url)
    if address.hostname is None:  # a socket in the file system
        return
    host, port = address.hostname, address.port or POSTGRESQL_PORT
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"expected a PostgreSQL server to answer at {host}:{port}, got {type(error).__name__}: {error}; "
            "start it, or give another --database"
        ) from error


def cause_in(output: str) -> str:
    """Return the line that says why a program of Prefect's failed, from its output: the last one that names an error,
    as in a traceback, or else the last four lines."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and line.strip() != "An exception occurred."]
    named = [line for line in lines if ERROR_LINE.match(line)]
    return " ".join(named[-1:] or lines[-4:]) or "no message"


def end_service(service: Service) -> list[str]:
    """End every process of the service, including runs at work, and return the names of the parts that ran.

    Workers and their runs end first, so that the server still records how the runs ended.
    """
    ran = [name for name in service.parts if service.running(name)]
    server = service.running(SERVER)
    of_server = {server, *server.children(recursive=True)} if server else set()
    end_processes([process for process in members() if process not in of_server])
    end_processes(members())
    return ran


def members() -> list[psutil.Process]:
    """Return the processes of the service, including those whose parent is gone: all have the state folder in their
    environment."""
    ours, processes = str(state_folder()), []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == ours:
                processes.append(process)
        except psutil.Error:  # another user's process, or one that is gone
            continue
    return processes


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask processes to end, wait, and kill those that are left."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
