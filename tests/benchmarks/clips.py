"""Clips an hour, from a requests file to FLAC files on the disk, against the loop that a user of transformers would
write: `python -m tests.benchmarks.clips`.

An order of mixed clips (lengths, descriptions that come again) is made by both sides of the same random weights, each
in a process of its own whose start, imports and loading are counted:

- the loop (`clips_loop.py`): transformers' `generate` in batches of clips of nearly one length, loudness by pyloudnorm,
  soundfile; with batches of 8, 16 and 32, of which the fastest is the peer, as its user would find it;
- `segue run`, and the same without Prefect (`segue.run` in Python): requests, codes, the gate, which hears every clip,
  and files whose loudness and true peak are measured of what a player will hear.

Both decode greedily, in float32: once of weights that use its precision, as a training leaves them, and once of weights
that are numbers of float16, as those of a checkpoint are that was written in it. That the first codes of the clips are
equal, and the files as long as was asked for, comes before any time. The model is between the miniature and
MusicGen-small, so that an order ends in minutes on two cores, or with `--model musicgen-small` of that shape; the codec
has the published one.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import (
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

from schemas import Store
from schemas.queries.database import query
from tests.benchmarks.commands import Run, timed
from tests.benchmarks.peer import round_to_float16
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options
from tests.benchmarks.tokenizing import SAMPLE_RATE, network_config
from tests.worlds.tiny_model import WORDS, tokenizer

CHECKED_FRAMES, LEAST_EQUAL = 20, 0.99
"""Number of first frames compared, and the least share of their codes that must equal the loop's before anything is
timed."""
RATIO_GOAL = 2.0
SIDES = ("segue run", "without Prefect")
"""The sides that are compared with the loop."""
LOOP_BATCHES = (8, 16, 32)
"""Batch sizes of the loop; those larger than half the order are left out, except the smallest."""
KNOBS = ("gate.retakes=0", "evaluate.clap=null", "settings.offline=true")
"""Knobs for random weights: they make noise, which the gate would have made again."""


@dataclass(frozen=True)
class Size:
    """What is made, and by which model; the codec has the published shape except for its filters."""

    clips: int
    seconds: tuple[float, ...]
    """Lengths of the clips, in turn."""
    width: int
    layers: int
    heads: int
    text_width: int
    text_layers: int
    filters: int
    """Filters of the codec."""


SIZES = {
    "moderate": Size(64, (1.0, 2.0, 3.0, 4.0), 512, 12, 8, 512, 6, 64),
    "musicgen-small": Size(16, (2.0, 4.0, 6.0, 8.0), 1024, 24, 16, 768, 12, 64),
    "small": Size(4, (0.5, 1.0), 32, 2, 2, 16, 1, 4),
}


def save_model(folder: Path, size: Size, from_float16: bool = False) -> None:
    """Write a MusicGen of random weights, as transformers' `save_pretrained` does.

    Args:
            from_float16: round the decoder's weights to float16, but write them in float32.
    """
    torch.manual_seed(0)
    text = T5Config(
        d_model=size.text_width,
        d_kv=64,
        d_ff=4 * size.text_width,
        num_layers=size.text_layers,
        num_heads=8,
        vocab_size=len(WORDS),
        pad_token_id=0,
    )
    decoder = {
        "vocab_size": 2048,
        "num_codebooks": 4,
        "hidden_size": size.width,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "ffn_dim": 4 * size.width,
        "pad_token_id": 2048,
        "bos_token_id": 2048,
    }
    codec = network_config(size.filters).to_dict()
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec, decoder=decoder)
    model = MusicgenForConditionalGeneration(config).eval()
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()
    if from_float16:
        round_to_float16(model.decoder)
    model.save_pretrained(folder)
    special = {"bos_token_id": 2048, "decoder_start_token_id": 2048, "pad_token_id": 2048}
    GenerationConfig(do_sample=False, guidance_scale=3.0, max_length=1500, **special).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    EncodecFeatureExtractor(sampling_rate=SAMPLE_RATE, padding_side="left").save_pretrained(folder)


def write_order(path: Path, size: Size) -> None:
    """Write the requests: a description for every four clips, and the lengths in turn."""
    words = [word for word in WORDS if not word.startswith("<")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "description", "seconds", "temperature"])
        for number in range(size.clips):
            start = number // 4 % len(words)
            description = " ".join((words * 2)[start : start + 3 + number // 4 % 4])
            writer.writerow([f"clip{number}", description, size.seconds[number % len(size.seconds)], 0])


def command_of_segue(root: Path, store: str) -> list[str]:
    """The command line that makes the clips in a store."""
    knobs = [word for knob in (f"generate.checkpoint={root / 'model'}", *KNOBS) for word in ("--set", knob)]
    order = ["--requests", str(root / "requests.csv"), "--store", store]
    return [
        *(sys.executable, "-W", "ignore", "-c", "from flows.cli import main; main()"),
        *("run", "requests", "generate", "gate", "decode", "--preset", "musicgen-small", *order, *knobs),
    ]


def words_of_segue(root: Path, store: str) -> dict[str, Any]:
    """The arguments of `segue.run` that make the clips in a store."""
    return {
        "store": store,
        "stages": ["requests", "generate", "gate", "decode"],
        "preset": "musicgen-small",
        "requests": str(root / "requests.csv"),
        "knobs": [f"generate.checkpoint={root / 'model'}", *KNOBS],
    }


def python_of_segue(root: Path, store: str) -> list[str]:
    """The command that does the same in Python, without Prefect."""
    words = words_of_segue(root, store)
    return [sys.executable, "-W", "ignore", "-c", f"import json, segue; segue.run(**json.loads({json.dumps(words)!r}))"]


def loop_batches(clips: int) -> tuple[int, ...]:
    """Return the batch sizes of the loop; each is timed in a run of its own."""
    least, *larger = LOOP_BATCHES
    return (least, *(batch for batch in larger if batch <= clips))


def check(store: str, folder: Path) -> str:
    """Return how equal both sides are; SystemExit if they are not equal enough."""
    made = query(Store(store), "SELECT name, codes FROM generations JOIN requests USING (request_id)").to_pylist()
    theirs = np.load(folder / "codes.npz")
    ours = {row["name"]: np.stack(row["codes"]) for row in made}
    if ours.keys() != set(theirs):
        raise SystemExit(f"expected the same clips of both sides, got {sorted(ours.keys() ^ set(theirs))} of one")
    shares = [(ours[name] == theirs[name])[:, :CHECKED_FRAMES].mean() for name in ours]
    if statistics.mean(shares) < LEAST_EQUAL:
        raise SystemExit(f"expected {LEAST_EQUAL:.0%} of the loop's first codes, got {statistics.mean(shares):.1%}")
    files = query(Store(store), "SELECT name, path FROM every_clip JOIN requests USING (request_id)").to_pylist()
    for row in files:
        lengths = [soundfile.info(path).frames for path in (Path(store) / row["path"], folder / f"{row['name']}.flac")]
        if lengths[0] != lengths[1]:
            raise SystemExit(f"expected files of one length for {row['name']}, got {lengths} samples")
    return f"{statistics.mean(shares):.1%} of {CHECKED_FRAMES} frames' codes, every file's length"


def stage_seconds(store: str) -> dict[str, float]:
    """Seconds of each stage, from the store's own record."""
    return {row["stage"]: row["seconds"] for row in query(Store(store), "SELECT stage, seconds FROM runs").to_pylist()}


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--model", choices=("moderate", "musicgen-small"), default="moderate", help="its shape")
    parser.add_argument("--clips", type=int, help="of the order; 64, of MusicGen-small's shape 16")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side, by turns")
    return parser


@dataclass(frozen=True)
class Turns:
    """The times of all sides, which take turns."""

    clips: int
    """Number of clips of the order."""
    runs: dict[str, list[Run]]
    """Runs of each side."""
    loops: dict[str, int]
    """The sides that are loops, with their batch sizes."""
    equal: str
    """Which part of the results is equal, in words."""
    stages: dict[str, float]
    """Seconds of each stage, without Prefect."""

    def hourly(self, side: str, cpu_time: bool) -> float:
        """Return the clips an hour of a side's median run."""
        taken = [run.processor_seconds if cpu_time else run.seconds for run in self.runs[side]]
        return self.clips * 3600 / statistics.median(taken)

    def fastest(self, cpu_time: bool) -> str:
        """Return the fastest loop, with which the others are compared."""
        return max(self.loops, key=lambda side: self.hourly(side, cpu_time))


def take_turns(root: Path, clips: int, batches: Sequence[int], rounds: int, threads: int) -> Turns:
    """Let the loop, with every batch size, and Segue make the clips of the order that is in a folder with its model."""
    loops = {f"loop, {batch} at once": batch for batch in batches}
    runs: dict[str, list[Run]] = {side: [] for side in (*loops, *SIDES)}
    loop_words = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.clips_loop"]
    order = [str(root / "model"), str(root / "requests.csv")]
    for turn in range(rounds):
        stores = [str(root / f"store{turn}"), str(root / f"python{turn}")]
        folders = {side: root / f"loop{turn}-{batch}" for side, batch in loops.items()}
        commands: dict[str, list[str]] = {}
        for side, batch in loops.items():
            folders[side].mkdir()
            commands[side] = [*loop_words, *order, str(folders[side]), str(threads), str(batch)]
        words = (command_of_segue(root, stores[0]), python_of_segue(root, stores[1]))
        commands |= dict(zip(SIDES, words, strict=True))
        for side, command in commands.items():
            runs[side].append(timed(command, threads))
            print(f"{side}: {runs[side][-1]}", file=sys.stderr, flush=True)
        for folder in folders.values():
            equal = check(stores[0], folder)
            check(stores[1], folder)
        seconds = stage_seconds(stores[1])
    return Turns(clips, runs, loops, equal, seconds)


def measure(args: argparse.Namespace) -> Report:
    """Make the models and the order, and let the sides take turns."""
    size = SIZES["small" if args.small else args.model]
    size = replace(size, clips=args.clips or size.clips)
    report = Report("Clips an hour, from requests.csv to FLAC", peer="transformers' loop")
    with tempfile.TemporaryDirectory() as name:
        folders = {weights: Path(name, weights) for weights in ("float32", "float16")}
        for weights, folder in folders.items():
            save_model(folder / "model", size, from_float16=weights == "float16")
            write_order(folder / "requests.csv", size)
        turns = take_turns(folders["float32"], size.clips, loop_batches(size.clips), args.rounds, args.threads)
        fastest = turns.fastest(args.cpu_time)
        batches = [turns.loops[fastest]]
        from_float16 = take_turns(folders["float16"], size.clips, batches, args.rounds, args.threads)
    what = "clips an hour" + (" of a processor" if args.cpu_time else "")
    for of_weights, suffix in ((turns, ""), (from_float16, ", weights from float16")):
        peer = of_weights.hourly(fastest, args.cpu_time)
        for side in SIDES:
            made = of_weights.hourly(side, args.cpu_time)
            figure = Figure(side + suffix, what, made, "more", peer=peer, ratio_goal=RATIO_GOAL, equal=of_weights.equal)
            report.add(figure)
    descriptions = len({number // 4 for number in range(size.clips)})
    lengths = " to ".join(f"{length:g}" for length in (min(size.seconds), max(size.seconds)))
    report.say(
        f"{size.clips} clips of {lengths} s, {descriptions} descriptions, a model {size.width} wide with {size.layers} "
        "layers, guidance 3, greedy. Starts, imports and loading are counted. Both sides compute in float32, with "
        f"weights that use its precision and with such as are numbers of float16. The peer is the fastest: {fastest}."
    )
    for heading, of_weights in (("weights in float32", turns), ("weights from float16", from_float16)):
        rows = [
            [side, *(f"{statistics.median(getattr(run, part) for run in runs):,.0f}" for part in Run.__annotations__)]
            for side, runs in of_weights.runs.items()
        ]
        report.say(table([heading, "wall, s", "processors, s", "most memory of a process, MB"], rows))
        stages = [[stage, f"{taken:.1f}"] for stage, taken in of_weights.stages.items()]
        report.say(table([f"stage, {heading}", "wall, s"], stages))
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
