"""A deployed run that waits for an upgrade decision: it is suspended, says what waits, why and how much, and continues
with the answer."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow

from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from flows.service.suspending import KEY, ask_on_page
from schemas import Store
from schemas.queries.database import query
from schemas.storage.publications import Publications
from tests.flows.conftest import Server
from tests.worlds.command_line import make_recordings
from tests.worlds.deploying import PROJECT, deploy, state, wait_for_state, worker
from tests.worlds.patience import wait_for

HOURLY = next(one for one in PROJECT["deployments"] if one["name"] == "hourly")
RELEASED = HOURLY | {"name": "released", "entrypoint": "tests.worlds.released_ingest.ingest"}


@flow(persist_result=False)
def asking() -> str:
    """Ask on Prefect's page, and return the answer."""
    return ask_on_page(["ingest: version 2, 2 rows again"])


def test_a_run_is_suspended_until_it_has_an_answer_and_only_the_newest_run_waits(on_server: Server) -> None:
    """Runs in this process; in the slow tests a worker runs it."""
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(asking), "asking")

        first, second = (client.create_flow_run_from_deployment(deployment).id for _ in range(2))
        for run in (first, second):
            with pytest.raises(Pause):  # by which its process ends
                run_flow(asking, flow_run=client.read_flow_run(run))
            assert state(client, run).name == "Suspended"
        assert state(client, first).is_cancelled()
        assert "ingest: version 2, 2 rows again" in artifact_of(client, second)
        assert client.resume_flow_run(second).status.value == "REJECT"  # without an answer
        assert state(client, second).name == "Suspended"
        resume(client, second, "keep")
        assert run_flow(asking, flow_run=client.read_flow_run(second)) == "keep"
        assert state(client, second).is_completed()


@pytest.fixture
def client(on_server: Server, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    """A client of a server with a new release's deployment and a worker; the previous release has filled the store."""
    source = make_recordings(tmp_path / "source", 2)
    settings = {"store": str(tmp_path / "store"), "source": str(source), "workers": 1}
    run_stages(Run(parse_run_options(["ingest"], "miniature", settings, []).plan))
    deploy(on_server, tmp_path, source, [RELEASED])
    with worker(on_server, tmp_path), get_client(sync_client=True) as client:
        yield client


@pytest.mark.slow
def test_a_run_waits_for_an_answer_on_prefects_page_and_keep_continues_with_the_old_table(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    first = ask(client)
    wait_for_state(client, first, "Suspended")
    second = ask(client)
    wait_for_state(client, second, "Suspended")
    assert state(client, first).is_cancelled()
    artifact = artifact_of(client, second)
    assert "ingest: version " in artifact
    assert "2 rows again" in artifact
    assert "that takes about " in artifact
    assert client.resume_flow_run(second).status.value == "REJECT"  # without an answer
    assert state(client, second).name == "Suspended"
    resume(client, second, "keep")
    wait_for_state(client, second, "Completed")
    ran = query(Store(str(tmp_path / "store")), "SELECT DISTINCT rows_made, fingerprint FROM runs ORDER BY rows_made")
    assert [row["rows_made"] for row in ran.to_pylist()] == [0, 2]
    assert len(set(ran["fingerprint"].to_pylist())) == 1, "the table that was there is the one that was kept"


@pytest.mark.slow
def test_remake_makes_a_suspended_run_make_the_changed_table_again(client: SyncPrefectClient, tmp_path: Path) -> None:
    run = ask(client)
    wait_for_state(client, run, "Suspended")
    resume(client, run, "remake")
    wait_for_state(client, run, "Completed")
    store = Store(str(tmp_path / "store"))
    ran = query(store, "SELECT stage_version, rows_made, fingerprint FROM runs ORDER BY started_at").to_pylist()
    older, remade = ran
    assert remade["rows_made"] == older["rows_made"] == 2
    assert remade["stage_version"] == older["stage_version"] + 1
    assert Publications(store).shown()["tracks"].versions["tracks"] == remade["fingerprint"] != older["fingerprint"]


def ask(client: SyncPrefectClient) -> UUID:
    return client.create_flow_run_from_deployment(client.read_deployment_by_name("ingest/released").id).id


def resume(client: SyncPrefectClient, run: UUID, word: str) -> None:
    """Give an answer as Prefect's page does. A run is Suspended a moment before its form exists."""
    wait_for(lambda: client.resume_flow_run(run, run_input={"on_upgrade": word}).status.value == "ACCEPT")


def artifact_of(client: SyncPrefectClient, run: UUID) -> str:
    """What a run shows on the page to whoever is to answer."""
    wanted = {"artifacts": {"key": {"any_": [KEY]}, "flow_run_id": {"any_": [str(run)]}}}
    (found,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    return str(found["data"])
