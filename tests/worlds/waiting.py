"""Run as a program, does a job of a stage as a run does, and prints the processor time of its waiting threads."""

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType

import pyarrow as pa

import schemas
from schemas import Settings, Store
from schemas.tables import CHROMA, TRACKS
from schemas.weights import WeightsLibrary
from stages.pipeline import threads
from stages.pipeline.contract import Context, Shard
from stages.pipeline.jobs import run_job
from stages.pipeline.plans import ConfiguredStage

WAITS = 50
SPINNING_SECONDS = 0.1
"""Least processor time of `WAITS` waits with spinning threads, seconds: some milliseconds each."""

TICKS_A_CORE = 10_000
"""Ticks that other work adds at every look: more than any number of cores can do."""


class Processors:
    """Linux's processor times, of which other processes have used none so far, or more and more."""

    def __init__(self, file: Path) -> None:
        self.file, self.used, self.busy = file, 0, True
        self.write()

    def write(self) -> None:
        self.used += TICKS_A_CORE * self.busy
        lines = [f"cpu{number} {self.used} 0 0 0 0 0 0 0 0 0\n" for number in os.sched_getaffinity(0)]
        new = self.file.with_suffix(".new")
        new.write_text("".join(lines))
        os.replace(new, self.file)

    def go_on(self) -> None:
        while True:
            self.write()
            time.sleep(threads.LOOK_SECONDS / 4)


def waiting_seconds() -> float:
    """Let the threads of small computations wait for more; return their processor time."""
    import torch

    numbers = torch.full((80_000,), 0.5)  # enough for two threads, which share work from 32,768 each
    begun = time.process_time()
    for _ in range(WAITS):
        numbers.add_(1)
        time.sleep(0.01)
    return time.process_time() - begun


def main() -> None:
    """Wait while other processes are busy, while they are not, and while they are again."""
    told: dict[str, float] = {}
    # The thread that simulates the processors may write once more while the folder is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        threads.PROCESSOR_TIMES = Path(folder) / "stat"
        processors = Processors(threads.PROCESSOR_TIMES)
        threading.Thread(target=processors.go_on, daemon=True).start()

        def shard(config, context, tracks):
            import torch

            told["threads"] = torch.get_num_threads()
            told["busy"] = waiting_seconds()
            for name, busy in (("free", False), ("busy again", True)):
                processors.busy = busy
                time.sleep((threads.QUIET_LOOKS + 4) * threads.LOOK_SECONDS)
                told[name] = waiting_seconds()
            yield Shard([{"track_id": "a", "frame_rate": 1.0, "chroma": []}])

        module = ModuleType("waiting")
        module.READS, module.WRITES, module.VERSION, module.shard = (TRACKS,), CHROMA, 1, shard
        settings = Settings(store=folder, threads=2, device="cpu")
        store = Store(settings.store)
        context = Context(store, settings, "run", "waiting", "1", {"tracks": "1"}, WeightsLibrary(store))
        tracks = pa.Table.from_pylist([{"track_id": "a", "shard": 0}], schema=TRACKS.schema)
        store.write_shard(TRACKS, "1", "0", tracks, input_key="all")
        run_job(ConfiguredStage("waiting", module, schemas.Config()), context, "0")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
