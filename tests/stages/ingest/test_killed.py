"""Ingest killed with -9 several times while it writes shards: one more run gives the tables of an undisturbed one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stages import ingest
from stages.pipeline.contract import Stopped
from stages.pipeline.jobs import run_job
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.ingest_world import Counter, World
from tests.worlds.recordings import write

CODE = """
import sys
from schemas import Settings
from schemas import Store
from schemas.weights import WeightsLibrary
from stages import ingest
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.jobs import run_job
source, store = sys.argv[1:]
settings = Settings(store=store, source=source, workers=1)
context = Context(Store(store), settings, "run", "ingest", "v", {}, WeightsLibrary(Store(store)))
run_job(ConfiguredStage("ingest", ingest, ingest.Config(shard_size=3)), context, "all")
"""


def test_a_killed_run_is_completed_to_the_tables_of_an_undisturbed_one(tmp_path):
    calm, broken = World(tmp_path / "calm", shard_size=3), World(tmp_path / "broken", shard_size=3)
    broken.music, broken.source = calm.music, calm.source
    for number in range(27):
        calm.add(f"{number:02}.flac", number % 24, seconds=2.0)
        if number % 9 == 0:
            write(calm.music / f"{number:02} bad.wav", b"bad")
    calm.run()
    folder = Path(broken.store.path("tracks/version=v/drafts"))
    command = [sys.executable, "-c", CODE, calm.source, broken.store.url]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for wanted in (1, 4):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and len(list(folder.glob("*.draft"))) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert broken.tables() != calm.tables()
    broken.run()
    assert 0 < broken.read < 27
    assert broken.tables() == calm.tables()
    assert len(broken.rows()) == 24


def test_a_run_stopped_anywhere_is_completed_to_the_tables_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest.update_shards, "__defaults__", (3,))
    calm, broken = World(tmp_path / "calm", shard_size=4), World(tmp_path / "broken", shard_size=4)
    broken.music = calm.music
    broken.source = calm.source
    for number in range(11):
        calm.add(f"{number:02}.flac", number % 9, seconds=0.5)
    for name in ("03 bad.wav", "10 bad.wav"):
        write(calm.music / name, b"bad")
    calm.run()
    stage = ConfiguredStage("ingest", ingest, broken.config)
    for stop_after in (2, 1, 4, 0):
        context = broken.context()
        context.stop = threading.Event()

        class StopAfter(Counter):
            def advance(self, count=1, note="", wanted=stop_after, event=context.stop):
                super().advance(count)
                if self.done > wanted:
                    event.set()

        context.progress = StopAfter()
        with pytest.raises(Stopped):
            run_job(stage, context, "all")
    broken.run()
    assert broken.tables() == calm.tables()
    assert len(broken.rows()) == 9
    assert len(broken.rejects()) == 2
