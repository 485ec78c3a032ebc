"""Jobs on a cluster: where the workers of Dask or Ray come from, which of them has a GPU, how they report progress to
the run, and how they learn that the run stops.

Both directions use the cluster's own connections: a queue and a flag in Dask's scheduler, or an actor in Ray. So no
other connection is needed, and a remote cluster works like a local one.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.runs.server import has_own_server
from schemas import Settings
from stages.pipeline.contract import Context, Progress

PULSE_SECONDS = 0.5
"""Seconds between two exchanges of a worker with its run, and of the run with its workers."""

GRACE_SECONDS = 10.0
"""Seconds for which a run that stops waits for its workers to end at their next batch."""

OBJECT_STORE_BYTES = 128 * 1024**2
"""Size of Ray's shared memory on this machine. Jobs pass names, not tables, so little is enough."""

Event = tuple[str, str, tuple[Any, ...]]
"""A job, a method of `Progress` (or `begin` or `end`), and the method's arguments."""

Exchange = Callable[[Sequence[Event]], bool]
"""Sends events to the run, and returns whether the run stops."""


class Channel(Protocol):
    """The connection between a run and its workers. It is sent to the workers with each job."""

    def connect(self) -> Exchange:
        """Return a worker's exchange function; call this in the thread of the worker's job."""

    def receive(self, stop: bool) -> Sequence[Event]:
        """Return what workers have sent since the last call, and tell them whether the run stops."""


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """Return Prefect's task runner for the jobs: threads, or the workers of a Dask or Ray cluster.

    Raises:
        ValueError: a cluster is asked for without its packages, or without a Prefect server that its workers can reach.
    """
    name = settings.task_runner
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=settings.concurrency)
    try:
        if name == "dask":
            from prefect_dask.task_runners import DaskTaskRunner
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports no usage statistics
            from prefect_ray.task_runners import RayTaskRunner
    except ImportError as error:
        raise ValueError(f"settings.task_runner={name} expects the packages of segue[{name}], got none") from error
    if not PREFECT_API_URL.value() or has_own_server():
        raise ValueError(
            f"settings.task_runner={name} expects a Prefect server that the workers can reach: start one with "
            "`prefect server start` and set PREFECT_API_URL"
        )
    if name == "dask":
        if settings.dask_address:
            return DaskTaskRunner(address=settings.dask_address)
        start: Any = local_dask_cluster
        runner: TaskRunner[Any] = DaskTaskRunner(cluster_class=start, cluster_kwargs={"settings": settings})
    else:
        local = {"num_cpus": settings.concurrency, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        local |= {"object_store_memory": OBJECT_STORE_BYTES}
        runner = RayTaskRunner(settings.ray_address, {} if settings.ray_address else local)
    return runner


def local_dask_cluster(settings: Settings) -> Any:
    """Return a Dask cluster on this machine's loopback interface, with a process for each concurrent shard. As many
    processes as there are GPUs have a GPU each and offer it; the others share these GPUs and offer none."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _gpus() if settings.device != "cpu" else []
    workers = {}
    for number in range(settings.concurrency):
        options: dict[str, Any] = {"nthreads": 1, "host": "127.0.0.1", "dashboard_address": None}
        if gpus:
            options["env"] = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
            options["resources"] = {"GPU": 1} if number < len(gpus) else {}
        workers[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    return SpecCluster(
        workers=workers, scheduler=scheduler, name=f"segue-{uuid.uuid4().hex[:8]}", silence_logs=logging.WARNING
    )


def places(runner: TaskRunner[Any], settings: Settings, wants_gpu: bool) -> int:
    """Return how many jobs a running task runner runs at the same time; for a remote cluster, as many as its workers
    offer now."""
    if settings.task_runner == "dask" and settings.dask_address:
        workers = runner.client.scheduler_info(n_workers=-1)["workers"].values()  # type: ignore[attr-defined]
        placed = wants_gpu and _offers_gpus(settings)
        count = sum(each["resources"].get("GPU", 0) if placed else each["nthreads"] for each in workers)
    elif settings.task_runner == "ray" and settings.ray_address:
        import ray

        offered = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = offered.get("GPU" if wants_gpu and _offers_gpus(settings) else "CPU", 0)
    else:
        count = settings.concurrency
    return max(1, int(count))


def _gpus() -> list[str]:
    """Return the GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def placement(settings: Settings, wants_gpu: bool) -> AbstractContextManager[Any]:
    """Return a context in which jobs that want a GPU are submitted only to workers that offer one."""
    if not wants_gpu or settings.task_runner == "threads" or not _offers_gpus(settings):
        return nullcontext()
    if settings.task_runner == "ray":
        from prefect_ray.context import remote_options

        with_gpu: AbstractContextManager[Any] = remote_options(num_gpus=1)
        return with_gpu
    from dask.base import annotate

    annotated: AbstractContextManager[Any] = annotate(resources={"GPU": 1})
    return annotated


def _offers_gpus(settings: Settings) -> bool:
    """Return whether the workers have GPUs. For a remote cluster, the settings must say so."""
    elsewhere = settings.dask_address if settings.task_runner == "dask" else settings.ray_address
    return settings.device == "cuda" or (settings.device == "auto" and not elsewhere and bool(_gpus()))


# -- from workers to the run, and back -----------------------------------------------------------------------------


@dataclass(frozen=True)
class DaskChannel:
    """A queue and a flag in Dask's scheduler."""

    name: str
    client: Any = None
    """The run's client. A worker uses its own instead."""

    def connect(self) -> Exchange:
        from distributed import Event as Flag
        from distributed import Queue, get_client

        client = get_client()
        queue, stopped = Queue(self.name, client=client), Flag(self.name, client=client)

        def exchange(events: Sequence[Event]) -> bool:
            if events:
                queue.put(list(events))
            return bool(stopped.is_set())

        return exchange

    def receive(self, stop: bool) -> Sequence[Event]:
        from distributed import Event as Flag
        from distributed import Queue

        if stop:
            Flag(self.name, client=self.client).set()
        batches = Queue(self.name, client=self.client).get(batch=True)
        return [(job, method, tuple(arguments)) for events in batches for job, method, arguments in events]

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "client": None}


class _Mailbox:
    """The contents of Ray's actor: events that the run has not taken yet, and whether the run stops."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stop = False

    def send(self, events: Sequence[Event]) -> bool:
        self._events += events
        return self._stop

    def receive(self, stop: bool) -> Sequence[Event]:
        self._stop = stop
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class RayChannel:
    """An actor, which takes no core of the cluster."""

    actor: Any

    def connect(self) -> Exchange:
        import ray

        return lambda events: bool(ray.get(self.actor.send.remote(events)))

    def receive(self, stop: bool) -> Sequence[Event]:
        import ray

        events: Sequence[Event] = ray.get(self.actor.receive.remote(stop))
        return events


def _open_channel(runner: TaskRunner[Any], settings: Settings) -> Channel:
    if settings.task_runner == "dask":
        return DaskChannel(f"segue-{uuid.uuid4().hex}", runner.client)  # type: ignore[attr-defined]
    import ray

    return RayChannel(ray.remote(num_cpus=0)(_Mailbox).remote())


@contextmanager
def relaying_progress(
    runner: TaskRunner[Any], settings: Settings, progress: Progress, stop: threading.Event
) -> Iterator[Channel | None]:
    """While the context lasts, pass what workers report on to `progress`, and tell the workers whether the run stops.
    After a stop, wait until they have ended at their next batch, at most `GRACE_SECONDS`. Threads need none of this:
    for them, yield None."""
    if settings.task_runner == "threads":
        yield None
        return
    channel, ended, relay = _open_channel(runner, settings), threading.Event(), _Relay(progress)

    def listen() -> None:
        while not ended.wait(PULSE_SECONDS):
            with suppress(Exception):  # if the cluster is gone, the jobs themselves fail
                relay.replay(channel.receive(stop.is_set()))

    listener = threading.Thread(target=listen, name="workers", daemon=True)
    listener.start()
    try:
        yield channel
    finally:
        until = time.monotonic() + GRACE_SECONDS
        while stop.is_set() and relay.is_busy and time.monotonic() < until:
            time.sleep(PULSE_SECONDS)
        ended.set()
        listener.join()
        with suppress(Exception):
            relay.replay(channel.receive(stop.is_set()))
        relay.close()


class _Relay:
    """Calls a run's progress as the workers called theirs. Each job has a thread here, by which progress tells jobs
    apart."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._threads: dict[str, ThreadPoolExecutor] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._threads)

    def replay(self, events: Sequence[Event]) -> None:
        for job, method, arguments in events:
            if method == "end":
                if job in self._threads:
                    self._threads.pop(job).shutdown()
                continue
            if job not in self._threads:
                self._threads[job] = ThreadPoolExecutor(max_workers=1)
            if method != "begin":
                self._threads[job].submit(getattr(self._progress, method), *arguments)

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()


class _BufferedProgress(Progress):
    """A job's progress in a worker, kept until it is sent. Successive counts are sent as their sum."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def start(self, what: str, total: int, unit: str) -> None:
        self._add("start", what, total, unit)

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            if self._events and self._events[-1][1] == "advance":
                count += self._events.pop()[2][0]
            self._events.append((self._job, "advance", (count, note)))

    def resume(self, count: int) -> None:
        self._add("resume", count)

    def tell(self, lines: Sequence[str]) -> None:
        self._add("tell", list(lines))

    def end_job(self) -> None:
        self._add("end_job")

    def take(self) -> Sequence[Event]:
        """Return the events that have not been sent yet."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def _add(self, method: str, *arguments: Any) -> None:
        with self._lock:
            self._events.append((self._job, method, arguments))


@contextmanager
def connected_to_run(channel: Channel, job: str, context: Context) -> Iterator[Context]:
    """Yield a job's context whose progress is reported to the run, and which stops with the run."""
    name, stop, ended = f"{job}-{uuid.uuid4().hex[:8]}", threading.Event(), threading.Event()
    progress, exchange = _BufferedProgress(name), channel.connect()
    if exchange([(name, "begin", ())]):
        stop.set()

    def exchange_events() -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(PULSE_SECONDS)
            with suppress(Exception):  # if the run is gone, the cluster ends the worker
                if exchange([*progress.take(), *([(name, "end", ())] if is_last else [])]):
                    stop.set()

    exchanging = threading.Thread(target=exchange_events, name="run", daemon=True)
    exchanging.start()
    try:
        yield replace(context, progress=progress, stop=stop)
    finally:
        ended.set()
        exchanging.join()
