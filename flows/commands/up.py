"""The service in one command: `segue up` starts the parts that do not run, `segue down` ends all of them.

If a Prefect server exists already, `segue deploy` registers with it what the service needs.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import UsageError
from flows.console import say, tell

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer()

AUTOMATIONS = Path(__file__).resolve().parents[1] / "service" / "automations.yaml"
DEPLOY_SECONDS = 600.0
"""How long Prefect may take to deploy everything, in seconds; on an idle machine it takes half a minute."""
SOURCE = Path(__file__).resolve().parents[2]
LAYERS = ("flows", "stages", "model", "schemas")

CATALOG = "flows.catalog.catalog"
"""The entrypoint of the deployments of a whole catalog."""

LOOK_SECONDS = 10.0
"""Seconds between two checks of `segue up --stay`."""

POSTGRESQL, SQLITE = "postgresql+asyncpg://", "sqlite"
"""How the address of a PostgreSQL database begins, and the word for Prefect's own SQLite file."""

QUEUES = {"scheduled": 1, "default": 10}
"""Work queues of each pool -> their priority; 1 comes first. Scheduled runs go before runs on demand."""


@app.command()
def up(
    port: Annotated[
        int | None, typer.Option(help="The server's port on the loopback interface; by default 4200.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="postgresql+asyncpg://… or sqlite; by default the last one used, at first SQLite."
        ),
    ] = None,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Stay in the foreground and restart what ends, until `segue down`: for systemd."),
    ] = False,
) -> int:
    """Start a Prefect server, workers and the deployments of prefect.yaml on this machine, except what already runs."""
    from flows.service.service import load_service

    if database is not None and database != SQLITE and not database.startswith(POSTGRESQL):
        raise UsageError(f"expected --database {POSTGRESQL}user@host/name, or {SQLITE}, got another kind of address")
    project = _project()
    with _in_turn():
        _start_missing(project, port, database)
    url = load_service().url
    with _client(url) as client:
        name = suggested_deployment(client, project)
    if name is not None:
        _tell(f"to start a run: PREFECT_API_URL={url} prefect deployment run {name} --watch")
    _tell("to look: segue doctor, or the server's page; to end: segue down")
    while stay:
        time.sleep(LOOK_SECONDS)
        with _in_turn():
            service = load_service()
            if not service.parts:  # `segue down` has ended it
                break
            ended = [name for name in service.parts if service.running(name) is None]
            if ended:
                _tell(f"ended, and started again: {', '.join(ended)}")
                try:
                    _start_missing(project)
                except (OSError, RuntimeError, ValueError) as error:  # tried again at the next check
                    _tell(f"not everything could be started: {' '.join(str(error).split())}")
    return 0


def _in_turn() -> AbstractContextManager[None]:
    """Return a context that keeps two commands from changing the service at once."""
    from flows.service.service import only_one_process

    return only_one_process(lambda: _tell("another `segue up` or `segue down` is at work: waiting for it"))


def _start_missing(project: Path, port: int | None = None, database: str | None = None) -> None:
    """Start the parts of the service that do not run, and register what is not registered.

    Raises:
        UsageError: the server already runs with another port or database.
        ChildProcessError: the server does not start, or rejects what is registered.
    """
    from flows.service.service import POOLS, SERVER, load_service, log_of, save_service, start_part, start_server

    service = load_service()
    runs = service.running(SERVER) is not None
    kept_database = service.database or SQLITE
    for option, asked, kept in (("--port", port, service.port), ("--database", database, kept_database)):
        if runs and asked is not None and asked != kept:
            raise UsageError(f"expected {option} as the running service has it, got another: `segue down` first")
    if runs:
        _tell(f"server: runs already ({service.url.removesuffix('/api')})")
    else:
        chosen = database or kept_database
        new = replace(service, port=port or service.port, database=None if chosen == SQLITE else chosen)
        tell("segue: starting Prefect's server, which takes a minute the first time …")
        try:
            new = start_server(new)
        except (ChildProcessError, ValueError):
            if load_service().running(SERVER) is None:
                save_service(service)  # forget a port or database with which it does not start
            raise
        service = new
        _tell(f"server: started ({service.url.removesuffix('/api')}; its log: {log_of(SERVER)})")
    with _client(service.url) as client:
        _tell(*(f"pool {pool}: made" for pool in make_pools(client)))
        digest = _digest(project, service.database)
        renewed = digest != service.deployed or client.request("POST", "/deployments/count", json={}).json() == 0
        _tell(*(f"automation: {name}" for name in _register_automations(client, renewed)))
    if renewed:
        _deploy_all(project, service.environment())
        service = replace(service, deployed=digest)
        save_service(service)
        _tell(f"deployments: all of {project}")
    else:  # deploying again would reset schedules that someone paused
        _tell("deployments: as they were")
    for pool in POOLS:
        if service.running(pool):
            _tell(f"worker {pool}: runs already")
        else:
            words = ["worker", "start", "--pool", pool, "--name", f"segue-{pool}"]
            service = start_part(service, pool, words)
            _tell(f"worker {pool}: started (its log: {log_of(pool)})")
    save_service(service)


@app.command()
def down() -> int:
    """Stop the service that `segue up` started and its runs; their work is kept, and `segue up` continues."""
    from flows.service.service import end_service, load_service, save_service

    with _in_turn():
        service = load_service()
        save_service(replace(service, parts={}))  # first, so that `segue up --stay` starts nothing again
        ended = end_service(service)
    _tell(*(f"{name}: ended" for name in ended))
    if not ended:
        _tell("nothing ran")
    return 0


@app.command()
def deploy() -> int:
    """Register pools, automations and the deployments of prefect.yaml with the Prefect server that PREFECT_API_URL
    names, and update those that exist. Start workers with `prefect worker start --pool cpu`."""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise UsageError(
            "expected PREFECT_API_URL, the address of your Prefect server's API, got none: set it, or let `segue up` "
            "start a server on this machine"
        )
    project = _project()
    with _client(url) as client:
        _tell(*(f"pool {pool}: made" for pool in make_pools(client)))
        _tell(*(f"automation: {name}" for name in _register_automations(client, renewed=True)))
    _deploy_all(project, dict(os.environ) | {"PREFECT_API_URL": url, "PREFECT_CLI_PROMPT": "false"})
    _tell(f"deployments: all of {project}, at {url}")
    return 0


def suggested_deployment(client: "SyncPrefectClient", project: Path) -> str | None:
    """Return what to ask for a first run of, as Prefect names it: a deployment of a `prefect.yaml` that the server has,
    the whole catalog where one of them is that. None where it has none of them."""
    import yaml

    registered = {(each.name, each.entrypoint): each.flow_id for each in client.read_deployments()}
    entries = yaml.safe_load(project.read_text(encoding="utf-8")).get("deployments") or []
    known = [key for each in entries if (key := (each.get("name"), each.get("entrypoint"))) in registered]
    if not known:
        return None
    chosen = next((key for key in known if key[1] == CATALOG), known[0])
    return f"{client.read_flow(registered[chosen]).name}/{chosen[0]}"


def _tell(*lines: str) -> None:
    for line in lines:
        say(line)


def _project() -> Path:
    """Return the path of `prefect.yaml` in the current folder, or else in the checkout.

    Raises:
        UsageError: there is none.
    """
    for folder in (Path.cwd(), SOURCE):
        if (folder / "prefect.yaml").exists():
            return folder / "prefect.yaml"
    raise UsageError(f"expected prefect.yaml in {Path.cwd()}, got none: copy it from Segue's repository, and edit it")


@contextmanager
def _client(url: str) -> Iterator["SyncPrefectClient"]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def make_pools(client: "SyncPrefectClient") -> Iterator[str]:
    """Create missing pools, and each pool's queues with their priority; yield the names of the new pools."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    from flows.service.service import POOLS

    for pool in POOLS:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
            yield pool
        for name, priority in QUEUES.items():
            try:
                queue = client.read_work_queue_by_name(name, work_pool_name=pool)
            except ObjectNotFound:
                client.create_work_queue(name, work_pool_name=pool, priority=priority)
                continue
            if queue.priority != priority:
                client.update_work_queue(queue.id, priority=priority)


def _register_automations(client: "SyncPrefectClient", renewed: bool) -> Iterator[str]:
    """Register missing automations; yield the names of the new ones.

    Args:
        renewed: whether to update existing automations. An update makes them forget what they wait for, such as a run
            that a killed worker left behind, so it is done only if they may have changed.
    """
    import yaml
    from prefect.events.schemas.automations import AutomationCore

    for automation in yaml.safe_load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]:
        registered = client.read_automations_by_name(automation["name"])
        core = AutomationCore.model_validate(automation)
        if registered and renewed:
            client.update_automation(registered[0].id, core)
        elif not registered:
            client.create_automation(core)
            yield automation["name"]


def _deploy_all(project: Path, environment: Mapping[str, str]) -> None:
    """Let Prefect deploy all of `prefect.yaml`, with the current folder as the base of its relative paths.

    Raises:
        ChildProcessError: Prefect fails; the message says why.
        TimeoutError: Prefect takes too long.
    """
    from flows.service.service import cause_in, log_of

    tell(f"segue: deploying all of {project}, one deployment after the other …")
    words = [sys.executable, "-m", "prefect", "deploy", "--all", "--prefect-file", str(project)]
    streams: Any = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    folder = Path.cwd()
    surroundings = {**environment, "PWD": str(folder)}
    try:
        done = subprocess.run(words, env=surroundings, cwd=folder, timeout=DEPLOY_SECONDS, check=False, **streams)
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"expected `prefect deploy --all` to end within {DEPLOY_SECONDS:g} s with {project}, got a machine or a "
            f"server that is too busy: type `segue up` again, which continues from there"
        ) from None
    if done.returncode != 0:
        log = log_of("deploy")
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        raise ChildProcessError(
            f"expected `prefect deploy --all` to take {project}, got: {cause_in(done.stdout + done.stderr)}; fix that "
            f"and run the same command again (Prefect's whole output: {log})"
        )


def _digest(project: Path, database: str | None) -> str:
    """Return a hash of everything that is registered: `prefect.yaml`, the automations, the code whose knobs a form
    shows, and the folder that relative paths start from; and of the database that it is registered in."""
    digest = hashlib.sha256(project.read_bytes() + AUTOMATIONS.read_bytes() + os.fsencode(Path.cwd()))
    digest.update((database or "").encode())
    for file in sorted(file for layer in LAYERS for file in (SOURCE / layer).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
