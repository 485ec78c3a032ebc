"""Run as a program, measures chroma of several tracks for every input line, and prints tracks a second.

Arguments: a folder of its own, and the folder of a separator.
"""

import sys
import time
from pathlib import Path

import numpy as np

from schemas import WeightsRef
from schemas.tables import TRACKS
from stages import chroma
from stages.pipeline.jobs import run_job
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.world_of_sound import make_context, tracks_of, write_sound

SECONDS, RATE = 4, 16_000
TRACKS_A_TURN = 6


def main() -> None:
    """Process one shard for each input line."""
    folder = Path(sys.argv[1])
    folder.mkdir()
    generator = np.random.default_rng(0)
    sounds = [generator.normal(0, 0.1, (1, SECONDS * RATE)).astype(np.float32) for _ in range(TRACKS_A_TURN)]
    tracks = tracks_of(*(write_sound(folder / f"{number}.wav", sound) for number, sound in enumerate(sounds)))
    stage = ConfiguredStage("chroma", chroma, chroma.Config(separator=WeightsRef(sys.argv[2])))
    for turn, _ in enumerate(sys.stdin):
        context = make_context(folder, "chroma", workers=1)
        context.versions, context.fingerprint = {"tracks": str(turn)}, str(turn)
        context.store.write_shard(TRACKS, str(turn), "0", tracks, input_key="all")
        begun = time.perf_counter()
        counts = run_job(stage, context, "0")
        assert counts.made == TRACKS_A_TURN
        print(TRACKS_A_TURN / (time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
