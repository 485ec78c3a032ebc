"""The service on this machine: Prefect's server, its pools, deployments and automations, and a worker for each pool.

Everything listens on the loopback alone. What is known of it lies in the user's state folder (`$XDG_STATE_HOME/segue`,
by default `~/.local/state/segue`): numbers of processes with the time at which they began, so that another process that
got the same number is not taken for one of these; logs; and Prefect's own folder, with its SQLite database.
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
"""The environment variable that every process of the service has from the first: the state folder."""

HOST, PORT = "127.0.0.1", 4200
POOLS = ("cpu", "gpu")
SERVER = "server"

START_SECONDS = 180.0
"""A first start migrates its database, on a busy machine for a minute or more."""

END_SECONDS = 45.0
"""What a process that is told to end has for it: a run in work ends at its next batch."""

RETENTION_DAYS = 30
"""How long Prefect keeps finished runs with their logs; what a run did stands in the store's own `runs`."""

POSTGRESQL_PORT = 5432
"""Where PostgreSQL listens if its address says nothing else."""
CONNECT_SECONDS = 10.0
"""How long a database has to answer."""

ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Invalid\w*|NotFound|Refused): ")
"""How the line of a traceback begins that says what was raised."""

SERVER_SETTINGS = {
    # Without it events go after a week and runs never.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 86_400),
    # In memory, the places that runs hold are forgotten when the server ends: a run that was about to begin is then
    # cancelled, and one in work is ended when it renews its hold, up to four minutes later.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # What the automations wait for is forgotten a minute after its time, also where the server was away then: a run
    # that was killed meanwhile would stay "Running" for ever.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
    # A worker that ended a cancelled run while the server was away cannot say so: that run holds its place for so long.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_CANCELLING_TIMEOUT_SECONDS": "60",
    # SQLite has one writer, which others wait for, and a busy machine is slow with PostgreSQL too: after the 10 s that
    # Prefect allows, a run is answered "Internal Server Error".
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}
"""What a Prefect server is to be told, wherever it runs, so that it outlives its own outages and does not grow for
ever."""


@dataclass(frozen=True)
class Part:
    """A process of the service."""

    pid: int
    began: float
    """Seconds since the epoch, as the system tells it."""

    def process(self) -> psutil.Process | None:
        """Return the process, or None where it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.began) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass(frozen=True)
class Service:
    """What `segue up` started, as the state folder says."""

    port: int = PORT
    database: str | None = None
    """The URL of a PostgreSQL database; None for Prefect's own SQLite file."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """`server`, and a worker by the name of its pool."""
    deployed: str = ""
    """A digest of what was deployed last."""

    @property
    def url(self) -> str:
        """The address of the server's API."""
        return f"http://{HOST}:{self.port}/api"

    def running(self, name: str) -> psutil.Process | None:
        """Return the process of a part, or None where it does not run."""
        part = self.parts.get(name)
        return part.process() if part else None

    def answers(self, url: str | None = None) -> bool:
        """Return whether the server answers, or another one by the address of its API."""
        try:
            with urllib.request.urlopen(f"{url or self.url}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def environment(self) -> dict[str, str]:
        """Return the environment of the service's processes, and of whoever talks to them."""
        ours = {
            MARK: str(state_folder()),
            "PREFECT_HOME": str(state_folder() / "prefect"),
            "PREFECT_API_URL": self.url,
            # Prefect writes its page's files among its own, which may belong to another user; it then has no page.
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
    """Return where the service's state lies."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "segue"


def log_of(name: str) -> Path:
    """Return the log of a part."""
    return state_folder() / f"{name}.log"


def load_service() -> Service:
    """Return what the state folder says of the service, a new one where it says nothing."""
    file = state_folder() / "service.json"
    if not file.exists():
        return Service()
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Service(**kept | {"parts": {name: Part(**part) for name, part in kept["parts"].items()}})


def save_service(service: Service) -> None:
    """Write what is known of the service; nobody else may read it, for a database's URL may hold a password."""
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "service.json"
    replace_file(str(file), json.dumps(asdict(service), indent=1).encode())
    file.chmod(0o600)


@contextmanager
def only_one(waits: Callable[[], None]) -> Iterator[None]:
    """Do a block while no other process is within one like it, on this machine and with this state folder: two that
    start what is missing at once would each miss it, and two servers would want one port.

    Args:
        waits: called once where another is within, and has to be waited for.
    """
    state_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(state_folder() / "up.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start_part(service: Service, name: str, words: Sequence[str]) -> Service:
    """Start a part as a process that outlives this one, and return the service with it."""
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
        ChildProcessError: it ended, or does not answer in time.
    """
    if service.database is not None:
        _require_database(service.database)
    with closing(socket.socket()) as probe:
        if probe.connect_ex((HOST, service.port)) == 0:
            raise ValueError(
                f"expected port {service.port} of this machine to be free, got an answer of another program: end it, "
                "or give another --port"
            )
    log = log_of(SERVER)
    known = log.stat().st_size if log.exists() else 0
    service = start_part(service, SERVER, ["server", "start", "--host", HOST, "--port", str(service.port)])
    deadline = time.monotonic() + START_SECONDS
    while not service.answers():
        if service.running(SERVER) is None or time.monotonic() > deadline:
            said = log.read_bytes()[known:].decode(errors="replace")
            raise ChildProcessError(
                f"expected Prefect's server to answer within {START_SECONDS:.0f} s, got: {cause_in(said)} "
                f"(its log: {log})"
            )
        time.sleep(0.5)
    return service


def _require_database(url: str) -> None:
    """See that something answers where a database is to be. Of a server whose database does not, Prefect now and then
    loses what it said as it ended.

    Raises:
        ValueError: nothing does.
    """
    address = urllib.parse.urlsplit(url)
    if address.hostname is None:  # of a socket in the file system
        return
    place = address.hostname, address.port or POSTGRESQL_PORT
    try:
        socket.create_connection(place, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"expected a PostgreSQL server to answer at {place[0]}:{place[1]}, got {type(error).__name__}: {error}; "
            "start it, or give another --database"
        ) from error


def cause_in(output: str) -> str:
    """Return, of what a program of Prefect's wrote before it failed, the line that says why: the last one that names an
    error, as a traceback's does, or else what it said last."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and line.strip() != "An exception occurred."]
    named = [line for line in lines if ERROR_LINE.match(line)]
    return " ".join(named[-1:] or lines[-4:]) or "nothing said"


def end_service(service: Service) -> list[str]:
    """End every process of the service, runs in work too, and return the parts that ran.

    Workers and what they run go first, so that the server still hears how their runs ended.
    """
    ran = [name for name in service.parts if service.running(name)]
    server = service.running(SERVER)
    of_server = {server, *server.children(recursive=True)} if server else set()
    end_processes([process for process in members() if process not in of_server])
    end_processes(members())
    return ran


def members() -> list[psutil.Process]:
    """Return the processes of the service, also those whose parent has gone: each has its folder in its environment."""
    ours, found = str(state_folder()), []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == ours:
                found.append(process)
        except psutil.Error:  # another user's, or gone
            continue
    return found


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask processes to end, wait for it, and kill what is left then."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
