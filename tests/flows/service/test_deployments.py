"""`prefect.yaml`: every deployment loads, and a real server, work pool and worker run one, by hand and on schedule."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Pending, Scheduled
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.commands.up import suggested_deployment
from flows.recipes.parameters import asked_for
from schemas import Store
from schemas.queries.database import query
from tests.worlds.command_line import make_recordings
from tests.worlds.deploying import PREFECT, PROJECT, clear, deploy, histories, state, worker
from tests.worlds.patience import wait_for

DEPLOYMENTS = PROJECT["deployments"]
TRAINING = {"catalog", "train", "train_codec", "demo_models"}


def flow_name(deployment):
    return deployment["entrypoint"].rsplit(".", 1)[-1]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=flow_name)
def test_every_entrypoint_loads_and_accepts_the_parameters_of_its_deployment(deployment):
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == flow_name(deployment)
    form = parameter_schema(flow).model_dump_for_openapi()
    assert validate(deployment["parameters"], form) == []
    assert [error.message for error in validate(deployment["parameters"] | {"recipe": {"trian": {}}}, form)]
    assert asked_for(**deployment["parameters"]).recipe.preset == "miniature"


def test_a_deployment_is_named_after_its_stage_and_prefect_asks_no_questions():
    names = {flow_name(one): one["name"] for one in DEPLOYMENTS}
    assert names == {name: name for name in names} | {"catalog": "nightly", "ingest": "hourly"}
    assert all("schedules" in one for one in DEPLOYMENTS)


def test_the_catalog_and_every_stage_are_deployed_once_on_the_right_pool():
    from flows.recipes.recipe import GPU_STAGES, STAGES

    assert sorted(map(flow_name, DEPLOYMENTS)) == sorted(["catalog", *STAGES])
    for deployment in DEPLOYMENTS:
        name = flow_name(deployment)
        assert deployment["work_pool"]["name"] == ("gpu" if name in GPU_STAGES | {"catalog"} else "cpu")
        assert name not in TRAINING or deployment["concurrency_limit"]["limit"] == 1


def test_scheduled_runs_go_first_and_colliding_scheduled_runs_are_cancelled():
    for deployment in DEPLOYMENTS:
        scheduled = bool(deployment["schedules"])
        assert (deployment["work_pool"].get("work_queue_name") == "scheduled") is scheduled
        collisions = deployment.get("concurrency_limit", {}).get("collision_strategy")
        assert (collisions == "CANCEL_NEW") is scheduled


def test_the_catalog_is_scheduled_nightly_ingest_hourly_and_nothing_else():
    schedules = {flow_name(one): one["schedules"][0]["cron"].split() for one in DEPLOYMENTS if one["schedules"]}
    assert set(schedules) == {"catalog", "ingest"}
    assert schedules["catalog"][1].isdigit()
    assert schedules["catalog"][2:] == ["*", "*", "*"]
    assert schedules["ingest"][0].isdigit()
    assert schedules["ingest"][1:] == ["*", "*", "*", "*"]


def test_a_deployment_left_due_by_one_test_does_not_cancel_a_run_of_another(on_server):
    """A run left by its worker keeps its slot, so another run of the same deployment is cancelled until the server is
    cleared."""
    options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("ingest")

        def asked_for_and_taken() -> tuple[UUID, State]:
            hourly = client.create_deployment(flow, "hourly", concurrency_limit=1, concurrency_options=options)
            client.create_flow_run_from_deployment(hourly, state=Scheduled(scheduled_time=datetime.now(UTC)))
            run = client.create_flow_run_from_deployment(hourly).id
            client.set_flow_run_state(run, Pending())
            return run, state(client, run)

        assert asked_for_and_taken()[1].is_pending()
        run, now = asked_for_and_taken()
        assert now.is_cancelled()
        assert "Cancelled Deployment concurrency limit reached" in histories(client, run)
        clear(on_server)
        assert not [one for one in client.read_flow_runs() if one.state_type == StateType.SCHEDULED]
        assert asked_for_and_taken()[1].is_pending()
        clear(on_server)


@pytest.fixture
def deployed(server, tmp_path):
    """The scheduled deployments on the server, with a store and a source of this test; a worker runs."""
    scheduled = [one for one in DEPLOYMENTS if one["schedules"]]
    deploy(server, tmp_path, make_recordings(tmp_path / "source", 3), scheduled)
    with worker(server, tmp_path):
        yield Store(str(tmp_path / "store"))
    clear(server)  # or its schedule would continue


def test_a_deployed_stage_runs_by_hand_and_on_schedule_and_rejects_wrong_parameters(on_server, deployed, tmp_path):
    with get_client(sync_client=True) as client:
        hourly = client.read_deployment_by_name("ingest/hourly").id
        with pytest.raises(PrefectHTTPStatusError, match="shard_size"):
            client.create_flow_run_from_deployment(hourly, parameters={"recipe": {"ingest": {"shard_size": 0}}})
        project = tmp_path / "prefect.yaml"
        assert suggested_deployment(client, project) == "catalog/nightly"
        content = yaml.safe_load(project.read_text())
        content["deployments"] = [one for one in content["deployments"] if one["name"] != "nightly"]
        project.write_text(yaml.safe_dump(content))
        assert suggested_deployment(client, project) == "ingest/hourly"
        project.write_text(yaml.safe_dump(content | {"deployments": PROJECT["deployments"][2:]}))
        assert suggested_deployment(client, project) is None
    # These are merged over the deployment's own settings, which name the store.
    run = [*PREFECT, "deployment", "run", "ingest/hourly", "--param", 'settings={"max_refused": 0.6}', "--watch"]
    ran = on_server.command(*run, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert query(deployed, "SELECT count(*) AS n FROM tracks").to_pylist() == [{"n": 3}]
    # The schedule is added only now: a run by hand would wait behind a schedule that is faster than the machine.
    with get_client(sync_client=True) as client:
        client.create_deployment_schedules(hourly, [(IntervalSchedule(interval=timedelta(seconds=5)), True)])
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[hourly]))

        def one_of_the_schedule_is_completed() -> bool:
            runs = client.read_flow_runs(flow_run_filter=ours)
            return any(run.auto_scheduled and run.state and run.state.is_completed() for run in runs)

        wait_for(one_of_the_schedule_is_completed, seen=lambda: histories(client))
    assert query(deployed, "SELECT count(*) AS n FROM runs").to_pylist()[0]["n"] >= 2
