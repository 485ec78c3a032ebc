"""The first run on a GPU, whole: `python -m tests.benchmarks.gpu`, under eight minutes on a bare machine with torch,
transformers, safetensors and numpy.

It goes from what must be right to what should be fast, and stops at the first thing that is wrong, with exit code 1 and
a line that says where:

1. the kernel that attends to a cache where it lies gives what torch's attention does; the tokens of the captured step,
   of the same step launched kernel by kernel and of the CPU's own engine are one, in float32, for lengths of all kinds
   and more requests than slots; sound that the codec decodes in a graph is that which it decodes without;
2. a request has the same tokens alone and among 7, 32 and 128, and with fewer slots than requests, in every precision
   of weights and of keys and values that the device is offered in;
3. audio-seconds a second that small and medium generate, and their share of what memory allows: every step reads the
   weights and all keys and values once;
4. what decoding by the codec adds, and how far the memory taken is from the plan;
5. the share of the matrix products a second that training makes use of, by the rate measured here and by the data
   sheet's, with the layers as they are and compiled;
6. tokenizing and chroma in times of real time.

What is left when the time is up is left out and said to be; `--parts` takes some alone, where a command may not take as
long. `--device cpu --small` goes through all of it in seconds, so that it does not rot where there is no GPU; its
figures mean nothing.
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
from model.codec.captured import WARM_UP, CapturedDecoding
from model.decoding import DecodingOptions, MemoryPlan
from model.decoding.engine import decode
from model.decoding.generation import GenerationRequest, clip_codes, generate_conditioned, sequence_request
from model.decoding.static_shapes import StaticShapeDecoder
from model.kernels.cached_attention import SpanMask, attend_in_cache, attends_in_cache
from model.kernels.packed_linear import prepare_for_inference
from model.lm.attention import attend
from model.lm.cached_vectors import CachedVectors
from model.lm.config import CachePrecision, LanguageModelConfig, Precision
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
"""Dense floating-point operations a second in bfloat16 by NVIDIA's data sheets, by a part of the device's name (SXM if
there are several)."""

AUDIO_GOALS = {("small", 1): 15.0, ("small", 128): 150.0}
"""Audio-seconds a second, by model and slots, on an H100 or H200."""
UTILISATION_GOAL, TOKENIZING_GOAL = 45.0, 1500.0
"""Goal of training, per cent of the measured matmul rate, and goal of tokenizing, multiple of real time."""
PARTS = ("checks", "generation", "training", "analysis")
LARGEST_DIFFERENCE = 1e-4
"""Largest difference between the results of the cache kernel and of torch's attention, for vectors of unit variance."""


@dataclass(frozen=True)
class Kept:
    """Precisions of the weights and of the keys and values of a decoding model."""

    weights: Precision = "float32"
    cache: CachePrecision = "float32"

    def __str__(self) -> str:
        return f"{self.weights}, keys and values {self.cache}"


ON_CUDA = (Kept(), Kept("bfloat16", "bfloat16"), Kept("bfloat16", "int8"))
ELSEWHERE = (Kept(), Kept(cache="bfloat16"), Kept(cache="int8"))
"""Combinations that are checked: the first exactly against the CPU; the second is timed at all sizes, the others at the
largest."""


@dataclass(frozen=True)
class Size:
    """Amount of work."""

    models: dict[str, LanguageModelConfig]
    runs: tuple[tuple[str, int], ...]
    """Models and slots that are timed."""
    rows: tuple[int, ...]
    """Numbers of requests in a batch whose tokens must not change each other."""
    checked_frames: int
    frames: int
    """Frames of a timed clip."""
    training: training.Size
    filters: int
    """Filters of the codec."""
    seconds: float
    """Seconds of the recording that is tokenized."""


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
    """Raised if a condition does not hold; the message says what was expected and what came."""


class Session:
    """One run: the device, the amount of work, the results, and the time that is left.

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
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Report when a part begins and ends; an error within it is reported with its name."""
        print(f"[{self.seconds:5.0f} s] {name} …", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SystemExit(f"{name}: {type(error).__name__}: {reason}") from error

    def has_time(self, name: str) -> bool:
        """Return whether a figure may still be begun, and record it as left out if not."""
        if self.seconds < self.budget:
            return True
        self.left_out.append(name)
        return False

    def model(self, name: str) -> LanguageModel:
        """Make a model of random weights that are large enough that greedy tokens have no ties."""
        torch.manual_seed(0)
        with torch.device(self.device):
            model = LanguageModel(self.size.models[name])
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
        return model.eval()


def requests_of(frames: Sequence[int], greedy: bool = False) -> list[GenerationRequest]:
    """Requests of the given lengths, each with a seed of its own, as a catalog asks for them."""
    temperature = 0.0 if greedy else 1.0
    return [
        GenerationRequest(Attributes(), length, seed=number, guidance=GUIDANCE, temperature=temperature)
        for number, length in enumerate(frames)
    ]


def conditions_of(model: LanguageModel, count: int) -> list[list[dict[str, Condition]]]:
    """Embedded descriptions and their nulls, one pass each; those of a request number are the same for every count."""
    embedded = descriptions(count, model.config.width).to(model.device)
    return [[both_ways(one[None])] for one in embedded]


def tokens(
    model: LanguageModel, requests: Sequence[GenerationRequest], kept: Kept, slots: int, graphs: bool = True
) -> list[Tensor]:
    """Codes of requests from the engine that makes catalogs; the seed of a request is its number."""
    options = DecodingOptions(kept.weights, slots=slots, cuda_graphs=graphs, cache_precision=kept.cache)
    conditions = conditions_of(model, 1 + max(request.seed for request in requests))
    return generate_conditioned(model, requests, [conditions[request.seed] for request in requests], options)


def tokens_in_static_shapes(model: LanguageModel, requests: Sequence[GenerationRequest], slots: int) -> list[Tensor]:
    """Codes from the step that is captured on CUDA, launched kernel by kernel, on any device."""
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
    """Compare tokens from graphs, eager steps and the CPU in float32, for mixed lengths and more requests than
    slots."""
    model, frames = session.model("tiny"), session.size.checked_frames
    requests = requests_of([frames, frames // 3, frames - 1, frames // 2, frames, frames // 4, 2 * frames // 3])
    on_cpu = tokens(model.to("cpu"), requests, Kept(), 3, graphs=False)
    must_be_equal("of the CPU in static shapes as in its own", tokens_in_static_shapes(model, requests, 3), on_cpu)
    model.to(session.device)
    eager = tokens_in_static_shapes(model, requests, 3)
    must_be_equal("on the device, launched kernel by kernel, as on the CPU", eager, on_cpu)
    if session.device.type == "cuda":
        captured = tokens(model, requests, Kept(), 3)
        must_be_equal("of captured graphs as launched kernel by kernel", captured, eager)
        for kept in ON_CUDA[1:]:
            eager, captured = (tokens(model, requests, kept, 3, graphs) for graphs in (False, True))
            must_be_equal(f"of captured graphs as launched kernel by kernel, {kept}", captured, eager)


def check_attention(session: Session) -> None:
    """Compare the cache kernel with torch's attention, by precision, grouping, masks and row lengths."""
    device, length, rows = session.device, 300, 5
    if not attends_in_cache(device, 64):
        session.report.say("Keys and values are not read in place here.")
        return
    torch.manual_seed(0)
    stop = torch.tensor([1, 64, 65, 299, 300], device=device)
    first, steps = (stop - 200).clamp(min=0), torch.arange(length, device=device)
    for cache in ("float32", "bfloat16", "int8"):
        for heads, groups, width in ((16, 16, 64), (8, 2, 64), (6, 6, 24)):
            for masked in (False, True):
                queries = torch.randn(rows, heads, 1, width, device=device)
                both = [CachedVectors.empty((rows, groups, length, width), cache, queries.dtype, device) for _ in "kv"]
                for vectors in both:
                    vectors.write(torch.randn(rows, groups, length, width, device=device))
                mask = torch.rand(rows, 1, 1, length, device=device) < 0.7 if masked else None
                visible = ((steps >= first[:, None]) & (steps < stop[:, None]))[:, None, None]
                if mask is not None:
                    mask[torch.arange(rows, device=device), 0, 0, first] = True
                    visible = visible & mask
                expected = attend(queries, both[0].read(), both[1].read(), visible)
                found = attend_in_cache(queries, both[0], both[1], SpanMask(first, stop, mask))
                apart = float((found - expected).abs().max())
                if not apart <= LARGEST_DIFFERENCE:
                    raise Wrong(
                        f"expected the kernel of a cache to be at most {LARGEST_DIFFERENCE} from torch's attention, "
                        f"got {apart} with keys in {cache}, {heads} heads on {groups}, {width} wide, masked: {masked}"
                    )


def check_codec(session: Session) -> None:
    """Compare the decoded sound of a repeated length; the last times it comes from a graph if graphs are used."""
    codec = Tokenizing(str(session.device), session.size.filters, 1.0).codec
    codes = torch.randint(codec.cardinality, (codec.codebooks, session.size.checked_frames))
    sounds = [codec.decode_track(codes) for _ in range(WARM_UP + 2)]
    for number, sound in enumerate(sounds[1:], start=2):
        if not torch.equal(sound, sounds[0]):
            apart = float((sound - sounds[0]).abs().max())
            raise Wrong(f"expected the same sound of the same codes, got another the {number}th time, {apart} apart")
    if isinstance(codec.decoding, CapturedDecoding) and not codec.decoding.graphs:
        session.report.say("The codec could not be captured as a graph: it decodes kernel by kernel.")


def check_invariance(session: Session, every: Sequence[Kept]) -> None:
    """Compare the tokens of requests alone, in batches, and with fewer slots than requests, in each precision."""
    model, frames = session.model("small"), session.size.checked_frames
    requests = requests_of([frames - number % 5 for number in range(max(session.size.rows))])
    for kept in every:
        alone = [tokens(model, [request], kept, 1)[0] for request in requests[:2]]
        for rows in session.size.rows:
            together = tokens(model, requests[:rows], kept, rows)
            must_be_equal(f"among {rows} as alone ({kept})", together[:2], alone[:rows])
        rows = session.size.rows[1]
        admitted = tokens(model, requests[:rows], kept, 2)
        must_be_equal(f"of {rows} that take turns in two slots as alone ({kept})", admitted[:2], alone)


@dataclass(frozen=True)
class Generated:
    """Result and cost of a timed generation."""

    seconds: float
    codes: list[Tensor]
    plan: MemoryPlan
    peak: int | None
    """Bytes of the device's memory beyond what was taken before; None if the device does not report it."""


def generate_once(session: Session, model: LanguageModel, slots: int, kept: Kept) -> Generated:
    """Generate as many clips as there are slots, in whole calls with all their preparation."""
    clock, plans, cuda = wall_clock(str(session.device)), list[MemoryPlan](), session.device.type == "cuda"
    requests, conditions = requests_of([session.size.frames] * slots), conditions_of(model, slots)
    before = torch.cuda.memory_allocated(session.device) if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(session.device)
    begun = clock()
    options = DecodingOptions(kept.weights, slots=slots, on_plan=plans.append, cache_precision=kept.cache)
    codes = generate_conditioned(model, requests, conditions, options)
    seconds = clock() - begun
    peak = torch.cuda.max_memory_allocated(session.device) - before if cuda else None
    return Generated(seconds, codes, plans[0], peak)


def least_step(session: Session, model: LanguageModel, slots: int, kept: Kept, machine: Limits) -> float:
    """Seconds that memory takes to read the weights and, averaged over a clip, all keys and values once."""
    own, cross = (
        model.transformer.allocate(2 * slots, steps, length, torch.device("meta"), kept.cache).nbytes
        for steps, length in ((session.size.frames, 0), (0, TEXT_LENGTH))
    )
    return (matrix_weights(model) * BYTES[kept.weights] + own / 2 + cross) / machine.bandwidth


def time_generation(session: Session, machine: Limits, every: Sequence[Kept]) -> None:
    """Measure audio-seconds a second by model and slots, without and with decoding by the codec, and memory against the
    plan."""
    codec = Tokenizing(str(session.device), session.size.filters, 1.0).codec
    for name in dict.fromkeys(name for name, _ in session.size.runs):
        model = session.model(name)
        counts = [slots for other, slots in session.size.runs if other == name]
        runs = [(slots, every[1]) for slots in counts]
        if name == session.size.runs[0][0]:
            runs += [(max(counts), kept) for kept in every if kept is not every[1]]
        for slots, kept in runs:
            if not session.has_time(f"{name} at {slots} slots ({kept})"):
                continue
            with session.part(f"generation, {name}, {slots} slots, {kept}"):
                made = generate_once(session, model, slots, kept)
                clock = wall_clock(str(session.device))
                begun = clock()
                for codes in made.codes:
                    codec.decode_track(codes % codec.cardinality)
                decoding = clock() - begun
                audio = slots * session.size.frames / FRAME_RATE
                steps = session.size.frames + model.config.codebooks - 1
                fastest = audio / (steps * least_step(session, model, slots, kept, machine))
                goal = AUDIO_GOALS.get((name, slots)) if session.size is WHOLE else None
                what = f"{name}, {slots} slots, {kept}"
                unit = "s of audio a second"
                session.report.add(Figure(what, unit, audio / made.seconds, "more", goal=goal, limit=fastest))
                both = audio / (made.seconds + decoding)
                session.report.add(Figure(f"{what}, decoded by the codec", unit, both, "more"))
                if made.peak is not None:
                    figure = Figure(f"{what}, memory", "MB", made.peak / 1e6, "less", goal=made.plan.needed / 1e6)
                    session.report.add(figure)
        del model


def time_training(session: Session, machine: Limits) -> None:
    """Measure the share of the device's matrix operations a second that a training step uses, with layers as they are
    and compiled."""
    size = session.size.training
    both = training.Both(size, "bfloat16", str(session.device))
    clock, goal = wall_clock(str(session.device)), UTILISATION_GOAL if session.size is WHOLE else None
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else "a processor"
    sheet = next((peak for part, peak in DATA_SHEET.items() if re.search(rf"\b{part}\b", device)), None)
    for compiled in (False, True):
        what = f"training step, {size.width} wide, {size.examples} × {size.frames} frames, bfloat16"
        if compiled:
            if not session.has_time("training with compiled layers"):
                return
            # On a processor this only tries the script: inductor would take minutes and say nothing about a GPU.
            both.ours.language_model.transformer.compile_layers(
                "inductor" if session.device.type == "cuda" else "eager"
            )
            what += ", compiled"
        losses = both.check() if not compiled else "by a compiler, not checked again: the weights have moved"
        seconds = median_seconds({"ours": both.step_of_ours}, 1 if session.size is SMALL else 5, clock)["ours"]
        rate = 100 * size.examples * training_flops(both.decoder, size.frames) / seconds
        unit, share = "% of the measured matmul rate", rate / machine.bfloat16
        session.report.add(Figure(what, unit, share, "more", goal=goal, limit=100.0, equal=losses))
        if sheet is not None:
            session.report.add(Figure(what, "% of the data sheet's rate", rate / sheet, "more", limit=100.0))
    if sheet is None:
        session.report.say(f"No data sheet's rate is known of {device}.")


def time_analysis(session: Session) -> None:
    """Measure tokenizing, decoding and chroma as multiples of real time."""
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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts; all")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which no figure is begun")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Run everything, print the results, and write them to a file if one is given."""
    args = arguments().parse_args(words)
    torch.set_num_threads(args.threads)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, got none: --device cpu --small tries the script itself")
    session = Session(args.device, SMALL if args.small else WHOLE, args.budget)
    every = ON_CUDA if session.device.type == "cuda" else ELSEWHERE
    with session.part("limits of the machine"):
        machine = limits(args.device)
    if "checks" in args.parts:
        with session.part("attention to a cache where it lies"):
            check_attention(session)
        with session.part("tokens of graphs, of eager steps and of the CPU"):
            check_tokens(session)
        with session.part("sound of the codec's graph"):
            check_codec(session)
        with session.part("tokens alone and beside others"):
            check_invariance(session, every)
        session.report.say(
            f"Tokens of captured graphs, eager steps and the CPU are equal, and those of a request alone and among "
            f"{', '.join(map(str, session.size.rows[1:]))} too."
        )
    if "generation" in args.parts:
        time_generation(session, machine, every)
    for part, name, act in (
        ("training", "training", lambda: time_training(session, machine)),
        ("analysis", "tokenizing and chroma", lambda: time_analysis(session)),
    ):
        if part in args.parts and session.has_time(name):
            with session.part(name):
                act()
    session.report.say(f"{session.size.frames} frames a clip. {machine}.")
    took = f"The whole took {session.seconds / 60:.1f} minutes"
    left = f", {', '.join(session.left_out)} left out for want of time" if session.left_out else ""
    tell([session.report], args, f"{circumstances()}. {took}{left}")


if __name__ == "__main__":
    main()
