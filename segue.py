"""Segue in Python, for notebooks and scripts: stores and their tables, models that generate, codecs.

    import segue

    store = segue.Store("segue-store")
    tracks = store.table("tracks", "pandas")
    model = segue.load_model("./musicgen-small")
    clip = model.generate("calm piano at night", seconds=8)
    codes = model.codec.encode(clip)
    same = model.codec.decode(codes)

A `Sound` shows itself as a player in a notebook, and `IPython.display.Audio(sound.samples, rate=sound.sample_rate)`
accepts it as it is. Everything here calls what the stages call, on the same rows: a clip has the codes that `segue
generate` gives the same request in the first try of a take. A clip here is the codec's own sound; a catalog's takes are
also checked, tried again if they fall short (`stages.gate`), levelled and marked.
"""

import base64
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Float, UInt16

import schemas
from schemas import Settings, WeightsRef
from schemas.names import did_you_mean
from schemas.queries.database import query
from schemas.queries.kept_database import follow_move
from schemas.queries.views import VIEWS
from schemas.tables import TABLES, Row
from schemas.weights import WeightsLibrary

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from flows.commands.options import RunOptions
    from stages.checkpoints.codecs import AnyCodec
    from stages.generate import Generator
    from stages.pipeline.contract import Context
    from stages.requests import RowReader

__all__ = ["Clip", "Codec", "Model", "Sound", "Store", "load_codec", "load_model", "read_sound", "run"]

Device = Literal["auto", "cpu", "cuda"]
Codes = UInt16[npt.NDArray[np.uint16], "K T"]
"""Codes of K codebooks, T frames."""

Request = str | Mapping[str, Any]
"""A request for a clip: a description, or columns of a requests file (docs/requests.md)."""


@dataclass(frozen=True, eq=False, repr=False)
class Sound:
    """Sound in memory, which a notebook shows as a player."""

    samples: Float[npt.NDArray[np.float32], "C N"]
    """Samples of C channels, N each, 1 at full scale."""
    sample_rate: int
    """Samples of each channel in a second, Hz."""

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return self.samples.shape[1] / self.sample_rate

    def __repr__(self) -> str:
        return f"{self._words()})"

    def _words(self) -> str:
        """Return a description of the sound without its samples, with the bracket still open."""
        channels = self.samples.shape[0]
        return f"segue.{type(self).__name__}({self.seconds:.2f} s, {channels} x {self.sample_rate} Hz"

    def _repr_html_(self) -> str:
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, self.samples.T, self.sample_rate, format="WAV", subtype="PCM_16")
        data = base64.b64encode(file.getvalue()).decode()
        return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'


@dataclass(frozen=True, eq=False, repr=False)
class Clip(Sound):
    """A generated sound, with its codes and the request that it was made for."""

    codes: Codes
    request: Row
    """The row of `requests`: what was asked for, with defaults filled in."""
    take: int
    """Its number among the takes of the request, counted from 1."""
    seed: int
    """The seed of its random numbers."""

    def __repr__(self) -> str:
        asked = {name: self.request[name] for name in ("description", "melody", "prompt") if self.request[name]}
        options = "".join(f", {name}={value!r}" for name, value in asked.items())
        codebooks, frames = self.codes.shape
        return f"{self._words()}, {codebooks} x {frames} codes{options}, take={self.take}, seed={self.seed})"


def read_sound(path: str | os.PathLike[str]) -> Sound:
    """Read a recording, in any format that ingest reads, from a path or URL.

    Raises:
        stages.audio.AudioError: it cannot be found or decoded.
    """
    from stages.audio import read_audio

    recording = read_audio(os.fspath(path))
    return Sound(recording.samples, recording.sample_rate)


class Store:
    """An existing store, to be read.

    Args:
        url: a folder or any fsspec URL.

    Raises:
        ValueError: there is no store.
    """

    def __init__(self, url: str | os.PathLike[str] = Settings().store) -> None:
        self.store = schemas.Store(os.fspath(url))
        if absence := self.store.absence():
            raise ValueError(f"expected a store at {self.store.url}, got {absence}")
        follow_move(self.store)

    def __repr__(self) -> str:
        return f"segue.Store({self.store.location()!r})"

    @property
    def tables(self) -> Sequence[str]:
        """The names of its tables and views; `segue show NAME` describes them."""
        return tuple(dict.fromkeys((*TABLES, *VIEWS)))

    @overload
    def query(self, sql: str, form: Literal["arrow"] = "arrow") -> pa.Table: ...
    @overload
    def query(self, sql: str, form: Literal["pandas"]) -> "pd.DataFrame": ...
    @overload
    def query(self, sql: str, form: Literal["polars"]) -> "pl.DataFrame": ...

    def query(self, sql: str, form: str = "arrow") -> Any:
        """Return the answer to one SELECT over the tables.

        Args:
            form: `arrow`, `pandas`, or `polars` if that package is installed.

        Raises:
            schemas.queries.errors.QueryError: it is not a SELECT, or fails.
        """
        answer = query(self.store, sql)
        if form == "arrow":
            return answer
        if form == "pandas":
            return answer.to_pandas()
        if form != "polars":
            raise ValueError(f"expected arrow, pandas or polars, got {form!r}")
        try:
            import polars
        except ImportError as error:
            raise ValueError("expected the package polars for that form, got none: pip install polars") from error
        return polars.from_arrow(answer)

    @overload
    def table(self, name: str, form: Literal["arrow"] = "arrow", where: str = ...) -> pa.Table: ...
    @overload
    def table(self, name: str, form: Literal["pandas"], where: str = ...) -> "pd.DataFrame": ...
    @overload
    def table(self, name: str, form: Literal["polars"], where: str = ...) -> "pl.DataFrame": ...

    def table(self, name: str, form: Any = "arrow", where: str = "true") -> Any:
        """Return a table or view as the views show it now.

        Args:
            form: as for `query`.
            where: a condition on its rows, in SQL over its columns, such as `bpm > 120`.

        Raises:
            ValueError: there is no such table.
        """
        if name not in self.tables:
            known = ", ".join(self.tables)
            raise ValueError(f"expected one of {known}, got {name!r}{did_you_mean(name, self.tables)}")
        return self.query(f"SELECT * FROM {name} WHERE {where}", form)

    def sound(self, path: str) -> Sound:
        """Read a sound file of the store, such as the `path` of a row of `clips`."""
        return read_sound(self.store.path(path) if self.store.is_local else f"{self.store.url}/{path}")


class Codec:
    """A codec, which turns sound into codes and back, as the stages `tokenize` and `decode` do."""

    def __init__(self, codec: "AnyCodec") -> None:
        self.codec = codec

    @property
    def sample_rate(self) -> int:
        """The sample rate of its sound, Hz."""
        return self.codec.sample_rate

    @property
    def frame_rate(self) -> float:
        """How many frames of codes a second of sound has, Hz."""
        return self.codec.frame_rate

    def encode(self, sound: Sound | str | os.PathLike[str]) -> Codes:
        """Return the codes of a sound or of a recording (by its path), of any sample rate and number of channels."""
        import torch

        from stages.audio import convert_audio

        if not isinstance(sound, Sound):
            sound = read_sound(sound)
        samples = convert_audio(sound.samples, sound.sample_rate, self.codec.sample_rate, self.codec.channels)
        codes: Codes = self.codec.encode_track(torch.from_numpy(samples)).numpy().astype(np.uint16)
        return codes

    def decode(self, codes: npt.ArrayLike) -> Sound:
        """Return the sound of codes [K, T], such as the `codes` of a row of `tokens` or `generations`."""
        import torch

        whole = torch.tensor(np.stack([np.asarray(level, dtype=np.int64) for level in codes]))  # type: ignore[union-attr]
        return Sound(self.codec.decode_track(whole).float().numpy(), self.codec.sample_rate)


def load_codec(
    name: str, store: str | os.PathLike[str] | None = None, device: Device = "auto", offline: bool = False
) -> Codec:
    """Load a codec: a folder, a hub id, or `checkpoint:codec` of a store. For a language model's checkpoint, load the
    codec inside.

    Raises:
        schemas.weights.MissingWeights: it cannot be had.
        ValueError: it contains no codec.
    """
    from stages.checkpoints.codecs import load_codec as load
    from stages.pipeline.contract import device_of

    with tempfile.TemporaryDirectory(prefix="segue-") as temporary:
        home = Store(store).store if store else schemas.Store(temporary)
        library = WeightsLibrary(home, offline=offline)
        return Codec(load(library.get(WeightsRef(name)).path, device_of(Settings(device=device))))


class Model:
    """A language model in memory, with its codec; `load_model` makes one."""

    def __init__(self, options: "RunOptions", temporary: "tempfile.TemporaryDirectory[str] | None" = None) -> None:
        self._recipe, self._temporary = options.recipe, temporary  # its folder is removed with the model
        self._context: Context = options.plan.pipeline().context("generate", "python")
        from stages.generate import load_generator

        self._generator: Generator = load_generator(self._recipe.generate, self._context)

    def __repr__(self) -> str:
        return f"segue.Model({self._recipe.generate.checkpoint}, reads {', '.join(self.conditions)})"

    @property
    def conditions(self) -> Sequence[str]:
        """The conditions that it reads, such as `description` and `chroma`."""
        return self._generator.trained.facts.model.conditions

    @cached_property
    def codec(self) -> Codec:
        """The codec that decodes its codes."""
        from stages.checkpoints.codecs import CodesFormat, load_matching_codec

        reference, codes = self._recipe.decode.codec, CodesFormat.from_facts(self._generator.trained.facts)
        path = self._context.weights(reference).path
        return Codec(load_matching_codec(codes, path, self._context.device, str(reference), "the model"))

    @cached_property
    def _reader(self) -> "RowReader":
        from stages.audio.references import ReferencedFiles
        from stages.requests import RowReader

        return RowReader(self._recipe.requests, self._context, ReferencedFiles(os.getcwd()))

    def generate(self, request: Request, seconds: float | None = None, seed: int | None = None) -> Clip:
        """Generate one clip.

        Args:
            request: a description, or columns of a requests file: `{"description": …, "melody": "file:song.wav"}`.
            seconds: length of the clip; None takes that of the request or the recipe.
            seed: seed of the random numbers; None derives it from the request, so the same request gives the same clip.

        Raises:
            ValueError: the request cannot be understood, or asks for what the model does not read.
        """
        asked = {"description": request} if isinstance(request, str) else dict(request)
        given = {"seconds": seconds, "seed": seed}
        asked |= {name: value for name, value in given.items() if value is not None} | {"takes": 1}
        return next(self.generate_all([asked]))

    def generate_all(self, requests: Iterable[Request]) -> Iterator[Clip]:
        """Generate the clips of several requests side by side; yield each once it is whole, the shortest first.

        Raises:
            ValueError: a request cannot be understood, or asks for what the model does not read.
        """
        from stages.checkpoints.codecs import decode_generation
        from stages.generate import generate_rows

        rows = [self._row(number, request) for number, request in enumerate(requests, start=1)]
        row_of = {row["request_id"]: row for row in rows}
        for part in generate_rows(self._recipe.generate, self._context, self._generator, rows):
            for reject in part.rejects:
                raise ValueError(reject.message)
            for made in part.rows:
                request = row_of[made["request_id"]]
                samples = decode_generation(self.codec.codec, dict(made), request["seconds"])
                codes = np.stack(made["codes"])
                yield Clip(samples, self.codec.sample_rate, codes, request, made["take"], made["seed"])

    def _row(self, number: int, request: Request) -> Row:
        """Return the row of `requests` that a request would be as a line of a requests file."""
        from stages.requests.lines import RequestLine, parse_line
        from stages.requests.reading import Line

        cells = {"description": request} if isinstance(request, str) else dict(request)
        for name in cells.keys() - RequestLine.model_fields.keys():
            known = RequestLine.model_fields
            raise ValueError(
                f"expected columns of a requests file ({', '.join(known)}), got {name!r}{did_you_mean(name, known)}"
            )
        return self._reader.row(Line(number, cells.get("name"), parse_line(cells)))


def load_model(
    name: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    text_encoder: str | None = None,
    knobs: Sequence[str] = (),
    offline: bool = False,
) -> Model:
    """Load a language model: a folder in Hugging Face's, AudioCraft's or this project's form, a hub id, or
    `checkpoint:language_model` (the newest) or `checkpoint:ID` of a store.

    Args:
        store: where `checkpoint:…` and the tracks that requests refer to are.
        text_encoder: the T5 of an AudioCraft folder, which only names it.
        knobs: knobs of a run, such as `generate.precision=int8`, in the form that `--set` takes.

    Raises:
        schemas.weights.MissingWeights: the model, or something that it names, cannot be had.
        ValueError: it contains no model that can be read.
    """
    from flows.commands.generate import PRESET, recipe_of_checkpoint
    from flows.commands.options import parse_run_options

    temporary = None if store else tempfile.TemporaryDirectory(prefix="segue-")
    place = os.fspath(store) if store else temporary.name if temporary else ""
    home = Store(store).store if store else schemas.Store(place)
    difference = recipe_of_checkpoint(os.fspath(name), home, text_encoder)
    settings = {"store": place, "device": device, "offline": offline}
    options = parse_run_options(["generate"], PRESET, settings, knobs, recipe_difference=difference)
    return Model(options, temporary)


def run(
    source: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] = Settings().store,
    stages: Sequence[str] = (),
    preset: str = "miniature",
    requests: str | os.PathLike[str] | None = None,
    knobs: Sequence[str] = (),
) -> Store:
    """Run a catalog, or some of its stages, as `segue run` does, in this process and without Prefect; return its store.

    Args:
        source: the recordings; None if the preset makes its own.
        stages: the stages to run; empty means all.
        requests: a requests file; None takes the preset's own requests.
        knobs: knobs such as `train.optimization.steps=500`, in the form that `--set` takes.

    Raises:
        ValueError: a name or value is not allowed.
        stages.pipeline.runner.StageFailed: a stage did not do all of its work.
    """
    from flows.commands.options import parse_run_options
    from flows.runs.running import Run, run_stages

    places = {"source": source, "store": store, "requests": requests}
    settings = {name: os.fspath(place) for name, place in places.items() if place is not None}
    run_stages(Run(parse_run_options(stages, preset, settings, knobs).plan))
    return Store(store)
