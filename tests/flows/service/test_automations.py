"""`flows/service/automations.yaml`: a run whose process and worker are gone is ended, and its slot is freed."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client

from tests.worlds.command_line import make_recordings
from tests.worlds.deploying import PREFECT, PROJECT, deploy, state, wait_for_state, worker
from tests.worlds.patience import wait_for
from tests.worlds.processes import family

ROOT = Path(__file__).resolve().parents[3]
AUTOMATION, STUCK = yaml.safe_load((ROOT / "flows" / "service" / "automations.yaml").read_text())["automations"]
# Its own strategy cancels colliding runs; here the next one is to wait.
WAITING = {"concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"}}
HOURLY = next(one for one in PROJECT["deployments"] if one["name"] == "hourly") | WAITING


def test_a_run_is_taken_for_dead_only_after_three_missed_heartbeats():
    for deployment in PROJECT["deployments"]:
        every = int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert AUTOMATION["trigger"]["within"] >= 3 * every


def test_a_run_that_a_worker_took_is_rescheduled_if_it_does_not_start_within_two_minutes():
    assert STUCK["trigger"]["within"] < 120
    assert STUCK["actions"][0]["state"] == "SCHEDULED"
    # A run that waits for its turn, started or ended is not stuck; and one "Pending" does not follow another. The
    # events that a run's own process sends, such as the end of its pull step, must not be among them, because they can
    # come after "Running".
    assert not set(STUCK["trigger"]["after"]) & set(STUCK["trigger"]["expect"])
    assert not any("pull-step" in name for name in STUCK["trigger"]["after"])
    for name in ("Running", "AwaitingConcurrencySlot", "Cancelled", "Crashed"):
        assert f"prefect.flow-run.{name}" in STUCK["trigger"]["expect"]


@pytest.mark.slow
def test_a_run_killed_with_its_worker_is_crashed_by_the_automation_and_the_next_one_runs(on_server, tmp_path):
    source = make_recordings(tmp_path / "long", 60, seconds=120.0)
    deploy(on_server, tmp_path, source, [HOURLY])
    words = ["automation", "create", "--from-file", str(ROOT / "flows" / "service" / "automations.yaml")]
    registered = on_server.command(*PREFECT, *words)
    assert registered.returncode == 0, registered.stdout + registered.stderr
    with get_client(sync_client=True) as client:
        with worker(on_server, tmp_path) as process:
            killed = asked(client)
            wait_for(lambda: heartbeats(client, killed))
            assert state(client, killed).is_running()
            for one in family(process.pid):
                os.kill(one.pid, signal.SIGKILL)
        killed_at = datetime.now(UTC)
        waiting = asked(client)
        with worker(on_server, tmp_path):
            wait_for_state(client, waiting, "AwaitingConcurrencySlot")
            assert state(client, killed).is_running()
            wait_for_state(client, killed, "Crashed", seconds=AUTOMATION["trigger"]["within"] + 60)
            assert state(client, killed).message == AUTOMATION["actions"][0]["message"]
            wait_for_state(client, waiting, "Completed")
            # Within two minutes the slot passes to the next run, and afterwards it is free.
            states = client.read_flow_run_states(waiting)
            taken = min(one.timestamp for one in states if one.state_details.deployment_concurrency_lease_id)
            assert (state(client, killed).timestamp - killed_at).total_seconds() < 120
            assert (taken - state(client, killed).timestamp).total_seconds() < 60
            limits = client.request("POST", "/v2/concurrency_limits/filter", json={}).json()
            assert not any(limit["active_slots"] for limit in limits)


def asked(client: SyncPrefectClient) -> UUID:
    """The id of a new run of the deployment."""
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(f"ingest/{HOURLY['name']}").id).id


def heartbeats(client: SyncPrefectClient, run: UUID) -> list[Any]:
    """The heartbeats of a run that the server received."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    return client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
