"""`segue doctor` lists what there is and what to type, without a server, and with one also who takes its slots."""

import os
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.states import Pending, Scheduled

from flows.cli import run_command
from flows.commands import doctor
from flows.service.service import Part, Service, save_service
from schemas import Store
from schemas.tables import CHECKPOINTS
from tests.worlds.deploying import clear


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """A state folder of the test's own, and no server in the environment."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_without_a_server_the_doctor_lists_what_there_is_and_what_to_type(capsys, tmp_path):
    assert run_command(["doctor", "--store", str(tmp_path / "none")]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line[3:].split("  ")[0].strip(): line for line in lines}
    assert told["python"].startswith("ok")
    for what in ("server", "worker cpu", "worker gpu"):
        assert told[what].startswith("--")
        assert told[what].endswith("segue up")
    assert "give --store" in told["store"]


def test_the_doctor_does_not_take_a_folder_with_other_files_for_a_store(capsys, tmp_path):
    (tmp_path / "src").mkdir()
    assert run_command(["doctor", "--store", str(tmp_path)]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line[3:].startswith("store ")]
    assert told.startswith("--")
    assert "a folder with other content" in told


def test_the_doctor_lists_published_weights_and_weights_trained_in_the_store(capsys, tmp_path):
    store = Store(str(tmp_path / "store"))
    store.require()
    rows = [{"checkpoint_id": kind, "kind": kind, "path": f"models/{kind}"} for kind in ("language_model", "codec")]
    table = pa.Table.from_pylist(rows, schema=CHECKPOINTS.schema)
    store.write_shard(CHECKPOINTS, "recipe", "0", table, input_key="all")
    assert run_command(["doctor", "--store", str(tmp_path / "store")]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line[3:].split("  ")[0].strip(): line for line in lines}
    assert told["published weights"].endswith("the presets miniature and study train their own")
    assert told["weights of the store"].startswith("ok")
    assert told["weights of the store"].endswith("  codec, language_model")


def test_the_doctor_reports_ended_workers_a_server_that_does_not_answer_and_a_full_disk_as_bad(capsys, monkeypatch):
    save_service(Service(parts={"cpu": Part(os.getpid(), 1.0)}))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(doctor, "LEAST_FREE", float("inf"))
    assert run_command(["doctor"]) == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!!")]
    assert any("worker cpu" in line and line.endswith("segue up") for line in bad)
    assert any("unset PREFECT_API_URL" in line for line in bad)
    assert any("disk of the state" in line and "make room" in line for line in bad)


def test_the_doctor_names_the_runs_that_take_slots_and_the_next_run_of_each_schedule(on_server):
    options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    clear(on_server)
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("train")
        train = client.create_deployment(flow, "train", concurrency_limit=1, concurrency_options=options)
        other = client.create_deployment(flow, "other")
        holder, waiter = (client.create_flow_run_from_deployment(train) for _ in range(2))
        for run in (holder, waiter):
            client.set_flow_run_state(run.id, Pending())
        for year in (2040, 2041):
            due = Scheduled(scheduled_time=datetime(year, 1, 1, tzinfo=UTC))
            client.create_flow_run_from_deployment(other, state=due)
        told = {(finding.what, finding.state, finding.report) for finding in doctor._server(on_server.url)}
        assert ("slot of train", "ok", f"1 of 1 taken, by {holder.name} (Pending); 1 wait") in told
        assert [line for what, _, line in told if what == "next run" and "other" in line] == [
            "2040-01-01 00:00 other: Scheduled"
        ]
        client.delete_flow_run(holder.id)  # its slot becomes free, and is then taken by no run
        client.increment_concurrency_slots([f"deployment:{train}"], 1, "concurrency")
        told = {(finding.what, finding.state) for finding in doctor._server(on_server.url)}
        assert ("slot of train", "!!") in told
    clear(on_server)
