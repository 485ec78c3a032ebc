"""`python -m tests.benchmarks.generation`: decoding with guidance against transformers, on the same random weights.

Both decode greedily by turns in this process, so that what else the machine does falls on both, and their codes are
compared first. On a processor a step's time is the median of all steps; on an accelerator a whole call is timed, with
everything that has to be prepared, and told as seconds of audio a second. The limit of a step is the longer of two
times: reading every weight and every cached key and value once at the measured bandwidth, and the arithmetic of the
weights at the measured rate of large matrix products (of int8, whose rate is not measured, the first alone).

Then the weights of both are rounded to float16, as a checkpoint's are that was written in it, and still computed with
as float32: half of the bytes hold the same weights then, so that there is a kernel more to choose from.

What a precision costs is measured over 200 frames: the share of greedy codes that stay as they are where every step
reads the codes of float32, the same where every step reads its own, and the cross-entropy of random codes.
"""

import argparse
import statistics
from dataclasses import dataclass

import torch
from transformers import MusicgenForConditionalGeneration

from model.lm.config import Precision
from model.lm.language_model import LanguageModel
from tests.benchmarks.limits import Limits, limits
from tests.benchmarks.peer import (
    GUIDANCE,
    TEXT_LENGTH,
    Run,
    generate_ours,
    generate_theirs,
    peers,
    round_to_float16,
)
from tests.benchmarks.quality import as_table, qualities
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options
from tests.benchmarks.timing import Clock, clock_of

FRAME_RATE = 50
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
CHECKED_FRAMES, LEAST_EQUAL = 20, 0.99
"""Number of first frames compared, and the least share of float32's codes that must equal transformers' before anything
is timed."""
QUALITY_FRAMES, FAITHFUL = 200, 0.99
"""Number of frames, and the share of its own greedy codes that must equal float32's for a precision to count as
faithful."""
MATRIX_UNIT_GOALS = {8: 4.0}
"""Goals of bfloat16 by batch, for processors with matrix units for it (AMX)."""
FROM_FLOAT16 = "float32 from float16"
"""Name of figures of weights that float16 represents exactly."""


@dataclass(frozen=True)
class Setting:
    """What is measured on a kind of device."""

    precisions: tuple[Precision, ...]
    frames: int
    """Frames of a clip."""
    goals: dict[int, float]
    """Goals of float32 by batch: transformers' time divided by ours."""
    faithful_goals: dict[int, float]
    """Goals of the fastest faithful precision by batch: the same, or seconds of audio a second on an accelerator."""
    batches: tuple[int, ...]
    """Clips decoded at once."""


SETTINGS = {
    "cpu": Setting(("float32", "float16", "bfloat16", "int8"), 20, {1: 1.3, 8: 1.8}, {1: 2.0}, (1, 8)),
    "cuda": Setting(("float32", "float16", "bfloat16"), 1500, {}, {1: 15.0, 128: 150.0}, (1, 128)),
}


@dataclass(frozen=True)
class Pair:
    """Runs of both sides."""

    theirs: list[Run]
    ours: list[Run]
    audio_seconds: float
    """Seconds of audio of a run, all its clips together."""


def matrix_weights(model: LanguageModel) -> int:
    """Number of weights that every step multiplies by, without those for the conditions' keys and values, which are
    projected once."""
    width, layers = model.config.width, model.config.layers
    every = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    return every - layers * 2 * width * width


def least_seconds(
    model: LanguageModel, batch: int, frames: int, name: Precision, machine: Limits, device: str
) -> float:
    """Least seconds of a step by the machine's limits, averaged over all steps."""
    rows, weights = 2 * batch, matrix_weights(model)
    cached = rows * (frames / 2 + TEXT_LENGTH) * 2 * model.config.width * model.config.layers * BYTES["float32"]
    reading = (weights * BYTES[name] + cached) / machine.bandwidth
    # A processor multiplies float16 weights as float32.
    rates = {"float32": machine.float32, "bfloat16": machine.bfloat16}
    rates["float16"] = machine.float32 if device == "cpu" else machine.bfloat16
    return max(reading, 2 * weights * rows / rates[name]) if name in rates else reading


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--frames", type=int, help="of a clip; 20, or 1500 on cuda")
    parser.add_argument("--batches", type=int, nargs="+", help="clips at once; 1 and 8, or 1 and 128 on cuda")
    parser.add_argument("--rounds", type=int, help="runs of each side, by turns; 3, or 1 on cuda")
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Measure the quality of each precision, then the times of each batch."""
    torch.set_num_threads(args.threads)
    kind, clock = torch.device(args.device).type, clock_of(args.device, args.cpu_time)
    setting, machine = SETTINGS[kind], limits(args.device)
    theirs, ours = peers(args.small)
    theirs.to(args.device)
    ours.to(args.device)
    frames = args.frames or (4 if args.small else setting.frames)
    rounds = args.rounds or (3 if kind == "cpu" and not args.small else 1)
    quality_frames = CHECKED_FRAMES if args.small else QUALITY_FRAMES
    quality = qualities(ours, quality_frames, setting.precisions)
    faithful = [name for name, one in quality.items() if one.free >= FAITHFUL]
    report = Report(f"Generation, MusicGen-small shape, guidance {GUIDANCE:g}", "transformers, float32")
    steps: list[list[str]] = []
    batches = args.batches or setting.batches

    def add(what: str, batch: int, turns: Turns, name: Precision, read: Precision, goal: float | None) -> None:
        """Add the figure of a precision whose weights are read with the bytes of `read`."""
        pair = Pair(turns.theirs, turns.ours[name], batch * frames / FRAME_RATE)
        least = least_seconds(ours, batch, frames, read, machine, kind)
        report.add(figure_of(f"{what}, batch {batch}", pair, goal, least, turns.equal[name], kind))
        steps.append([f"{what}, batch {batch}", *fastest_steps(pair.theirs, pair.ours)])

    for batch in batches:
        turns = take_turns(theirs, ours, batch, frames, rounds, setting.precisions, clock)
        best = min(faithful, key=lambda name: middle_step(turns.ours[name]))
        for name in setting.precisions:
            goals = [setting.goals.get(batch)] if name == "float32" else []
            goals += [setting.faithful_goals.get(batch)] if name == best else []
            if name == "bfloat16" and kind == "cpu" and torch.cpu.get_capabilities().get("amx_bf16"):
                goals.append(MATRIX_UNIT_GOALS.get(batch))
            highest = max((goal for goal in goals if goal is not None), default=None)
            add(name, batch, turns, name, name, highest)
    if kind == "cpu":
        for model in (theirs, ours):
            round_to_float16(model)
        for batch in batches:
            turns = take_turns(theirs, ours, batch, frames, rounds, ("float32",), clock)
            add(FROM_FLOAT16, batch, turns, "float32", "float16", setting.goals.get(batch))
    report.say(f"{frames} frames a clip, {rounds} runs of each side by turns. {machine}.")
    if kind == "cpu":
        report.say(table(["fastest step", "transformers, ms", "here", "ratio", "packed and begun after, s"], steps))
    report.say(as_table(quality, quality_frames))
    return report


@dataclass(frozen=True)
class Turns:
    """The runs of both sides, which take turns."""

    equal: dict[Precision, float]
    """Share of the first frames' codes of each precision that equal transformers'."""
    theirs: list[Run]
    ours: dict[Precision, list[Run]]


def take_turns(
    theirs: MusicgenForConditionalGeneration,
    ours: LanguageModel,
    batch: int,
    frames: int,
    rounds: int,
    precisions: tuple[Precision, ...],
    clock: Clock,
) -> Turns:
    """Compare the codes of all precisions, then let each side take its turns."""
    equal = equal_shares(theirs, ours, batch, precisions, clock)
    peer: list[Run] = []
    runs: dict[Precision, list[Run]] = {name: [] for name in precisions}
    for _ in range(rounds):
        peer.append(generate_theirs(theirs, batch, frames, clock))
        for name, made in runs.items():
            made.append(generate_ours(ours, batch, frames, name, clock))
    return Turns(equal, peer, runs)


def equal_shares(
    theirs: MusicgenForConditionalGeneration,
    ours: LanguageModel,
    batch: int,
    precisions: tuple[Precision, ...],
    clock: Clock,
) -> dict[Precision, float]:
    """Share of the first frames' codes of each precision that equal transformers'."""
    codes = generate_theirs(theirs, batch, CHECKED_FRAMES, clock).codes
    codes_of = {name: generate_ours(ours, batch, CHECKED_FRAMES, name, clock).codes for name in precisions}
    shares = {name: float((own == codes).float().mean()) for name, own in codes_of.items()}
    if shares["float32"] < LEAST_EQUAL:
        raise SystemExit(f"expected {LEAST_EQUAL:.0%} of transformers' codes in float32, got {shares['float32']:.2%}")
    return shares


def figure_of(what: str, pair: Pair, goal: float | None, least: float, equal: float, kind: str) -> Figure:
    """A median step of a processor, or how much audio an accelerator decodes in a second of whole calls.

    Args:
        goal: least ratio to the peer, or least audio.
            least: least seconds of a step by the machine's limits.
            equal: share of equal codes among the first frames.
    """
    same = f"{equal:.1%} of {CHECKED_FRAMES} frames' codes"
    if kind == "cpu":
        peer, made = (1e3 * middle_step(runs) for runs in (pair.theirs, pair.ours))
        return Figure(what, "ms a step", made, "less", peer=peer, ratio_goal=goal, limit=1e3 * least, equal=same)
    peer, made = (
        pair.audio_seconds / statistics.median(run.seconds for run in runs) for runs in (pair.theirs, pair.ours)
    )
    limit = pair.audio_seconds / (len(pair.ours[0].step_seconds) + 1) / least
    return Figure(what, "s of audio a second", made, "more", peer=peer, goal=goal, limit=limit, equal=same)


def middle_step(runs: list[Run]) -> float:
    """The median of all steps of all runs, s."""
    return statistics.median(seconds for run in runs for seconds in run.step_seconds)


def fastest_steps(theirs: list[Run], ours: list[Run]) -> list[str]:
    """Cells: each side's fastest step, their ratio, and how long ours took to begin."""
    peer, made = (1e3 * min(min(run.step_seconds) for run in runs) for runs in (theirs, ours))
    ready = min(run.ready_seconds for run in ours)
    return [f"{peer:.1f}", f"{made:.1f}", f"{peer / made:.2f}", f"{ready:.2f}"]


if __name__ == "__main__":
    alone(arguments(), measure)
