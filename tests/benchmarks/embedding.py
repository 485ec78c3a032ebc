"""The stages chroma, clap and tokenize from files to rows, against the same models in plain loops: `python -m
tests.benchmarks.embedding`.

Models of the published shapes with random weights (HTDemucs, CLAP with HTSAT-base, EnCodec at 32 kHz) and recordings of
synthesised music, FLAC and MP3 by turns, 44.1 kHz, stereo. The plain loop is what the packages' own documentation has:
read and resample a recording, separate it by `demucs.apply`, embed it window by window by transformers' extractor and
model, encode it in one pass by transformers. That rows are equal comes before any time. Loading is left out on both
sides. The last column of the second table is the share of a stage's time in the networks themselves; the rest is what
keeps a device waiting.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.htdemucs import HTDemucs
from demucs.states import save_with_checksum
from torch import nn
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast, RobertaConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from model.chroma import chroma as chroma_of
from schemas import Settings, Store, WeightsRef
from schemas.tables import TRACKS
from schemas.weights import WeightsLibrary
from stages import chroma, clap, tokenize
from stages.audio import encode_audio, read_audio, resample, to_mono
from stages.pipeline.contract import Context, Progress
from stages.pipeline.threads import computing_threads
from tests.benchmarks.ingest import music
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options
from tests.benchmarks.timing import Clock, clock_of
from tests.benchmarks.tokenizing import networks

RATE = 44_100
STEMS = ["drums", "bass", "other", "vocals"]


@dataclass(frozen=True)
class Loop:
    """A stage, and a plain loop over the same recordings."""

    stage: ModuleType
    config: Any
    plain: Callable[[str], np.ndarray]
    """The loop's result for one recording, by path."""
    made: Callable[[dict], np.ndarray]
    """The stage's result, from a row."""
    largest: float
    """Largest allowed difference: for codes the share that differs, otherwise the largest absolute difference."""
    inside: list[tuple[type[nn.Module], str]]
    """The methods whose time counts as the networks' own."""


class Begun(Progress):
    """Records when the weights are loaded."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.at = clock, 0.0

    def start(self, what: str, total: int, unit: str) -> None:
        self.at = self.clock()


@contextmanager
def counting(methods: list[tuple[type[nn.Module], str]], clock: Clock) -> Iterator[list[float]]:
    """Yield a list with one number, which grows by the time of every call of the methods inside the block."""
    spent: list[float] = []

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            begun = clock()
            result = method(*args, **named)
            spent.append(clock() - begun)
            return result

        return call

    patches = [mock.patch.object(kind, name, counted(getattr(kind, name))) for kind, name in methods]
    for patch in patches:
        patch.start()
    try:
        yield spent
    finally:
        for patch in patches:
            patch.stop()


def separating(folder: Path, device: str, small: bool) -> Loop:
    """Chroma, with Demucs' own loop over segments as the plain loop."""
    sizes: dict[str, Any] = {"channels": 48, "bottom_channels": 512, "t_layers": 5, "segment": 39 / 5}
    if small:
        sizes = {
            "channels": 8,
            "t_layers": 1,
            "t_heads": 2,
            "bottom_channels": 16,
            "segment": 2,
        }
    torch.manual_seed(0)
    network = HTDemucs(STEMS, samplerate=RATE, **sizes).eval()
    package = {"klass": HTDemucs, "args": (STEMS,), "kwargs": {"samplerate": RATE, **sizes}}
    save_with_checksum(package | {"state": network.state_dict()}, folder / "separator.th")
    bag = BagOfModels([network]).to(device)

    def plain(path: str) -> np.ndarray:
        recording = read_audio(path)
        mixed = torch.from_numpy(resample(recording.samples, recording.sample_rate, RATE))[None]
        with torch.no_grad():
            stems = apply_model(bag, mixed, device=device, shifts=0)[0]
        melody = (stems[STEMS.index("vocals")] + stems[STEMS.index("other")]).mean(0, keepdim=True).numpy()
        return chroma_of(torch.from_numpy(resample(melody, RATE, 32_000)).to(device))[0].cpu().numpy()

    config = chroma.Config(separator=WeightsRef(str(next(folder.glob("separator*.th")))))
    return Loop(chroma, config, plain, lambda row: np.stack(row["chroma"]), 1e-3, [(HTDemucs, "forward")])


def embedding(folder: Path, device: str, small: bool) -> Loop:
    """Clap, with transformers' extractor and model, window by window, as the plain loop."""
    audio: dict[str, Any] = {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}
    text = RobertaConfig(vocab_size=8, num_hidden_layers=1, intermediate_size=64, max_position_embeddings=90)
    torch.manual_seed(0)
    model = ClapModel(
        ClapConfig(text_config=text.to_dict(), audio_config={"depths": [1, 1, 1, 1]} if small else audio)
    ).eval()
    extractor = ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000)
    for part in (model, extractor, _words()):
        part.save_pretrained(folder)
    model = model.to(device)

    def plain(path: str) -> np.ndarray:
        recording = read_audio(path)
        sound = resample(to_mono(recording.samples), recording.sample_rate, 48_000)[0]
        sound = (np.clip(sound, -1, 1) * 32_767).astype(np.int16).astype(np.float32) / np.float32(32_767)
        last, embeddings = max(0, len(sound) - 480_000), []
        for start in [*range(0, last, 480_000), last]:
            features = extractor(sound[start : start + 480_000], sampling_rate=48_000, return_tensors="pt")
            with torch.no_grad():
                embeddings.append(
                    model.get_audio_features(features["input_features"].float().to(device)).pooler_output[0]
                )
        return torch.stack(embeddings).cpu().numpy()

    config = clap.Config(model=WeightsRef(str(folder)))
    inside: list[tuple[type[nn.Module], str]] = [(ClapAudioModel, "forward")]
    return Loop(clap, config, plain, lambda row: np.stack(row["embeddings"]), 1e-5, inside)


def encoding(folder: Path, device: str, small: bool) -> Loop:
    """Tokenize, with one pass of transformers' model as the plain loop."""
    peer, same = networks("cpu", 4 if small else 64)
    same.save_pretrained(folder)
    peer = peer.to(device)

    def plain(path: str) -> np.ndarray:
        recording = read_audio(path)
        sound = torch.from_numpy(resample(to_mono(recording.samples), recording.sample_rate, 32_000))
        with torch.no_grad():
            return peer.encode(sound[None].to(device), return_dict=False)[0][0, 0].cpu().numpy()  # type: ignore[index]

    config = tokenize.Config(codec=WeightsRef(str(folder)))
    from model.codec.codec import Codec

    return Loop(tokenize, config, plain, lambda row: np.stack(row["codes"]), 1e-3, [(Codec, "encode")])  # type: ignore[list-item]


def _words() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    names = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", unk_token="<unk>")


@dataclass(frozen=True)
class Timed:
    """The results for all recordings in order, and the seconds of the fastest turn."""

    seconds: float
    results: list[np.ndarray]
    networks: float = 0.0
    """Seconds in the networks themselves, in that turn."""


def run_plain(loop: Loop, paths: list[str], clock: Clock, turns: int) -> Timed:
    """Run the plain loop."""
    loop.plain(paths[0])  # the slow first pass through a network is not counted
    best = float("inf")
    for _ in range(turns):
        at = clock()
        results = [loop.plain(path) for path in paths]
        best = min(best, clock() - at)
    return Timed(best, results)


def run_stage(loop: Loop, paths: list[str], device: str, workers: int, clock: Clock, turns: int) -> Timed:
    """Run the stage as a job of a run does."""
    rows = [{"track_id": str(number), "uri": path, "seconds": 0.0} for number, path in enumerate(paths)]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS.schema)
    best = Timed(float("inf"), [])
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            store, begun = Store(folder), Begun(clock)
            settings = Settings(
                store=folder,
                device=device,  # type: ignore[arg-type]
                offline=True,
                workers=workers,
                threads=torch.get_num_threads(),
            )
            library = WeightsLibrary(store, offline=True)
            context = Context(store, settings, "run", "stage", "version", {}, library, progress=begun)
            with computing_threads(settings), counting(loop.inside, clock) as spent:
                made = [loop.made(row) for part in loop.stage.shard(loop.config, context, tracks) for row in part.rows]
                taken = clock() - begun.at
        if taken < best.seconds:
            best = Timed(taken, made, sum(spent))
    return best


def check(loop: Loop, made: list[np.ndarray], plain: list[np.ndarray]) -> None:
    """Compare the stage's results with the loop's; SystemExit if they are not close enough."""
    for result, expected in zip(made, plain, strict=True):
        apart = float((result != expected).mean() if result.dtype == np.uint16 else np.abs(result - expected).max())
        if apart > loop.largest:
            raise SystemExit(f"expected rows at most {loop.largest} from the plain loop's, got {apart}")


STAGES = {"chroma": separating, "clap": embedding, "tokenize": encoding}


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--recordings", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a recording")
    parser.add_argument("--workers", type=int, default=0, help="settings.workers; 0 is what suits the machine")
    parser.add_argument("--repetitions", type=int, default=1)
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Measure the times a second of sound from files to rows."""
    torch.set_num_threads(args.threads)
    clock = clock_of(args.device, args.cpu_time)
    seconds, count = (3.0, 2) if args.small else (args.seconds, args.recordings)
    report = Report("From recordings to chroma, embeddings and codes", "plain loop")
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(count):
            form = ("flac", "mp3")[number % 2]
            paths.append(str(Path(folder) / f"{number}.{form}"))
            Path(paths[-1]).write_bytes(encode_audio(music(seconds, RATE, number), RATE, form, {}))  # type: ignore[arg-type]
        loops = {}
        for name in args.stages:
            (Path(folder) / name).mkdir()
            loops[name] = STAGES[name](Path(folder) / name, args.device, args.small)
        # A job changes for its whole process what malloc does with freed memory, so all plain loops come first.
        plain = {name: run_plain(loop, paths, clock, args.repetitions) for name, loop in loops.items()}
        for name, loop in loops.items():
            ours = run_stage(loop, paths, args.device, args.workers, clock, args.repetitions)
            check(loop, ours.results, plain[name].results)
            per_second, peer = (timed.seconds / (seconds * count) for timed in (ours, plain[name]))
            report.add(
                Figure(name, "s a second of sound", per_second, "less", peer=peer, equal=f"≤ {loop.largest:g} apart")
            )
            shares.append([name, f"{ours.networks / ours.seconds:.1%}"])
    report.say(table(["stage", "in the networks"], shares))
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
