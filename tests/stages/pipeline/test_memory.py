"""Memory of freed tensors: kept while jobs compute, and given back to the system after a stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from stages.pipeline.memory import PARAMETERS

ROOT = Path(__file__).resolve().parents[3]

TENSORS = """
import json, resource, sys, threading, torch
from pathlib import Path
from schemas import Settings
from stages.pipeline.loans import end_loans
from stages.pipeline import memory
from stages.pipeline.threads import computing_threads

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work(turns):
    for _ in range(turns):
        torch.zeros(100 * 2**18).sum()  # 100 MB

def job(found):
    with computing_threads(Settings(store="/nowhere")):
        work(2)
        for interval in (1e9, 0):
            memory.INTERVAL_SECONDS = interval
            memory.give_back_memory_regularly()
            found[f"after {interval:.0f} s"] = resident()
        work(2)
        before = faults()
        work(30)
        found["faults of each"] = (faults() - before) / 30

found = {}
if sys.argv[1] != "here":
    if sys.argv[1] == "in a thread":
        memory.keep_freed_memory()
    thread = threading.Thread(target=job, args=(found,))
    thread.start()
    thread.join()
else:
    job(found)
found["resident"] = resident()
end_loans()
found["resident later"] = resident()
print(json.dumps(found))
"""
"""A program whose job makes and frees tensors of 100 MB, and prints page faults for each and resident memory in MB."""

PAGES = 100 * 2**20 // os.sysconf("SC_PAGE_SIZE")
"""Pages of each tensor."""

SOME = PAGES / 3
"""Fewer page faults than this for each tensor mean that memory is used again. They are seldom zero, since a small
block may lie in the place of a freed tensor, and the next one then needs another."""


def faults_and_memory(place: str = "here", **variables: str) -> dict[str, float]:
    """Run the program in an environment without variables about malloc but the given ones."""
    kept = {name: value for name, value in os.environ.items() if name not in PARAMETERS}
    program = [sys.executable, "-c", TENSORS, place]
    environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def test_a_job_uses_freed_memory_again_and_the_end_of_its_stage_gives_it_back() -> None:
    found = faults_and_memory()
    assert found["faults of each"] < SOME
    assert found["resident"] - found["resident later"] > 90
    assert found["after 1000000000 s"] - found["after 0 s"] > 90, "a long job gives it back at intervals"


def test_a_job_in_a_thread_uses_freed_memory_again_too() -> None:
    assert faults_and_memory("in a thread")["faults of each"] < SOME


def test_a_job_of_a_deployment_uses_freed_memory_again_too() -> None:
    (variables,) = {
        tuple(pool["job_variables"]["env"].items())
        for pool in yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["definitions"]["pools"].values()
    }
    assert faults_and_memory("in a thread of a deployment", **dict(variables))["faults of each"] < SOME


def test_what_the_user_sets_for_malloc_stays() -> None:
    assert faults_and_memory(MALLOC_MMAP_THRESHOLD_=str(2**20))["faults of each"] > PAGES / 2
