"""`flows/automations.yaml`: a run whose process and worker are both gone is ended, and its place given to the next."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.flows.command_line import make_recordings
from tests.flows.deploying import PREFECT, PROJECT, deploy, worker
from tests.flows.processes import family

ROOT = Path(__file__).resolve().parents[2]
AUTOMATION = yaml.safe_load((ROOT / "flows" / "automations.yaml").read_text())
HOURLY = next(one for one in PROJECT["deployments"] if one["name"] == "hourly")


def test_a_run_is_silent_for_longer_than_its_deployment_lets_pass_between_heartbeats():
    for deployment in PROJECT["deployments"]:
        every = int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert AUTOMATION["trigger"]["within"] >= 3 * every


@pytest.mark.slow
def test_a_run_that_is_killed_with_its_worker_is_crashed_by_the_automation_and_the_next_one_runs(server, tmp_path):
    source = make_recordings(tmp_path / "long", 60, seconds=120.0)
    deploy(server, tmp_path, source, [HOURLY])
    words = ["automation", "create", "--from-file", str(ROOT / "flows" / "automations.yaml")]
    registered = server.command(*PREFECT, *words)
    assert registered.returncode == 0, registered.stdout + registered.stderr
    with httpx.Client(base_url=server.url, timeout=30) as client:
        with worker(server, tmp_path) as process:
            killed = asked(client)
            wait_for(lambda: heartbeats(client, killed), 120)
            assert state(client, killed)["type"] == "RUNNING"
            for one in family(process.pid):
                os.kill(one.pid, signal.SIGKILL)
        waiting = asked(client)
        with worker(server, tmp_path):
            wait_for(lambda: state(client, waiting)["name"] == "AwaitingConcurrencySlot", 60)
            assert state(client, killed)["type"] == "RUNNING"
            wait_for(lambda: state(client, killed)["type"] != "RUNNING", AUTOMATION["trigger"]["within"] + 60)
            assert state(client, killed)["type"] == "CRASHED"
            assert state(client, killed)["message"] == AUTOMATION["actions"][0]["message"]
            wait_for(lambda: state(client, waiting)["type"] == "COMPLETED", 180)


def asked(client: httpx.Client) -> str:
    """The id of a new run of the deployment."""
    deployment = client.get(f"/deployments/name/ingest/{HOURLY['name']}").raise_for_status().json()["id"]
    return client.post(f"/deployments/{deployment}/create_flow_run", json={}).raise_for_status().json()["id"]


def state(client: httpx.Client, run: str) -> dict[str, Any]:
    return client.get(f"/flow_runs/{run}").raise_for_status().json()["state"]


def heartbeats(client: httpx.Client, run: str) -> list[Any]:
    """What the server has heard of a run."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    return client.post("/events/filter", json={"filter": wanted}).raise_for_status().json()["events"]


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"expected this within {seconds:.0f} s"
        time.sleep(0.5)
