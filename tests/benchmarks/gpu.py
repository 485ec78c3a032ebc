"""The first run on a GPU, whole: `python -m tests.benchmarks.gpu`, under eight minutes on a bare machine with torch,
transformers, safetensors and numpy.

It goes from what must be right to what should be fast, and stops at the first thing that is wrong, with exit code 1 and
a line that says where:

1. the tokens of the captured step, of the same step launched kernel by kernel and of the CPU's own engine are one, in
   float32, for lengths of all kinds and more requests than slots;
2. a request has the same tokens alone and among 7, 32 and 128, in every precision that the device is offered in;
3. audio-seconds a second that small and medium generate, and their share of what memory allows: every step reads the
   weights and all keys and values once;
4. what decoding by the codec adds, and how far the memory taken is from the plan;
5. the share of the matrix products a second that training makes use of, by the rate measured here and by the data
   sheet's;
6. tokenizing and chroma in times of real time.

What is left when the time is up is left out and said to be. `--device cpu --small` goes through all of it in seconds,
so that it does not rot where there is no GPU; its figures mean nothing.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.chroma import chroma
from model.decoding import DecodingOptions, MemoryPlan
from model.decoding.engine import decode
from model.decoding.generation import GenerationRequest, clip_codes, generate_conditioned, sequence_request
from model.decoding.static_shapes import StaticShapeDecoder
from model.kernels.packed_linear import prepare_for_inference
from model.lm.config import LanguageModelConfig, Precision
from model.lm.fuser import Condition
from model.lm.language_model import LanguageModel
from model.music_model import Attributes
from model.optim.mfu import training_flops
from tests.benchmarks import training
from tests.benchmarks.generation import BYTES, FRAME_RATE, matrix_weights
from tests.benchmarks.limits import Limits, limits
from tests.benchmarks.machine import circumstances
from tests.benchmarks.peer import GUIDANCE, TEXT_LENGTH, both_ways, descriptions
from tests.benchmarks.results import Figure, Report
from tests.benchmarks.running import options, tell
from tests.benchmarks.timing import median_seconds, wall_clock
from tests.benchmarks.tokenizing import Both as Tokenizing

DATA_SHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
"""Dense products a second in bfloat16 by NVIDIA's data sheets, by a part of the device's name (SXM where there are
several)."""

AUDIO_GOALS = {("small", 1): 15.0, ("small", 128): 150.0}
"""Audio-seconds a second, by model and slots, on an H100 or H200."""
UTILISATION_GOAL, TOKENIZING_GOAL = 45.0, 1500.0
"""Per cent of the measured matmul rate; times of real time."""


@dataclass(frozen=True)
class Size:
    """How much is done."""

    models: dict[str, LanguageModelConfig]
    runs: tuple[tuple[str, int], ...]
    """Models and slots that are timed."""
    rows: tuple[int, ...]
    """Requests side by side that must leave each other's tokens as they are."""
    checked_frames: int
    frames: int
    """Of a clip that is timed."""
    training: training.Size
    filters: int
    """Of the codec."""
    seconds: float
    """Of a recording that is tokenized."""


def _shape(width: int, layers: int, heads: int) -> LanguageModelConfig:
    return LanguageModelConfig(width=width, layers=layers, heads=heads)


WHOLE = Size(
    {"tiny": _shape(64, 2, 4), "small": _shape(1024, 24, 16), "medium": _shape(1536, 48, 24)},
    (("small", 1), ("small", 8), ("small", 32), ("small", 128), ("medium", 32)),
    (1, 7, 32, 128),
    48,
    750,
    training.SIZES["cuda"],
    64,
    600.0,
)
SMALL = Size(
    {"tiny": _shape(64, 2, 4), "small": _shape(64, 2, 4), "medium": _shape(64, 3, 4)},
    (("small", 1), ("small", 4), ("medium", 2)),
    (1, 3, 7),
    12,
    16,
    training.SIZES["small"],
    4,
    1.0,
)


class Wrong(Exception):
    """Something that must hold does not; the message says what was expected and what came."""


class Session:
    """One run: the device, how much is done, what is found, and the time that is left.

    Args:
        budget: seconds after which no further figure is begun.
    """

    def __init__(self, device: str, size: Size, budget: float) -> None:
        self.device, self.size, self.budget = torch.device(device), size, budget
        self.report = Report("The GPU run")
        self.begun = time.perf_counter()
        self.left_out: list[str] = []

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.begun

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Tell when a part begins and ends; whatever is wrong within it is said with its name."""
        print(f"[{self.seconds:5.0f} s] {name} …", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SystemExit(f"{name}: {type(error).__name__}: {reason}") from error

    def has_time(self, name: str) -> bool:
        """Tell whether a figure may still be begun, and note one that may not."""
        if self.seconds < self.budget:
            return True
        self.left_out.append(name)
        return False

    def model(self, name: str) -> LanguageModel:
        """Make a model of random weights that are far enough apart for greedy tokens to be no tie's."""
        torch.manual_seed(0)
        with torch.device(self.device):
            model = LanguageModel(self.size.models[name])
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
        return model.eval()


def requests_of(frames: Sequence[int], greedy: bool = False) -> list[GenerationRequest]:
    """Requests of some lengths, each with a seed of its own, as a catalog asks for them."""
    temperature = 0.0 if greedy else 1.0
    return [
        GenerationRequest(Attributes(), length, seed=number, guidance=GUIDANCE, temperature=temperature)
        for number, length in enumerate(frames)
    ]


def conditions_of(model: LanguageModel, count: int) -> list[list[dict[str, Condition]]]:
    """Embedded descriptions and their nulls, one pass each, those of a number the same in every count."""
    embedded = descriptions(count, model.config.width).to(model.device)
    return [[both_ways(one[None])] for one in embedded]


def tokens(
    model: LanguageModel, requests: Sequence[GenerationRequest], precision: Precision, slots: int, graphs: bool
) -> list[Tensor]:
    """Codes of requests by the engine that a catalog is made with."""
    options = DecodingOptions(precision, slots=slots, cuda_graphs=graphs)
    return generate_conditioned(model, requests, conditions_of(model, len(requests)), options)


def tokens_in_static_shapes(model: LanguageModel, requests: Sequence[GenerationRequest], slots: int) -> list[Tensor]:
    """Codes by the step that is captured on CUDA, launched kernel by kernel, on any device."""
    with torch.inference_mode():
        conditions = conditions_of(model, len(requests))
        sequences = [sequence_request(model, *pair) for pair in zip(requests, conditions, strict=True)]
        decoder = StaticShapeDecoder(prepare_for_inference(model, "float32"), sequences, slots)
        finished = dict(decode(decoder, sequences, slots))
        return [clip_codes(model, request.frames, finished[number]) for number, request in enumerate(requests)]


def must_be_equal(what: str, made: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise Wrong with the first request, codebook and frame that differ."""
    for number, (own, other) in enumerate(zip(made, expected, strict=True)):
        if not torch.equal(own, other):
            codebook, frame = (own != other).nonzero()[0].tolist()
            share = float((own == other).float().mean())
            raise Wrong(
                f"expected the same tokens {what}, got others from codebook {codebook}, frame {frame} of request "
                f"{number} on ({share:.1%} are the same)"
            )


def check_tokens(session: Session) -> None:
    """Graph, eager and CPU tokens in float32, for mixed lengths and more requests than slots."""
    model, frames = session.model("tiny"), session.size.checked_frames
    requests = requests_of([frames, frames // 3, frames - 1, frames // 2, frames, frames // 4, 2 * frames // 3])
    on_cpu = tokens(model.to("cpu"), requests, "float32", 3, graphs=False)
    must_be_equal("of the CPU in static shapes as in its own", tokens_in_static_shapes(model, requests, 3), on_cpu)
    model.to(session.device)
    eager = tokens_in_static_shapes(model, requests, 3)
    must_be_equal("on the device, launched kernel by kernel, as on the CPU", eager, on_cpu)
    if session.device.type == "cuda":
        captured = tokens(model, requests, "float32", 3, graphs=True)
        must_be_equal("of captured graphs as launched kernel by kernel", captured, eager)


def check_invariance(session: Session, precisions: Sequence[Precision]) -> None:
    """A request's tokens alone and beside others, in each precision."""
    model, frames = session.model("small"), session.size.checked_frames
    requests = requests_of([frames - number % 5 for number in range(max(session.size.rows))])
    for precision in precisions:
        alone = tokens(model, requests[:1], precision, 1, graphs=True)
        for rows in session.size.rows:
            together = tokens(model, requests[:rows], precision, rows, graphs=True)
            must_be_equal(f"in {precision} among {rows} as alone", together[:1], alone)


@dataclass(frozen=True)
class Generated:
    """What a timed generation gave and took."""

    seconds: float
    codes: list[Tensor]
    plan: MemoryPlan
    peak: int | None
    """Bytes of the device's memory beyond what was taken before; None where the device does not say."""


def generate_once(session: Session, model: LanguageModel, slots: int, precision: Precision) -> Generated:
    """Generate as many clips as there are slots, whole calls with all that they prepare."""
    clock, plans, cuda = wall_clock(str(session.device)), list[MemoryPlan](), session.device.type == "cuda"
    requests, conditions = requests_of([session.size.frames] * slots), conditions_of(model, slots)
    before = torch.cuda.memory_allocated(session.device) if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(session.device)
    begun = clock()
    codes = generate_conditioned(
        model, requests, conditions, DecodingOptions(precision, slots=slots, on_plan=plans.append)
    )
    seconds = clock() - begun
    peak = torch.cuda.max_memory_allocated(session.device) - before if cuda else None
    return Generated(seconds, codes, plans[0], peak)


def least_step(session: Session, model: LanguageModel, slots: int, precision: Precision, machine: Limits) -> float:
    """Seconds that memory takes to read the weights and, in the mean over a clip, all keys and values once."""
    rows = 2 * slots
    cache = model.transformer.allocate(rows, session.size.frames, TEXT_LENGTH, device=torch.device("meta"))
    cross = rows * TEXT_LENGTH * 2 * model.config.width * model.config.layers * model.dtype.itemsize
    own = max(cache.nbytes - cross, 0) / 2
    return (matrix_weights(model) * BYTES[precision] + own + cross) / machine.bandwidth


def time_generation(session: Session, machine: Limits, precision: Precision) -> None:
    """Audio-seconds a second by model and slots, alone and with decoding, and memory against the plan."""
    codec = Tokenizing(str(session.device), session.size.filters, 1.0).codec
    for name in dict.fromkeys(name for name, _ in session.size.runs):
        model = session.model(name)
        for slots in [slots for other, slots in session.size.runs if other == name]:
            if not session.has_time(f"{name} at {slots} slots"):
                continue
            with session.part(f"generation, {name}, {slots} slots"):
                made = generate_once(session, model, slots, precision)
                clock = wall_clock(str(session.device))
                begun = clock()
                for codes in made.codes:
                    codec.decode_track(codes % codec.cardinality)
                decoding = clock() - begun
                audio = slots * session.size.frames / FRAME_RATE
                steps = session.size.frames + model.config.codebooks - 1
                fastest = audio / (steps * least_step(session, model, slots, precision, machine))
                goal = AUDIO_GOALS.get((name, slots)) if session.size is WHOLE else None
                what = f"{name}, {slots} slots, {precision}"
                unit = "s of audio a second"
                session.report.add(Figure(what, unit, audio / made.seconds, "more", goal=goal, limit=fastest))
                both = audio / (made.seconds + decoding)
                session.report.add(Figure(f"{what}, decoded by the codec", unit, both, "more"))
                if made.peak is not None:
                    figure = Figure(f"{what}, memory", "MB", made.peak / 1e6, "less", goal=made.plan.needed / 1e6)
                    session.report.add(figure)
        del model


def time_training(session: Session, machine: Limits) -> None:
    """The share of the device's products a second that a step of training uses."""
    size = session.size.training
    both = training.Both(size, "bfloat16", str(session.device))
    losses = both.check()
    clock = wall_clock(str(session.device))
    seconds = median_seconds({"ours": both.step_of_ours}, 1 if session.size is SMALL else 5, clock)["ours"]
    rate = size.examples * training_flops(both.decoder, size.frames) / seconds
    what = f"training step, {size.width} wide, {size.examples} × {size.frames} frames, bfloat16"
    goal = UTILISATION_GOAL if session.size is WHOLE else None
    unit = "% of the measured matmul rate"
    session.report.add(Figure(what, unit, 100 * rate / machine.bfloat16, "more", goal=goal, limit=100.0, equal=losses))
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else "a processor"
    sheet = next((peak for part, peak in DATA_SHEET.items() if re.search(rf"\b{part}\b", device)), None)
    if sheet is not None:
        session.report.add(Figure(what, "% of the data sheet's rate", 100 * rate / sheet, "more", limit=100.0))
    else:
        session.report.say(f"No data sheet's rate is known of {device}.")


def time_analysis(session: Session) -> None:
    """Tokenizing, decoding and chroma in times of real time."""
    both = Tokenizing(str(session.device), session.size.filters, session.size.seconds)
    equal = f"{both.equal_codes():.2%} of transformers' codes, samples {both.sample_difference():.1e} apart"
    wav = both.wav.to(session.device)
    ways: dict[str, Callable[[], object]] = {
        "tokenizing": lambda: both.encode_ours(both.wav),
        "decoding": lambda: both.decode_ours(both.codes),
        "chroma, of stems": lambda: chroma(wav).cpu(),
    }
    seconds = median_seconds(ways, 1 if session.size is SMALL else 3, wall_clock(str(session.device)))
    for name, taken in seconds.items():
        goal = TOKENIZING_GOAL if name == "tokenizing" and session.size is WHOLE else None
        speed = session.size.seconds / taken
        session.report.add(
            Figure(name, "× real time", speed, "more", goal=goal, equal="" if name.startswith("chroma") else equal)
        )


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.set_defaults(device="cuda")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no figure is begun")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Run all of it, print what was found, and keep it in a file that is named."""
    args = arguments().parse_args(words)
    torch.set_num_threads(args.threads)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, got none: --device cpu --small tries the script itself")
    session = Session(args.device, SMALL if args.small else WHOLE, args.budget)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if session.device.type == "cuda" else ("float32",)
    with session.part("limits of the machine"):
        machine = limits(args.device)
    with session.part("tokens of graphs, of eager steps and of the CPU"):
        check_tokens(session)
    with session.part("tokens alone and beside others"):
        check_invariance(session, precisions)
    time_generation(session, machine, precisions[-1])
    for name, act in (
        ("training", lambda: time_training(session, machine)),
        ("tokenizing and chroma", lambda: time_analysis(session)),
    ):
        if session.has_time(name):
            with session.part(name):
                act()
    session.report.say(
        f"Tokens of captured graphs, eager steps and the CPU are equal, and those of a request alone and among "
        f"{', '.join(map(str, session.size.rows[1:]))} too. {session.size.frames} frames a clip. {machine}."
    )
    took = f"The whole took {session.seconds / 60:.1f} minutes"
    left = f", {', '.join(session.left_out)} left out for want of time" if session.left_out else ""
    tell([session.report], args, f"{circumstances()}. {took}{left}")


if __name__ == "__main__":
    main()
