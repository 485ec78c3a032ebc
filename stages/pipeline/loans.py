"""Models that stay in memory from one job of a stage to the next, so that each process loads them once.

A job borrows a model, and no other job uses it meanwhile. Jobs side by side in one process each have their own model.
So a process holds as many copies as jobs ever ran in it at once. What a job gives back at its end is kept for the next
job of the same version of the stage. Kept models are removed when a job of another version begins, when the stage ends,
and, in a worker that gets no more jobs, after a minute; free memory goes back to the system then. The models of a job
that failed or was stopped are not kept, since their state is unknown.
"""

import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from stages.pipeline.memory import give_back_memory

IDLE_SECONDS = 60.0
"""How long a process without jobs keeps models, in seconds."""

Loaded = TypeVar("Loaded")


class Loans:
    """The models that one job has borrowed. Without a shelf, the models are loaded for this object alone and kept as
    long as it exists."""

    def __init__(self, shelf: "_Shelf | None" = None, owner: Hashable = None) -> None:
        self._shelf, self._owner = shelf, owner
        self._models: dict[Hashable, object] = {}

    def borrow(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return the model that this job has for a key; else one that an earlier job gave back; else a newly loaded
        one."""
        if key not in self._models:
            kept = self._shelf.take(self._owner, key) if self._shelf else None
            self._models[key] = load() if kept is None else kept
        return cast("Loaded", self._models[key])

    def give_back(self) -> None:
        if self._shelf:
            for key, model in self._models.items():
                self._shelf.put(self._owner, key, model)


class _Shelf:
    """Models of one version of a stage that no job has at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: Hashable = None
        self._models: dict[Hashable, list[object]] = {}
        self._jobs = 0
        self._timer: threading.Timer | None = None

    def begin_job(self, owner: Hashable) -> None:
        with self._lock:
            self._jobs += 1
            if self._timer is not None:
                self._timer.cancel()
            if owner != self._owner:
                self._clear()
                self._owner = owner

    def end_job(self) -> None:
        with self._lock:
            self._jobs -= 1
            if self._jobs == 0 and self._models:
                self._timer = threading.Timer(IDLE_SECONDS, self._clear_if_idle)
                self._timer.daemon = True
                self._timer.start()

    def take(self, owner: Hashable, key: Hashable) -> object | None:
        with self._lock:
            models = self._models.get(key) if owner == self._owner else None
            return models.pop() if models else None

    def put(self, owner: Hashable, key: Hashable, model: object) -> None:
        with self._lock:
            if owner == self._owner:
                self._models.setdefault(key, []).append(model)

    def clear(self) -> None:
        with self._lock:
            self._clear()

    def _clear_if_idle(self) -> None:
        with self._lock:
            if self._jobs == 0:
                self._clear()

    def _clear(self) -> None:
        had_models = any(self._models.values())
        self._models.clear()
        torch = sys.modules.get("torch")
        if had_models and torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for other programs on the same GPU
        give_back_memory()


_shelf = _Shelf()
"""The shelf of this process."""


@contextmanager
def lending(owner: Hashable) -> Iterator[Loans]:
    """Yield the loans through which a job borrows models, and keep the models for the next job of the same owner.

    Args:
        owner: identifies the version of a stage that the job belongs to, and so what its models are loaded from.
    """
    _shelf.begin_job(owner)
    try:
        loans = Loans(_shelf, owner)
        yield loans
        loans.give_back()
    finally:
        _shelf.end_job()


def end_loans() -> None:
    """Release all models that no job has: the stage is done."""
    _shelf.clear()
