"""Whole runs of the published presets on weights of their sizes, a stage a process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from tests.true_sizes import published
from tests.true_sizes.measuring import Taken, measure
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.loading_memory import Loading, measure_loading
from tests.worlds.open_gate import OPEN_GATE

SECONDS = 30.0
"""Of a recording: one window of training, so that memory is what training takes."""

CLIP_SECONDS = 1.0

FINETUNED = ("musicgen-melody", "musicgen-medium")
"""Presets whose whole training takes more than 16 GB (weights, gradients, two moments and averages are 20 bytes a
parameter): they learn low-rank updates of their published weights, in bfloat16, with layers computed again for their
gradients."""

HALVED = ("musicgen-medium",)
"""Those whose decoding in float32 takes 16 GB (the weights, and its matrices once more as kernels want them): they
generate in bfloat16."""


def maker_of(name: str) -> Literal["segue", "loaded"]:
    """Return by what this project's greedy codes of a model in float32 are made."""
    return "loaded" if name in HALVED else "segue"


@dataclass(frozen=True)
class Weights:
    """The weights of a preset and of what lies around it, as the hub has them. Each is written when it is first asked
    for, by a process of its own, which gives its memory back."""

    name: str
    folder: Path

    @cached_property
    def model(self) -> Path:
        """In float32: one file for the small ones, several for the others."""
        shard = "2GB" if self.name in FINETUNED else "50GB"
        return _by_itself(published.write_hugging_face_form, self.name, self.folder / self.name, "float32", shard)

    @cached_property
    def half(self) -> Path:
        """The same model in half precision, in several files."""
        place = self.folder / f"{self.name}-half"
        return _by_itself(published.write_hugging_face_form, self.name, place, "float16", "1GB")

    @cached_property
    def audiocraft(self) -> Path:
        """The same model in half precision, in AudioCraft's form."""
        return _by_itself(published.write_audiocraft_form, self.model, self.folder / f"{self.name}-audiocraft")

    @cached_property
    def text_encoder(self) -> Path:
        return _by_itself(published.write_text_encoder, self.model, self.folder / "t5-base")

    @cached_property
    def codec(self) -> Path:
        return _by_itself(published.write_codec, self.folder / "encodec_32khz")

    @cached_property
    def separator(self) -> Path:
        return _by_itself(published.write_separator, self.folder / "htdemucs")

    @cached_property
    def clap(self) -> Path:
        return _by_itself(published.write_clap, self.folder / "clap")


def _by_itself(write: Callable[..., Path], *arguments: object) -> Path:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(write, *arguments).result()


def load_forms(weights: Weights, folder: Path) -> dict[str, Loading]:
    """Load the model in each of its forms, and return what that took."""
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], folder / "small")
    places = {"float32": weights.model, "float16": weights.half, "audiocraft": weights.audiocraft}
    return {form: measure_loading(small, place, weights.text_encoder) for form, place in places.items()}


def run_preset(name: str, weights: Weights, folder: Path) -> Iterator[tuple[str, Taken]]:
    """Take in recordings, train for a step, make a clip and report: yield each stage with what it took."""
    size, own = published.SIZES[name], name not in FINETUNED
    recordings = _recordings(folder / "recordings")
    (folder / "order.csv").write_text(f"description,seconds,seed\nA calm ambient piece,{CLIP_SECONDS},1\n")
    knobs = {
        "settings.workers": 1,
        "settings.offline": "true",
        "settings.device": "cpu",
        "ingest.valid": 0,
        "ingest.test": 0,
        "chroma.separator": weights.separator,
        "clap.model": weights.clap,
        "clap.vocabulary": weights.clap.parent / "tokenizer.json",
        "tokenize.codec": weights.codec if own else weights.model,
        "train.text_encoder": weights.text_encoder if own else "null",
        "train.initial": "null" if own else weights.model,
        "train.lora": "null" if own else '{"rank": 8, "conditioners": false}',
        "train.checkpoint_layers": str(not own).lower(),
        "train.optimization.precision": "float32" if own else "bfloat16",
        "train.optimization.steps": 1,
        "train.optimization.warmup_steps": 0,
        "train.batch_size": 1,
        "train.micro_batch_size": 1,
        "generate.precision": "bfloat16" if name in HALVED else "float32",
        **OPEN_GATE,
    }
    options = ["--preset", name, "--store", str(folder / "store"), "--source", str(recordings)]
    options += ["--requests", str(folder / "order.csv")]
    options += [word for field, value in knobs.items() for word in ("--set", f"{field}={value}")]
    stages = ["ingest", *(["chroma"] if size.melody else []), "tokenize", "train", "generate", "gate", "decode"]
    for stage in [*stages, "evaluate", "report"]:
        yield stage, measure(["run", stage, *options])


def _recordings(folder: Path) -> Path:
    """Write two recordings of a training window's length."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        sound = 0.1 * generator.standard_normal((int(SECONDS * published.SAMPLE_RATE), 2))
        soundfile.write(folder / f"{number}.flac", sound, published.SAMPLE_RATE)
        (folder / f"{number}.json").write_text('{"description": "a calm piece"}')
    return folder
