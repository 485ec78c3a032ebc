"""The progress of a run as an artifact of Prefect: what an operator sees of a long stage on the server's page.

The working threads only count. A thread of its own updates the server every ten seconds, so that a slow server slows no
stage. A run that ends sooner leaves no such artifact.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext

from flows.runs.progress import Work, stage_share
from stages.pipeline.contract import Progress

KEY = "segue-progress"
"""The artifact's key on the page, which shows the newest artifact with this key and earlier ones."""

TELL_SECONDS = 10.0
"""Seconds between two updates of the server; each is a small write to its database."""


@dataclass(frozen=True)
class Reading:
    """How far the current stage is, in percent and in words."""

    percent: float
    text: str


class ReadableProgress(Progress):
    """Passes progress on to a listener, and records how far the current stage is."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._stage = Work("", 0, "shards")
        self._works: dict[int, Work] = {}

    def begin_stage(self, stage: str, jobs: int) -> None:
        with self._lock:
            self._stage = Work(stage, jobs, "shards")
            self._works.clear()
        self._listener.begin_stage(stage, jobs)

    def end_job(self) -> None:
        with self._lock:
            self._stage.done += 1
            self._works.pop(threading.get_ident(), None)
        self._listener.end_job()

    def start(self, what: str, total: int, unit: str) -> None:
        with self._lock:
            self._works[threading.get_ident()] = Work(what, total, unit)
        self._listener.start(what, total, unit)

    def advance(self, count: int = 1, note: str = "") -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is not None:
                work.done, work.note = work.done + count, note
        self._listener.advance(count, note)

    def resume(self, count: int) -> None:
        with self._lock:
            work = self._works.get(threading.get_ident())
            if work is not None:
                work.done, work.resumed, work.note = work.done + count, work.resumed + count, "resumed"
        self._listener.resume(count)

    def tell(self, lines: Sequence[str]) -> None:
        self._listener.tell(lines)

    def reading(self) -> Reading | None:
        """Return how far the current stage is; None before the first one."""
        with self._lock:
            stage, works = self._stage, list(self._works.values())
        if not stage.what:
            return None
        share = stage_share(stage, works)
        texts = [f"{stage.what}: {stage.done}/{stage.total} shards done"] if stage.total > 1 else [stage.what]
        texts += [work.line() for work in works]
        return Reading(round(100 * share, 1), "; ".join(texts))


@contextmanager
def live_artifact(progress: ReadableProgress) -> Iterator[None]:
    """Show the progress of the work within this block as an artifact of the current flow run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        yield
        return
    ended, done = threading.Event(), threading.Event()
    surroundings = copy_context()  # with the Prefect settings that are in effect here
    words = (context.flow_run.id, progress, ended, done)
    thread = threading.Thread(target=surroundings.run, args=(_tell, *words), daemon=True)
    thread.start()
    try:
        yield
        done.set()
    finally:
        ended.set()
        thread.join(TELL_SECONDS)


def _tell(flow_run: UUID, progress: ReadableProgress, ended: threading.Event, done: threading.Event) -> None:
    artifact: UUID | None = None
    last: Reading | None = None
    while not ended.wait(TELL_SECONDS):
        reading = progress.reading()
        if reading is None or reading == last:
            continue
        with suppress(Exception), get_client(sync_client=True) as client:  # if the server is down, try the next time
            if artifact is None:
                request = ArtifactCreate(
                    key=KEY, type="progress", flow_run_id=flow_run, description=reading.text, data=reading.percent
                )
                artifact = client.create_artifact(request).id
            else:
                client.update_artifact(artifact, ArtifactUpdate(description=reading.text, data=reading.percent))
            last = reading
    if artifact is not None:
        last_text = f"at the end, {last.text}" if last else "nothing was reported"
        update = (
            ArtifactUpdate(description=f"everything is done; {last_text}", data=100.0)
            if done.is_set()
            else ArtifactUpdate(description=f"ended before everything was done; {last_text}")
        )
        with suppress(Exception), get_client(sync_client=True) as client:
            client.update_artifact(artifact, update)
