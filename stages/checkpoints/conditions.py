"""The conditions of requests: their references as tensors.

References to tracks that the model learned from are read from the versions of the tables that it learned from.
References to files or words are computed by the models that the settings of `generate` name; they are loaded when the
first request needs them. For a model from elsewhere, which learned from no table, a track is a recording file.

A clip that fits into one window of the length that the model was trained on follows the melody's beginning (MusicGen,
arXiv:2306.05284, 2.2). A longer clip is made in windows and follows the whole melody, each window its part
(`model.decoding.generation`); where the melody ends it starts again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.chroma import chroma_at
from model.conditioning.config import MelodyConfig
from model.music_model import Attributes
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS, Row, Table
from stages.audio import AudioError, DecodedAudio, convert_audio, read_audio
from stages.audio.references import Reference, RequestRefused, rows_of_tracks
from stages.checkpoints.codecs import AnyCodec, CodesFormat, check_codes_format, load_matching_codec
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.generation import RequestConditions, description_of, fields_of, frame_wise_conditions
from stages.checkpoints.generation_config import GenerationConfig
from stages.pipeline.contract import Context

if TYPE_CHECKING:
    from stages.networks.clap import JointEmbedder
    from stages.networks.demucs import Separator

Melody = Float[npt.NDArray[np.float32], "F 12"]
"""Chroma, [F, 12]."""

LOOKED_UP_IN = {"melody": CHROMA, "clap": CLAP, "prompt": TOKENS}
"""The column of `requests` that refers to a track -> the table that holds the condition of that track."""

KEPT_RECORDINGS = 4
"""Recordings that stay in memory after they are read: consecutive requests often refer to the same ones."""

SEPARATED_AFTER = 10.0
"""Seconds of a melody's file that are separated beyond the part that is needed."""


def prompt_frames(facts: CheckpointFacts, request: Row) -> int:
    """Return the length of a request's prompt in frames of codes; 0 without one."""
    return max(1, round(request["prompt_seconds"] * facts.frame_rate)) if request["prompt"] else 0


@dataclass(frozen=True)
class MelodySpan:
    """How much of a melody's beginning a clip can follow."""

    frames: int
    """Frames, at the rate of the model's melodies."""
    seconds: float


def clip_frames(facts: CheckpointFacts, seconds: float) -> int:
    """Return the length of a clip in frames of codes; the last frame may end after the clip."""
    return math.ceil(seconds * facts.frame_rate - 1e-6)


def melody_span(facts: CheckpointFacts, seconds: float) -> MelodySpan:
    """Return how much of a melody a clip of this many seconds can follow: up to the end of its last window."""
    config = _melody_config(facts)
    if clip_frames(facts, seconds) <= facts.segment_frames:
        frames = math.ceil(facts.segment_seconds * config.frame_rate)
        return MelodySpan(min(frames, config.frames), facts.segment_seconds)
    return MelodySpan(math.ceil(seconds * config.frame_rate) + config.frames, seconds + facts.segment_seconds)


def melody_over_clip(melody: Melody, facts: CheckpointFacts, seconds: float) -> Melody:
    """Return the melody that the model is asked to follow, frame by frame over a clip; a short melody may be repeated.

    Args:
        melody: the melody's beginning, as long as `melody_span` says.
    """
    config = _melody_config(facts)
    count = math.ceil(seconds * config.frame_rate)
    if clip_frames(facts, seconds) <= facts.segment_frames:
        # One window reads at most the model's own number of frames, and repeats a short melody only if the model does.
        count = min(count, config.frames if config.match_length else len(melody))
    over_clip: Melody = melody[np.arange(count) % len(melody)]
    return over_clip


def _melody_config(facts: CheckpointFacts) -> MelodyConfig:
    assert facts.model.chroma is not None, "the model must read melodies"
    return facts.model.chroma


class ConditionReader:
    """Reads the conditions of requests.

    Args:
        facts: facts of the model that reads them.
        config: names the models that read files and words; None for those that are not configured.
    """

    def __init__(self, context: Context, facts: CheckpointFacts, config: GenerationConfig) -> None:
        self.context, self.facts, self.config = context, facts, config
        self._rows: dict[str, dict[str, Row]] = {column: {} for column in LOOKED_UP_IN}
        self._uris: dict[str, str] = {}
        self._read_audio = lru_cache(maxsize=KEPT_RECORDINGS)(read_audio)

    def read_rows(self, requests: Sequence[Row]) -> None:
        """Read the rows of all tracks that the requests refer to."""
        for column, table in LOOKED_UP_IN.items():
            references = [Reference.from_row(row[column]) for row in requests if row[column]]
            ids = {reference.value for reference in references if reference.kind == "track"}
            if self._learned_from(table):
                self._rows[column] = rows_of_tracks(self.context.store, self.facts.versions, table, ids)
            else:
                tracks = rows_of_tracks(self.context.store, self.context.versions, TRACKS, ids)
                self._uris |= {track_id: row["uri"] for track_id, row in tracks.items()}

    def read(self, request: Row) -> RequestConditions:
        """Return the conditions of a request.

        Raises:
            RequestRefused: the request refers to something that is not there, or has a condition that the model was not
                trained with.
            MissingWeights: a model that it needs cannot be fetched.
        """
        self._check_model_reads(request)
        attributes = Attributes(
            description=description_of(request, self.facts.model),
            chroma=torch.from_numpy(self._melody(request)) if request["melody"] else None,
            clap=self._embedding(request) if request["clap"] else None,
            fields=fields_of(request, self.facts),
            **frame_wise_conditions(request, self.facts, clip_frames(self.facts, request["seconds"])),
        )
        return RequestConditions(attributes, self._prompt(request) if request["prompt"] else None)

    def _learned_from(self, table: Table) -> bool:
        return table.name in self.facts.versions

    def _reference(self, request: Row, column: str) -> Reference:
        """Return what a column of a request refers to: words, a file, or a track that the model learned from."""
        reference = Reference.from_row(request[column])
        if reference.kind != "track" or self._learned_from(LOOKED_UP_IN[column]):
            return reference
        if reference.value not in self._uris:
            message = (
                f"{column}: expected the track {reference.value} in tracks, got no such row: it may be added later"
            )
            raise RequestRefused(f"unknown {column}", message)
        return Reference("file", self._uris[reference.value])

    def _row(self, column: str, reference: Reference) -> Row:
        """Return the row of a track in the table that the column is looked up in."""
        row = self._rows[column].get(reference.value)
        if row is None:
            table = LOOKED_UP_IN[column]
            message = (
                f"expected the track {reference.value} in {table.name} (version {self.facts.versions[table.name]}, "
                "which the model learned from), got no such row: it may have been refused there, or be added later"
            )
            raise RequestRefused(f"unknown {column}", f"{column}: {message}")
        return row

    def _recording(self, column: str, reference: Reference) -> DecodedAudio:
        """Return the recording of a file."""
        try:
            return self._read_audio(reference.value)
        except AudioError as error:
            raise RequestRefused(f"unknown {column}", f"{column}: {error}", error.passing) from error

    def _check_model_reads(self, request: Row) -> None:
        """Raise RequestRefused for a condition that the model was not trained with."""
        conditions = self.facts.model.conditions
        for column, condition in (("description", "description"), ("melody", "chroma"), ("clap", "clap")):
            if request[column]:
                self._check_reads(column, condition)
        if request["chords"]:
            self._check_reads("chords", "chords")
        keeps_time = "beat" in conditions or bool(request["chords"])
        if request["meter"] and not keeps_time:
            self._check_reads("meter", "beat")
        for column in ("key", "bpm"):
            if request[column] is not None and column not in conditions and not (column == "bpm" and keeps_time):
                self._check_reads(column, "description")  # key and tempo are part of the description
        for name, _ in request["fields"] or ():
            self._check_reads(name, name)
        if request["guidance_text"] not in (None, 1) and ("description" not in conditions or len(conditions) < 2):
            message = "expected a model that was trained with a description and other conditions, got one with"
            raise RequestRefused("no such condition", f"guidance_text: {message} {self._condition_names}")

    def _check_reads(self, column: str, condition: str) -> None:
        if condition not in self.facts.model.conditions:
            message = f"expected a model that was trained with {condition}, got one with {self._condition_names}"
            raise RequestRefused("no such condition", f"{column}: {message}")

    @property
    def _condition_names(self) -> str:
        return ", ".join(self.facts.model.conditions) or "no conditions"

    def _melody(self, request: Row) -> Melody:
        """Return the beginning of the reference's melody, as much as the clip can follow."""
        reference, span = self._reference(request, "melody"), melody_span(self.facts, request["seconds"])
        if reference.kind == "track":
            row = self._row("melody", reference)
            chroma, rate = np.array(row["chroma"], dtype=np.float32).reshape(-1, 12), row["frame_rate"]
        else:
            chroma, rate = self._chroma_of_file(reference, span.seconds)
        melody = chroma_at(chroma, rate, 0.0, span.frames, _melody_config(self.facts).frame_rate)
        if not len(melody):
            raise RequestRefused(
                "unknown melody", f"melody: expected at least one frame of chroma, got none in {reference}"
            )
        return melody

    @cached_property
    def _separator(self) -> "Separator | None":
        from stages.networks.demucs import load_separator

        reference = self.config.separator
        return load_separator(self.context.weights(reference), self.context.device) if reference else None

    def _chroma_of_file(self, reference: Reference, seconds: float) -> tuple[Melody, float]:
        """Measure the chroma of the first seconds of a file, as the melodies that the model learned from were measured.
        Return it with its frame rate."""
        from stages.networks.demucs import melody_chroma

        recording, analysis = self._recording("melody", reference), _melody_config(self.facts).analysis
        # The separator reads beyond the end, so that the last frames are the same as in the whole recording.
        samples = recording.samples[:, : math.ceil((seconds + SEPARATED_AFTER) * recording.sample_rate)]
        if not samples.any():
            raise RequestRefused("unknown melody", f"melody: expected sound in {reference}, got digital silence")
        chroma = melody_chroma(samples, recording.sample_rate, self._separator, analysis, self.context.device)
        return chroma, analysis.frame_rate

    @cached_property
    def _embedder(self) -> "JointEmbedder":
        from stages.networks.clap import load_joint_embedder

        assert self.config.clap is not None
        vocabulary = self.config.vocabulary
        words = self.context.weights(vocabulary).path if vocabulary else None
        return load_joint_embedder(self.context.weights(self.config.clap).path, self.context.device, words)

    def _embedding(self, request: Row) -> Float[Tensor, "E"]:
        """Return the joint embedding of words, or of the beginning of a recording."""
        reference = self._reference(request, "clap")
        if reference.kind == "track":
            embedding = np.array(self._row("clap", reference)["embeddings"][0], dtype=np.float32)
        elif self.config.clap is None:
            raise RequestRefused("no clap", f"clap: expected generate.clap for {reference}, got none")
        elif reference.kind == "file":
            recording = self._recording("clap", reference)
            seconds = self._embedder.window / self._embedder.sample_rate
            samples = recording.samples[:, : math.ceil(seconds * recording.sample_rate)]
            embedding = self._embedder.embed_audio(samples, recording.sample_rate, seconds).embeddings[0]
        elif self._embedder.text is None:
            message = f"clap: expected generate.vocabulary to read {reference} with a LAION checkpoint, got none"
            raise RequestRefused("no vocabulary", message)
        else:
            embedding = self._embedder.embed_text([reference.value])[0]
        assert self.facts.model.clap is not None
        if len(embedding) != self.facts.model.clap.width:
            raise ValueError(
                f"expected joint embeddings of width {self.facts.model.clap.width}, as the model learned, got "
                f"{len(embedding)} for {reference}: set generate.clap to the model that the stage clap used"
            )
        return torch.from_numpy(embedding)

    @cached_property
    def _codec(self) -> AnyCodec:
        assert self.config.codec is not None
        path, got = self.context.weights(self.config.codec).path, f"generate.codec = {self.config.codec}"
        return load_matching_codec(CodesFormat.from_facts(self.facts), path, self.context.device, got, "the model")

    def _prompt(self, request: Row) -> Int[Tensor, "K P"]:
        """Return the codes that the clip begins with."""
        reference = self._reference(request, "prompt")
        prompt_length = prompt_frames(self.facts, request)
        if reference.kind == "track":
            row = self._row("prompt", reference)
            try:
                check_codes_format(
                    CodesFormat.from_facts(self.facts),
                    CodesFormat.from_row(row),
                    "the model",
                    f"tokens of {reference.value}",
                )
            except ValueError as error:
                raise RequestRefused("other codec", f"prompt: {error}") from error
            codes = torch.tensor(np.array(row["codes"], dtype=np.int64))
        elif self.config.codec is None:
            raise RequestRefused("no codec", "prompt: expected generate.codec for a prompt that is a file, got none")
        else:
            codec, recording = self._codec, self._recording("prompt", reference)
            sound = convert_audio(recording.samples, recording.sample_rate, codec.sample_rate, codec.channels)
            # A codec that is not causal also reads some of the sound after the prompt.
            samples = (prompt_length + codec.margins.after) * codec.hop
            codes = codec.encode_track(torch.from_numpy(sound[:, :samples]))
        if codes.shape[1] < prompt_length:
            got = codes.shape[1] / self.facts.frame_rate
            message = f"prompt: expected {request['prompt_seconds']:g} s of {reference}, got {got:g}"
            raise RequestRefused("prompt too short", message)
        return codes[:, :prompt_length]
