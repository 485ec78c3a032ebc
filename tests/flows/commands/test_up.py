"""The service: `segue up` starts what is missing, `segue down` ends everything."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import yaml

from flows.cli import run_command
from flows.commands import up
from flows.commands.up import QUEUES
from flows.runs.failures import format_error, is_fault
from flows.service.service import (
    MARK,
    Part,
    Service,
    cause_in,
    end_service,
    load_service,
    members,
    only_one_process,
    save_service,
    start_server,
    state_folder,
)
from tests.worlds.patience import PATIENCE_SECONDS, wait_for

ROOT = Path(__file__).resolve().parents[3]
SEGUE = "from flows.cli import main; main()"


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """A state folder of the test's own, and no server in the environment."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return state_folder()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sleeper(*, leads: bool) -> "subprocess.Popen[str]":
    """A sleeping process of the service; if it leads, it starts another in a session of its own and prints its process
    id."""
    inner = "import subprocess, sys; print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)"
    script = f"{inner if leads else ''}\nimport time; time.sleep(300)"
    return subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {MARK: str(state_folder())}, stdout=subprocess.PIPE, text=True
    )


def test_the_state_of_the_service_is_saved_readable_only_by_its_user(own_state):
    service = Service(4321, "postgresql+asyncpg://user:word@127.0.0.1/prefect", {"server": Part(1, 2.5)}, "digest")
    save_service(service)
    assert load_service() == service
    assert (own_state / "service.json").stat().st_mode & 0o077 == 0


def test_another_process_that_got_the_id_of_a_part_is_not_taken_for_it():
    me = psutil.Process()
    assert Part(me.pid, me.create_time()).process() == me
    assert Part(me.pid, me.create_time() - 60).process() is None


def test_ending_the_service_ends_what_its_killed_processes_left_and_nothing_else():
    leader, other = sleeper(leads=True), subprocess.Popen(["sleep", "300"])
    try:
        assert leader.stdout is not None
        left = int(leader.stdout.readline())
        leader.kill()
        leader.wait()
        assert left in [process.pid for process in members()]
        end_service(Service())
        assert members() == []
        assert other.poll() is None
    finally:
        other.kill()
        leader.kill()


def test_ending_the_service_returns_the_parts_that_ran():
    process = sleeper(leads=False)
    part = Part(process.pid, psutil.Process(process.pid).create_time())
    assert end_service(Service(parts={"cpu": part, "gpu": Part(process.pid, 1.0)})) == ["cpu"]
    process.wait(PATIENCE_SECONDS)


def test_a_port_in_use_is_reported_before_anything_starts():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match=r"expected port \d+ of this machine to be free.*--port"):
            start_server(Service(port=other.getsockname()[1]))
    assert members() == []


def test_commands_that_change_the_service_wait_for_each_other():
    waits, order = threading.Event(), []

    def second() -> None:
        with only_one_process(waits.set):
            order.append("second")

    other = threading.Thread(target=second)
    with only_one_process(lambda: order.append("waited for nobody")):
        other.start()
        assert waits.wait(PATIENCE_SECONDS)
        order.append("first")
    other.join(PATIENCE_SECONDS)
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("Traceback:\n  File x\nsqlalchemy.exc.NoSuchModuleError: no postgres\nAn exception occurred.", "no postgres"),
        ("ConnectionRefusedError: [Errno 111] refused\n\nERROR:    Application startup failed. Exiting.\n", "refused"),
        ("This deployment references work pool 'gpu' which does not\nexist.\n", "which does not exist."),
        ("", "no message"),
    ],
)
def test_the_line_with_the_cause_is_found_in_the_output_of_prefect(output, cause):
    assert cause_in(output).endswith(cause)
    assert "File x" not in cause_in(output)


def test_a_deployment_that_prefect_refuses_is_reported_in_one_line_with_what_to_do(tmp_path, own_state):
    project = tmp_path / "prefect.yaml"
    deployment = {"name": "x", "entrypoint": "flows.none.catalog", "work_pool": {"name": "cpu"}, "schedules": []}
    project.write_text(yaml.safe_dump({"deployments": [deployment]}))
    with pytest.raises(ChildProcessError) as failed:
        up._deploy_all(project, Service(port=free_port()).environment())
    assert not is_fault(failed.value)
    told = format_error(failed.value)
    assert "got: ModuleNotFoundError: No module named 'flows.none'; fix that and run" in told
    assert "\n" not in told
    assert "Traceback" in (own_state / "deploy.log").read_text()


def test_a_database_that_does_not_answer_is_reported_and_not_remembered(tmp_path, own_state):
    port = free_port()
    missing = f"postgresql+asyncpg://nobody:word@127.0.0.1:{port}/none"
    with pytest.raises(ValueError, match=rf"to answer at 127.0.0.1:{port}, got ConnectionRefusedError: ") as failed:
        up._start_missing(ROOT / "prefect.yaml", free_port(), missing)
    assert "word" not in str(failed.value)
    assert load_service() == Service()
    assert run_command(["up", "--database", "postgres://127.0.0.1/none"]) == 2


def test_a_deployment_that_takes_too_long_ends_with_what_to_do(monkeypatch):
    monkeypatch.setattr(up, "DEPLOY_SECONDS", 0.01)
    with pytest.raises(TimeoutError, match=r"to end within 0\.01 s with .*prefect\.yaml.* type `segue up` again"):
        up._deploy_all(Path("prefect.yaml"), os.environ)


def test_the_environment_of_the_service_keeps_its_database_from_growing():
    environment = Service(database="postgresql+asyncpg://127.0.0.1/prefect").environment()
    assert environment["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    assert int(environment["PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"]) == 30 * 86_400
    assert environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql")
    read = "from prefect.settings import get_current_settings as s; v = s().server.services.db_vacuum"
    words = [sys.executable, "-c", f"{read}; print(sorted(v.enabled_vacuum_types), v.retention_period.days)"]
    told = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    ).stdout
    assert told.split("\n")[-2] == "['events', 'flow_runs', 'orphans'] 30"


def test_the_servers_page_is_stored_in_the_users_own_folder(own_state):
    environment = Service().environment()
    assert Path(environment["PREFECT_SERVER_UI_STATIC_DIRECTORY"]).is_relative_to(own_state)
    read = "from prefect.settings import get_current_settings as s; print(s().server.ui.static_directory)"
    words = [sys.executable, "-c", read]
    told = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    ).stdout
    assert Path(told.splitlines()[-1]).is_relative_to(own_state)


def running() -> list[list[str]]:
    """The command lines of the service's processes."""
    return [process.cmdline() for process in members()]


@pytest.mark.slow
def test_the_service_starts_once_listens_only_on_the_loopback_and_ends_completely(tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    port = free_port()

    def segue(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SEGUE, *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        assert "deployments: all of" in segue("up", "--port", str(port))
        first = {process.pid for process in members()}
        again = segue("up")
        assert {process.pid for process in members()} == first
        assert again.count("runs already") == 3
        assert "deployments: as they were" in again
        listening = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.pid in first]
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
        service = load_service()
        with temporary_settings({PREFECT_API_URL: service.url}), get_client(sync_client=True) as client:
            assert len(client.read_deployments()) >= 18
            queues = {queue.name: queue.priority for queue in client.read_work_queues(work_pool_name="gpu")}
            assert queues == QUEUES
            nightly = client.read_deployment_by_name("catalog/nightly")
            assert nightly.work_queue_name == "scheduled"
            client.create_flow_run_from_deployment(
                client.read_deployment_by_name("demo/demo").id,
                parameters={"recipe": {"demo": {"pieces": 300}}, "settings": {"workers": 1}},
            )
        wait_for(lambda: len(members()) > len(first), seen=running)  # the run's own process
        stays = subprocess.Popen(
            [sys.executable, "-c", SEGUE, "up", "--stay"], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path
        )
        for name in ("gpu", "server"):
            before = load_service().parts[name]
            psutil.Process(before.pid).kill()
            wait_for(lambda name=name, before=before: load_service().parts[name] != before, seen=running)
        wait_for(lambda: load_service().answers(), seen=running)
        worker = service.running("cpu")
        assert worker is not None
        worker.kill()  # its run loses its parent
        assert "server: ended" in segue("down")
        assert stays.wait(PATIENCE_SECONDS) == 0
        assert members() == []
        assert "nothing ran" in segue("down")
    finally:
        end_service(load_service())
