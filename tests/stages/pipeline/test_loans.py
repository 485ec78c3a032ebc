"""Models loaded by a job are lent to the next job of the same stage, and never to two jobs at the same time."""

import pickle
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest

from stages.pipeline import loans
from stages.pipeline.contract import Stopped
from stages.pipeline.loans import Loans, end_loans, lending
from tests.worlds.together import context_in


@pytest.fixture(autouse=True)
def none_left():
    yield
    end_loans()


class Loader:
    """Loads models that can be distinguished."""

    def __init__(self) -> None:
        self.loaded = 0

    def __call__(self) -> list[int]:
        self.loaded += 1
        return [self.loaded]


def job(owner: str, load: Loader, key: str = "codec") -> list[int]:
    with lending(owner) as lent:
        return lent.borrow(key, load)


def test_successive_jobs_of_one_stage_load_a_model_once() -> None:
    load = Loader()
    assert [job("decode", load) for _ in range(4)] == [[1]] * 4
    assert job("decode", load, key="watermark") == [2]
    assert job("decode", load) == [1]


def test_one_job_gets_the_same_model_each_time() -> None:
    load = Loader()
    with lending("decode") as lent:
        assert lent.borrow("codec", load) is lent.borrow("codec", load)
    assert load.loaded == 1


def test_simultaneous_jobs_have_a_model_each_and_later_ones_load_none() -> None:
    load, both = Loader(), threading.Barrier(2, timeout=60)
    given: list[list[int]] = []

    def work() -> None:
        with lending("decode") as lent:
            both.wait()
            given.append(lent.borrow("codec", load))
            both.wait()

    for _ in range(3):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert given[-2] is not given[-1]
    assert load.loaded == 2


def test_a_model_is_freed_when_another_stage_begins_or_its_stage_ends() -> None:
    load = Loader()
    assert job("decode", load) == [1]
    assert job("evaluate", load) == [2]
    assert job("decode", load) == [3]
    end_loans()
    assert job("decode", load) == [4]


def test_a_model_of_a_failed_job_is_not_lent_again() -> None:
    load = Loader()
    with suppress(Stopped), lending("decode") as lent:
        lent.borrow("codec", load)
        raise Stopped("decode was asked to stop")
    assert job("decode", load) == [2]


def test_an_idle_worker_frees_its_models_and_the_gpu(monkeypatch) -> None:
    emptied = threading.Event()
    cuda = SimpleNamespace(is_initialized=lambda: True, empty_cache=emptied.set)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(loans, "IDLE_SECONDS", 0.01)
    load = Loader()
    job("decode", load)
    assert emptied.wait(60)
    assert job("decode", load) == [2]


def test_a_pickled_context_takes_no_models_to_a_worker(tmp_path) -> None:
    context, load = context_in(tmp_path), Loader()
    assert context.borrow("codec", load) == context.borrow("codec", load) == [1]
    arrived = pickle.loads(pickle.dumps(context))
    assert isinstance(arrived.loans, Loans)
    assert arrived.borrow("codec", load) == [2]
