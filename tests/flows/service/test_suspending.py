"""A deployed run that a release makes wait: it is suspended, says what, why and how much, and goes on with a word."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.service.suspending import KEY
from schemas import Store
from schemas.queries.database import query
from schemas.storage.publications import Publications
from tests.flows.conftest import Server
from tests.worlds.command_line import make_recordings
from tests.worlds.deploying import PROJECT, deploy, state, wait_for_state, worker
from tests.worlds.patience import wait_for

HOURLY = next(one for one in PROJECT["deployments"] if one["name"] == "hourly")
RELEASED = HOURLY | {"name": "released", "entrypoint": "tests.worlds.released_ingest.ingest"}


@pytest.fixture
def client(on_server: Server, tmp_path: Path) -> Iterator[SyncPrefectClient]:
    """A server with both releases' deployments, and a worker; the older release has run."""
    deploy(on_server, tmp_path, make_recordings(tmp_path / "source", 2), [HOURLY, RELEASED])
    with worker(on_server, tmp_path), get_client(sync_client=True) as client:
        before = ask(client, "hourly")
        wait_for_state(client, before, "Completed")
        yield client


def test_a_run_waits_for_a_word_on_prefects_page_only_the_newest_does_and_either_word_has_it_go_on(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    first = ask(client, "released")
    wait_for_state(client, first, "Suspended")
    second = ask(client, "released")
    wait_for_state(client, second, "Suspended")
    assert state(client, first).is_cancelled()
    artifact = artifact_of(client, second)
    assert "ingest: version " in artifact
    assert "2 rows again" in artifact
    assert "that takes about " in artifact
    assert client.resume_flow_run(second).status.value == "REJECT"  # without a word
    assert state(client, second).name == "Suspended"
    resume(client, second, "keep")
    wait_for_state(client, second, "Completed")
    store = Store(str(tmp_path / "store"))
    ran = query(store, "SELECT DISTINCT rows_made, fingerprint FROM runs ORDER BY rows_made").to_pylist()
    assert [row["rows_made"] for row in ran] == [0, 2]
    assert len({row["fingerprint"] for row in ran}) == 1, "the table that was there is the one that was kept"
    third = ask(client, "released")  # for what was kept is still another release's
    wait_for_state(client, third, "Suspended")
    resume(client, third, "remake")
    wait_for_state(client, third, "Completed")
    ran = query(store, "SELECT stage_version, rows_made, fingerprint FROM runs ORDER BY started_at").to_pylist()
    older, _, remade = ran
    assert remade["rows_made"] == older["rows_made"] == 2
    assert remade["stage_version"] == older["stage_version"] + 1
    assert Publications(store).shown()["tracks"].versions["tracks"] == remade["fingerprint"] != older["fingerprint"]


def ask(client: SyncPrefectClient, name: str) -> UUID:
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(f"ingest/{name}").id).id


def resume(client: SyncPrefectClient, run: UUID, word: str) -> None:
    """Give a word as Prefect's page does. A run is Suspended a moment before the form for it is there."""
    wait_for(lambda: client.resume_flow_run(run, run_input={"on_upgrade": word}).status.value == "ACCEPT")


def artifact_of(client: SyncPrefectClient, run: UUID) -> str:
    """What a run left on the page for whoever is to give the word."""
    wanted = {"artifacts": {"key": {"any_": [KEY]}, "flow_run_id": {"any_": [str(run)]}}}
    (found,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    return str(found["data"])
