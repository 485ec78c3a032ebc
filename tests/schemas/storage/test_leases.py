"""Leases: one holder at a time, even if one dies, and nobody waits for a dead holder."""

import subprocess
import sys
import threading
import time

import pytest

from schemas import Store
from schemas.storage import leases
from schemas.storage.leases import LeaseLost, hold_lease, runs_at_work


def never() -> None:
    """Never asked to stop."""


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


SILENT_SECONDS = 3.0
"""As short as a thread that gives ten signs of life a second can keep to on a busy machine."""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(leases, "SILENT_SECONDS", SILENT_SECONDS)
    monkeypatch.setattr(leases, "LOOK_SECONDS", 0.02)


def test_only_one_holds_a_lease_and_those_who_wait_are_told_for_whom(store, quick):
    inside, told, overlaps = [], [], []

    def work(name: str) -> None:
        with hold_lease(store, "chroma-v", name, lambda holder: told.append((name, holder.run_id)), never):
            overlaps.append(len(inside))
            inside.append(name)
            if len(overlaps) == 1:  # longer than the silence after which a holder counts as dead
                time.sleep(SILENT_SECONDS + 0.5)
            inside.remove(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [0, 0, 0]
    assert len(told) >= 2
    assert all(name != holder for name, holder in told)
    assert store.files("leases/chroma-v") == []


def test_leases_of_different_names_do_not_wait_for_each_other(store):
    with (
        hold_lease(store, "a", "one", pytest.fail, never) as (_, waited),
        hold_lease(store, "b", "two", pytest.fail, never),
    ):
        assert not waited


def test_nobody_waits_for_a_killed_process(tmp_path):
    code = (
        "import os, signal, sys\nfrom schemas import Store\nfrom schemas.storage.leases import hold_lease\n"
        "with hold_lease(Store(sys.argv[1]), 'a', 'killed', print, print):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert Store(str(tmp_path)).files("leases/a") == ["1"]
    with hold_lease(Store(str(tmp_path)), "a", "next", pytest.fail, never):
        assert Store(str(tmp_path)).files("leases/a") == ["2"]


def test_a_run_in_progress_is_known_by_its_lease_until_it_ends_or_is_killed(store, monkeypatch):
    assert runs_at_work(store) == {}
    with hold_lease(store, "chroma-v", "20261130T131652-41c178", pytest.fail, never):
        ((name, holder),) = runs_at_work(store).items()
        assert name == "chroma-v"
        assert str(holder).startswith("run 20261130T131652-41c178 (process ")
        assert str(holder).endswith(", since 30 November 13:16 UTC)")
        monkeypatch.setattr(leases, "_start_of", lambda pid: "a later process of its number")
        assert runs_at_work(store) == {}
    monkeypatch.undo()
    assert runs_at_work(store) == {}


def test_a_silent_run_on_another_machine_does_not_count_as_in_progress_after_a_minute(store, monkeypatch):
    with hold_lease(store, "chroma-v", "elsewhere", pytest.fail, never):
        monkeypatch.setattr(leases.Holder, "is_dead", lambda self: False)
        assert [holder.run_id for holder in runs_at_work(store).values()] == ["elsewhere"]
        monkeypatch.setattr(leases, "age_of", lambda store, path: leases.SILENT_SECONDS + 1)
        assert runs_at_work(store) == {}
        assert list(leases.live_leases(store)) == ["chroma-v"]  # its files may still be needed


def test_a_silent_holder_on_another_machine_is_replaced_and_notices_it(store, quick, monkeypatch):
    with hold_lease(store, "a", "silent", pytest.fail, never) as (lease, _):
        monkeypatch.setattr(leases.Holder, "is_dead", lambda self: False)
        lease._released.set()  # its thread gives no more signs of life
        told = []
        with hold_lease(store, "a", "next", told.append, never) as (_, waited):
            assert waited
            assert [holder.run_id for holder in told] == ["silent"]
            with pytest.raises(LeaseLost, match="expected to be the only run that writes a in"):
                lease.check()


def test_waiting_for_a_lease_ends_if_the_run_is_asked_to_stop(store, quick):
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with (
        hold_lease(store, "a", "one", pytest.fail, never),
        pytest.raises(Stop),
        hold_lease(store, "a", "two", lambda holder: None, stop),
    ):
        pass


def test_a_lease_whose_confirmation_was_lost_is_held_at_once(store, monkeypatch):
    told, write_new = [], store.write_new

    def lose_the_answer(relative, data):
        write_new(relative, data)
        monkeypatch.setattr(store, "write_new", write_new)
        return False  # as S3 answers a client that tries again

    monkeypatch.setattr(store, "write_new", lose_the_answer)
    with hold_lease(store, "chroma-v", "one", told.append, never) as (lease, waited):
        lease.check()
    assert not waited
    assert told == []
    assert store.files("leases/chroma-v") == []
