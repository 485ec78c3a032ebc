"""The files under `deploy/` agree with the code: places, commands, settings, and nothing open to the network."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from flows.service.service import POOLS, SERVER_SETTINGS
from tests.worlds.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]


@pytest.fixture(scope="module")
def image():
    """The lines of the Dockerfile, with continued lines joined."""
    return (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()


def test_ports_are_published_only_on_the_loopback(services):
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_there_is_a_worker_for_every_pool_and_it_waits_for_the_deployments(services):
    workers = [service for service in services.values() if "worker start" in str(service.get("command"))]
    assert {shlex.split(worker["command"])[4] for worker in workers} == set(POOLS)
    assert all("deployments" in worker["depends_on"] for worker in workers)


def test_the_commands_exist_in_segue_and_prefect_with_their_options(services):
    programs = {
        "segue": [sys.executable, "-c", "from flows.cli import main; main()"],
        "prefect": [sys.executable, "-m", "prefect"],
    }
    commands = {tuple(shlex.split(service["command"])) for service in services.values() if "command" in service}
    assert {words[0] for words in commands} == set(programs)
    for program, *words in commands:
        options = [word for word in words if word.startswith("--")]
        named = words[: words.index(options[0])] if options else words
        told = subprocess.run([*programs[program], *named, "--help"], capture_output=True, text=True, check=True).stdout
        assert "Usage" in told
        assert all(option in told for option in options), (named, told)


def test_the_store_of_prefect_yaml_is_a_volume_and_the_containers_mount_the_file(services):
    store = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["parameters"]["settings"]["store"]
    for name in ("worker-cpu", "worker-gpu"):
        assert f"store:/segue/{store}" in services[name]["volumes"]
        assert "../prefect.yaml:/segue/prefect.yaml:ro" in services[name]["volumes"]
    assert "../prefect.yaml:/segue/prefect.yaml:ro" in services["deployments"]["volumes"]


def test_prefect_knows_every_setting_and_its_server_has_those_of_segue_up(services):
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    known = {setting.name for setting in _get_settings_fields(Settings).values()}
    given = {name for service in services.values() for name in service["environment"] if name.startswith("PREFECT_")}
    assert given
    assert given <= known
    server = services["server"]["environment"]
    assert SERVER_SETTINGS.items() <= server.items()
    assert known >= set(SERVER_SETTINGS)
    assert "server:/home/segue/.prefect" in services["server"]["volumes"]  # where leases are stored
    assert server["PREFECT_SERVER_UI_STATIC_DIRECTORY"].startswith("/home/segue/.prefect/"), "its user may write there"


def test_the_image_contains_every_package_and_the_files_of_its_project(image):
    copied = {source for line in image if line.startswith("COPY") for source in line.split()[1:-1]}
    assert {"flows", "stages", "model", "schemas", "segue.py", "pyproject.toml", "requirements.lock"} <= copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_unit_calls_existing_commands():
    unit = (ROOT / "deploy/segue.service").read_text()
    called = [line.split("/segue ", 1)[1] for line in unit.splitlines() if line.startswith("Exec")]
    assert len(called) == 3
    for words in called:
        assert CliRunner().invoke(app, [*words.split(), "--help"]).exit_code == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit_and_rejects_a_wrong_one(tmp_path):
    program = tmp_path / "segue" / ".venv" / "bin" / "segue"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o700)
    right, wrong = (tmp_path / "units" / name / "segue.service" for name in ("right", "wrong"))
    unit = (ROOT / "deploy/segue.service").read_text()
    for file, text in ((right, unit), (wrong, unit.replace("Type=exec", "Type=exce"))):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    environment = os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}

    def told(file):
        words = ["systemd-analyze", "verify", "--user", str(file)]
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        return done.returncode, done.stdout + done.stderr

    assert told(right) == (0, "")
    assert "Failed to parse service type" in told(wrong)[1]


def test_the_image_compiles_all_code_because_its_user_cannot_write_there(image):
    user = next(number for number, line in enumerate(image) if line.startswith("USER"))
    before = image[:user]
    assert all("--compile-bytecode" in line for line in before if "uv pip sync" in line)
    (compiling,) = [line for line in before if "compileall" in line]
    sources = {line.split()[-1] for line in before if line.startswith("COPY") and len(line.split()) == 3}
    assert {source for source in sources if (ROOT / source / "__init__.py").is_file()} <= set(compiling.split())
