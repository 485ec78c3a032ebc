"""`segue doctor`: what this machine has, what of the service runs, what will cause trouble, and what to type.

It needs no server. If one answers, its pools, workers and runs are reported too.
"""

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.commands.options import StoreOption, open_store, place_of_store
from flows.console import say

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from schemas import Store

app = typer.Typer()

GOOD, ABSENT, BAD = "ok", "--", "!!"
LEAST_FREE = 10e9
"""Free bytes below which a disk is a problem. A catalog of a thousand minutes of FLAC clips is about five gigabytes,
and a checkpoint of the large model seven."""
LEAST_FILES = 1024
"""The smallest limit on open files that is no problem. A run over many shards, its readers and Prefect's server need
some hundred."""
RUNS = 3


@dataclass(frozen=True)
class Finding:
    """One line of the report: a state, what it is about, and what to know or do."""

    state: str
    what: str
    report: str


@app.command()
def doctor(store: StoreOption = None) -> int:
    """Report on this machine and the service, and say what will cause trouble and what to do about it."""
    opened = open_store(place_of_store(store))
    findings = [*machine(), *weights(), *settings(opened), *trained(opened), *service()]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        say(f"{finding.state} {finding.what:<{width}}  {finding.report}", hang=len(finding.state) + width + 3)
    return 1 if any(finding.state == BAD for finding in findings) else 0


def machine() -> Iterator[Finding]:
    """Yield what the machine has: Python, torch, the device, cores and memory."""
    import psutil
    import torch

    from stages.pipeline.cores import available_cores
    from stages.pipeline.release import release_text

    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    version = platform.python_version()
    report = version if supported else f"{version}: 3.11 or 3.12 is needed: make env PYTHON=python3.12"
    yield Finding(GOOD if supported else BAD, "python", report)
    yield Finding(GOOD, "segue", release_text())
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding(GOOD, "device", f"cuda, torch {torch.__version__}: {', '.join(names)}")
    else:
        report = f"cpu, torch {torch.__version__} sees no GPU; presets other than miniature need one"
        yield Finding(ABSENT, "device", report)
    memory = psutil.virtual_memory()
    yield Finding(
        GOOD, "cores", f"{available_cores()}, memory {memory.available / 1e9:.0f} of {memory.total / 1e9:.0f} GB free"
    )


def weights() -> Iterator[Finding]:
    """Yield which published weights are in the cache, and whether others may be downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    folder = Path(HF_HUB_CACHE)
    models = sorted(entry.name.removeprefix("models--").replace("--", "/") for entry in folder.glob("models--*"))
    held = f"{len(models)} in {folder}: {', '.join(models[:4])}" if models else f"none in {folder}"
    network = "the network is not used (HF_HUB_OFFLINE)" if HF_HUB_OFFLINE else "others are fetched when first used"
    own = "the presets miniature and study train their own"
    yield Finding(GOOD if models else ABSENT, "published weights", f"{held}; {network}; {own}")


def trained(store: "Store") -> Iterator[Finding]:
    """Yield the kinds of models that a store has trained, if the store exists."""
    from schemas.tables import CHECKPOINTS

    if not store.absence():
        kinds = sorted(set(store.read_all(CHECKPOINTS, ["kind"])["kind"].to_pylist()))
        report = ", ".join(kinds) if kinds else "none yet"
        yield Finding(GOOD if kinds else ABSENT, "weights of the store", report)


def settings(store: "Store") -> Iterator[Finding]:
    """Yield the state of the store, the disks and the environment, with what will cause trouble."""
    from flows.service.service import state_folder

    absence = store.absence()
    report = f"none at {store.url} ({absence}): give --store" if absence else store.url
    yield Finding(ABSENT if absence else GOOD, "store", report)
    places = {
        "disk of the state": state_folder(),
        **({"disk of the store": Path(store.root)} if store.is_local else {}),
    }
    for what, place in places.items():
        above = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        free = shutil.disk_usage(above).free
        report = f"{free / 1e9:.0f} GB free at {above}"
        advice = "" if free >= LEAST_FREE else ": make room; `segue clean` lists what can be removed from a store"
        yield Finding(GOOD if free >= LEAST_FREE else BAD, what, report + advice)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    advice = "" if files >= LEAST_FILES else f": ulimit -n {LEAST_FILES}"
    yield Finding(GOOD if files >= LEAST_FILES else BAD, "open files", f"{files}{advice}")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > (os.cpu_count() or 1):
        yield Finding(BAD, "OMP_NUM_THREADS", f"{threads} threads on {os.cpu_count()} cores: unset OMP_NUM_THREADS")


def service() -> Iterator[Finding]:
    """Yield which parts of the service run, and the state of the server that PREFECT_API_URL names."""
    from flows.service.service import POOLS, SERVER, load_service, log_of

    ours = load_service()
    named = os.environ.get("PREFECT_API_URL", "")
    url = named or ours.url
    answers = ours.answers(url)
    for name in (SERVER, *POOLS):
        what = name if name == SERVER else f"worker {name}"
        running = ours.running(name)
        if running:
            yield Finding(GOOD, what, f"process {running.pid}, its log: {log_of(name)}")
        elif name in ours.parts:
            yield Finding(BAD, what, f"it ended, see {log_of(name)}; start it again: segue up")
        else:
            yield Finding(ABSENT, what, "not started here: segue up")
    if answers:
        yield from _server(url)
    elif named:
        yield Finding(
            BAD, "PREFECT_API_URL", f"{named} does not answer, and every run would fail: unset PREFECT_API_URL"
        )


def _server(url: str) -> Iterator[Finding]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield Finding(GOOD, "page", url.removesuffix("/api"))
        yield from _pools(client)
        yield from _slots(client)
        yield from _runs(client)


def _pools(client: "SyncPrefectClient") -> Iterator[Finding]:
    from flows.service.service import POOLS

    pools = {pool.name: pool for pool in client.read_work_pools()}
    for name in POOLS:
        if name not in pools:
            yield Finding(BAD, f"pool {name}", "there is none: segue up")
            continue
        workers = client.read_workers_for_work_pool(name)
        online = [worker.name for worker in workers if worker.status is not None and worker.status.value == "ONLINE"]
        report = f"workers: {', '.join(online)}" if online else "no worker takes its runs: segue up"
        yield Finding(GOOD if online else BAD, f"pool {name}", report)


def _slots(client: "SyncPrefectClient") -> Iterator[Finding]:
    """Yield, for each deployment with a concurrency limit of which slots are taken, which runs hold them and how many
    wait."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.client.schemas.objects import StateType

    holding = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
    for deployment in client.read_deployments():
        limit = deployment.global_concurrency_limit
        if limit is None or not limit.active_slots:
            continue
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        runs = [run for run in client.read_flow_runs(flow_run_filter=ours) if run.state and not run.state.is_final()]
        holders = [f"{run.name} ({run.state_name})" for run in runs if run.state_type in holding]
        waits = sum(run.state_name == "AwaitingConcurrencySlot" for run in runs)
        report = f"{limit.active_slots:g} of {limit.limit} taken, by {', '.join(holders) or 'no run'}; {waits} wait"
        if limit.active_slots > len(holders):
            yield Finding(BAD, f"slot of {deployment.name}", f"{report}: it becomes free within 5 minutes")
        else:
            yield Finding(GOOD, f"slot of {deployment.name}", report)


def _runs(client: "SyncPrefectClient") -> Iterator[Finding]:
    """Yield the last runs, and the next run of each deployment with a schedule."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    started = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[kind for kind in StateType if kind is not StateType.SCHEDULED])
        )
    )
    for run in client.read_flow_runs(flow_run_filter=started, sort=FlowRunSort.START_TIME_DESC, limit=RUNS):
        report = f"{run.start_time or run.expected_start_time:%Y-%m-%d %H:%M} {run.name}: {run.state_name}"
        yield Finding(BAD if run.state_name in ("Failed", "Crashed") else GOOD, "last run", report)
    due = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    names = {deployment.id: deployment.name for deployment in client.read_deployments()}
    reported = set()
    for run in client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC, limit=200):
        if run.deployment_id in names and run.deployment_id not in reported:
            reported.add(run.deployment_id)
            report = f"{run.expected_start_time:%Y-%m-%d %H:%M} {names[run.deployment_id]}: {run.state_name}"
            yield Finding(BAD if run.state_name == "Late" else GOOD, "next run", report)
