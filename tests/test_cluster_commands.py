"""The commands of docs/training.md for several machines: torchrun and `segue` have the options used there, and names in
one part of a manifest match those in others. Nothing here contacts Slurm, Kubernetes or SkyPilot."""

import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from flows.commands.options import parse_run_options
from flows.runs.stopping import GRACE_SECONDS
from tests.worlds.smallest_run import ROOT

BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "docs/training.md").read_text(), re.DOTALL | re.MULTILINE)
VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def block(word: str) -> str:
    """The only block that contains a word."""
    (found,) = [text for text in BLOCKS if word in text]
    return found


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """The Service and the Job of Kubernetes, by kind."""
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(block("kind: Job"))}


@pytest.fixture(scope="module")
def container(manifests: dict[str, Any]) -> dict[str, Any]:
    (container,) = manifests["Job"]["spec"]["template"]["spec"]["containers"]
    return container


def torchruns() -> dict[str, list[str]]:
    """The words of every torchrun, by where it is run. Shell variables and commands are replaced by 2."""
    shells = {
        "machines": block("first.example"),
        "Slurm": block("#SBATCH"),
        "SkyPilot": yaml.safe_load(block("num_nodes"))["run"],
    }
    told = {}
    for name, text in shells.items():
        (line,) = [line for line in text.replace("\\\n", " ").splitlines() if "torchrun" in line]
        line = re.sub(r"\$\([^)]*\)|\$\w+", "2", line)
        told[name] = shlex.split(line[line.index("torchrun") :])
    manifest = next(each for each in yaml.safe_load_all(block("kind: Job")) if each["kind"] == "Job")
    return told | {"Kubernetes": manifest["spec"]["template"]["spec"]["containers"][0]["command"]}


@pytest.mark.parametrize("where", ["machines", "Slurm", "SkyPilot", "Kubernetes"])
def test_torchrun_and_segue_have_the_options_that_they_are_given(where: str) -> None:
    program, *words = torchruns()[where]
    assert program == "torchrun"
    given = get_args_parser().parse_args(words)
    assert given.no_python
    assert (given.rdzv_backend, given.max_restarts) == ("c10d", 3)
    assert given.rdzv_endpoint.endswith(":29400")
    command, *rest = given.training_script, *given.training_script_args
    assert command == "segue"
    assert rest[:2] == ["run", "train"]
    options = dict(zip(rest[2::2], rest[3::2], strict=True))
    assert set(options) <= {"--preset", "--store"}
    run = parse_run_options(["train"], options.get("--preset", "musicgen-small"), {"store": options["--store"]}, [])
    assert run.plan.names == ["train"]
    assert run.plan.settings.store == "s3://music/store"


@pytest.mark.parametrize("word", ["first.example", "#SBATCH", "num_nodes"])
def test_bash_can_parse_the_scripts(word: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = yaml.safe_load(block(word))["run"] if word == "num_nodes" else block(word)
    read = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_the_batch_script_starts_with_a_shebang_as_sbatch_requires() -> None:
    assert block("#SBATCH").startswith("#!/bin/bash\n#SBATCH ")


def test_everything_that_restarts_processes_sets_the_variable_that_segue_requires(container) -> None:
    assert f"export {VARIABLE}=1" in block("first.example")
    assert f"export {VARIABLE}=1" in block("#SBATCH")
    assert yaml.safe_load(block("num_nodes"))["envs"] == {VARIABLE: "1"}
    assert {"name": VARIABLE, "value": "1"} in container["env"]


def test_the_first_pod_has_the_name_of_the_rendezvous_endpoint(manifests: dict[str, Any], container) -> None:
    job, service = manifests["Job"], manifests["Service"]
    pod = job["spec"]["template"]["spec"]
    name = job["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    assert pod["subdomain"] == service["metadata"]["name"]
    given = get_args_parser().parse_args(container["command"][1:])
    assert given.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29400"
    assert job["spec"]["completionMode"] == "Indexed"
    assert {job["spec"]["completions"], job["spec"]["parallelism"], int(given.nnodes)} == {2}
    assert int(given.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]


def test_a_pod_that_is_terminated_has_longer_than_a_run_needs_to_stop(manifests: dict[str, Any]) -> None:
    grace = manifests["Job"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= 2 * GRACE_SECONDS
    (warned,) = re.findall(r"--signal=TERM@(\d+)", block("#SBATCH"))
    assert int(warned) >= 2 * GRACE_SECONDS
