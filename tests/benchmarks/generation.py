"""`python -m tests.benchmarks.generation`: decoding with guidance against transformers, on the same random weights.

Both decode by turns in this process, so that what else the machine does falls on both; a step's time is the median of
all steps. Their greedy codes are compared first. The floor is what reading every weight once takes at the bandwidth
that summing a large tensor reaches. What a precision costs is measured over 200 frames: the share of greedy codes that
stay as they are where every step reads the codes of float32, the same where every step reads its own, and the
cross-entropy of random codes. Prints Markdown for RESULTS.md.

Needs torch, transformers, safetensors and numpy, and what the model's configuration is made of: pydantic, jaxtyping,
pyarrow and fsspec.
"""

import argparse
import datetime
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.configuration import Precision
from model.language_model import LanguageModel, cross_entropy
from model.packing import for_decoding
from tests.benchmarks.peer import GUIDANCE, Run, both_ways, descriptions, generate_ours, generate_theirs, peers

BATCHES = (1, 8)
REDUCED: tuple[Precision, ...] = ("float16", "bfloat16", "int8")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
QUALITY_FRAMES = 200


@dataclass(frozen=True)
class Quality:
    """What a precision costs."""

    forced: float
    """Share of greedy codes that stay where every step reads float32's."""
    free: float
    """The same where every step reads its own."""
    cross_entropy: float
    """Of random codes, nats."""


def bandwidth() -> float:
    """What reading memory reaches, bytes a second."""
    large = torch.ones(2**26)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        large.sum()
        best = min(best, time.perf_counter() - begun)
    return large.nbytes / best


def matrix_weights(model: LanguageModel) -> int:
    """Weights that every step multiplies by: not the conditions' keys and values, which are projected once."""
    width, layers = model.config.width, model.config.layers
    every = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    return every - layers * 2 * width * width


def qualities(model: LanguageModel, frames: int) -> dict[str, Quality]:
    """Each precision's cost."""
    given = both_ways(descriptions(1, model.config.width))
    greedy = {name: generate_ours(model, 1, frames, name, time.perf_counter).codes for name in ("float32", *REDUCED)}
    own = greedy["float32"]
    random = torch.randint(0, model.config.cardinality, own.shape, generator=torch.Generator().manual_seed(2))
    found: dict[str, Quality] = {}
    best: Tensor | None = None
    for name, codes in greedy.items():
        ready = for_decoding(model, name)
        with torch.inference_mode():
            prediction = ready(own.expand(2, -1, -1), given)
            conditioned, null = prediction.logits
            chosen = (null + GUIDANCE * (conditioned - null)).argmax(-1)[prediction.mask[0]]
            best = chosen if best is None else best
            loss = cross_entropy(ready(random.expand(2, -1, -1), given), random.expand(2, -1, -1)).mean.item()
        forced, free = ((one == two).float().mean().item() for one, two in ((chosen, best), (codes, own)))
        found[name] = Quality(forced, free, loss)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20, help="of a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, by turns")
    parser.add_argument("--cpu-time", action="store_true", help="one thread's CPU time, where others use the machine")
    parser.add_argument("--small", action="store_true", help="a small model, to try the benchmark itself")
    parser.add_argument("--results", type=Path, help="a file to append the tables to")
    asked = parser.parse_args()
    threads, clock = (1, time.process_time) if asked.cpu_time else (asked.threads, time.perf_counter)
    torch.set_num_threads(threads)
    theirs, ours = peers(asked.small)
    rate = bandwidth()
    lines = [
        f"## {datetime.date.today()}: generation, {_machine()}, {threads} thread{'s' * (threads > 1)}, "
        f"{'CPU time' if asked.cpu_time else 'wall time'}, torch {torch.__version__}",
        "",
        f"MusicGen-small shape, guidance {GUIDANCE:g}, greedy, the first {asked.frames} frames, {asked.rounds} runs of "
        f"each side by turns; memory read at {rate / 1e9:.1f} GB/s.",
        "",
        "| batch | weights | transformers, ms a step | ours | ratio | fastest step: theirs, ours, ratio | floor, ms "
        "| ours to floor | codes equal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for batch in BATCHES:
        runs: dict[str, list[Run]] = {name: [] for name in ("transformers", "float32", *REDUCED)}
        for _ in range(asked.rounds):
            for name, made in runs.items():
                if name == "transformers":
                    made.append(generate_theirs(theirs, batch, asked.frames, clock))
                else:
                    made.append(generate_ours(ours, batch, asked.frames, name, clock))
        peer = _steps(runs.pop("transformers"))
        codes = generate_theirs(theirs, batch, asked.frames, clock).codes
        for name, made in runs.items():
            own, floor = _steps(made), matrix_weights(ours) * BYTES[name] / rate * 1e3
            middle, least = statistics.median(own), min(own)
            lines.append(
                f"| {batch} | {name} | {statistics.median(peer):.1f} | {middle:.1f} | "
                f"{statistics.median(peer) / middle:.2f} | {min(peer):.1f}, {least:.1f}, {min(peer) / least:.2f} | "
                f"{floor:.1f} | {middle / floor:.2f} | {(made[0].codes == codes).float().mean():.3f} |"
            )
            print(lines[-1], flush=True)
    frames = 20 if asked.small else QUALITY_FRAMES
    lines += [
        "",
        f"| weights | greedy codes as in float32 over {frames} frames, reading float32's | reading their own | "
        "cross-entropy of random codes |",
        "| --- | --- | --- | --- |",
    ]
    for name, one in qualities(ours, frames).items():
        lines.append(f"| {name} | {one.forced:.4f} | {one.free:.4f} | {one.cross_entropy:.5f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.results is not None:
        with asked.results.open("a", encoding="utf-8") as file:
            file.write("\n" + text)


def _steps(runs: list[Run]) -> list[float]:
    return [1e3 * seconds for run in runs for seconds in run.step_seconds]


def _machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
