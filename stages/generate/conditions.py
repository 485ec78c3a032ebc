"""What a request is generated from: its references as tensors.

What refers to tracks that the model learned from is read from the tables (`stages.generate.sources`). What refers to
files or words is computed, by the models that the settings of `generate` name; they are loaded when the first request
needs them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.chroma import chroma_at
from model.conditioning.captions import request_text
from model.music_model import Attributes
from schemas import WeightsRef
from stages.audio import convert_audio
from stages.checkpoints.codecs import AnyCodec, check_codes, codes_of_model, codes_of_row, load_codec_of
from stages.checkpoints.facts import CheckpointFacts
from stages.generate.melody_span import clip_frames, heard, over_clip
from stages.generate.sources import RequestRefused, Sources
from stages.pipeline.contract import Context
from stages.pipeline.references import Reference

if TYPE_CHECKING:
    from stages.networks.clap import JointEmbedder
    from stages.networks.demucs import Separator

HEARD_AFTER = 10.0
"""Seconds of a melody's file after what is needed of it that are separated as well."""


@dataclass(frozen=True, eq=False)
class Models:
    """The models that read files and words; None for one that is not configured."""

    codec: WeightsRef | None
    separator: WeightsRef | None
    clap: WeightsRef | None
    vocabulary: WeightsRef | None


@dataclass(frozen=True, eq=False)
class Given:
    """The conditions of one request."""

    frames: int
    """Length of the clip, in frames of codes."""
    attributes: Attributes
    """With as much of the melody as the clip can hear."""
    prompt: Int[Tensor, "K P"] | None
    melody: Float[np.ndarray, "F 12"] | None
    """The melody that was asked for over the length of the clip, at the rate of the model's; None where none was."""


class Conditions:
    """Finds the conditions of requests.

    Args:
        facts: of the model that they are for.
        models: what reads files and words.
    """

    def __init__(self, context: Context, facts: CheckpointFacts, models: Models) -> None:
        self.context, self.facts, self.models = context, facts, models
        self._sources = Sources(context, facts)

    def look_up(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Read what the tables hold of all tracks that the requests refer to."""
        self._sources.look_up(requests)

    def of(self, request: Mapping[str, Any]) -> Given:
        """The conditions of a request.

        Raises:
            RequestRefused: it refers to what is not there, or asks for what the model was not trained with.
            MissingWeights: a model that it needs cannot be had.
        """
        self._check_model_reads(request)
        melody = self._melody(request) if request["melody"] else None
        text = request_text(request["description"], request["key"], request["bpm"])
        attributes = Attributes(
            description=text if "description" in self.facts.model.conditions else None,
            chroma=None if melody is None else torch.from_numpy(melody),
            clap=self._embedding(request) if request["clap"] else None,
            fields=self._fields(request),
        )
        prompt = self._prompt(request) if request["prompt"] else None
        asked = None if melody is None else over_clip(melody, self.facts, request["seconds"])
        return Given(clip_frames(self.facts, request["seconds"]), attributes, prompt, asked)

    def _check_model_reads(self, request: Mapping[str, Any]) -> None:
        reads = self.facts.model.conditions
        for column, condition in (("description", "description"), ("melody", "chroma"), ("clap", "clap")):
            if request[column]:
                self._check_reads(column, condition)
        for column in ("key", "bpm"):
            if request[column] is not None and column not in reads:
                self._check_reads(column, "description")  # which they are part of
        for name, _ in request["fields"] or ():
            self._check_reads(name, name)
        if request["guidance_text"] not in (None, 1) and ("description" not in reads or len(reads) < 2):
            message = "expected a model that was trained with a description and other conditions, got one with"
            raise RequestRefused("no such condition", f"guidance_text: {message} {self._reads}")

    def _check_reads(self, column: str, condition: str) -> None:
        if condition not in self.facts.model.conditions:
            message = f"expected a model that was trained with {condition}, got one with {self._reads}"
            raise RequestRefused("no such condition", f"{column}: {message}")

    @property
    def _reads(self) -> str:
        return ", ".join(self.facts.model.conditions) or "no conditions"

    def _fields(self, request: Mapping[str, Any]) -> dict[str, str | float]:
        """The other conditions that the model reads and the request has; every clip has a length."""
        given = dict(request["fields"] or ()) | {name: request[name] for name in ("key", "bpm", "seconds")}
        return {name: given[name] for name in self.facts.model.fields if given.get(name) is not None}

    # -- melody ---------------------------------------------------------------------------------------------------

    def _melody(self, request: Mapping[str, Any]) -> Float[np.ndarray, "F 12"]:
        """As much of the beginning of the reference's melody as the model can hear."""
        assert self.facts.model.chroma is not None
        reference, wanted = self._sources.reference(request, "melody"), heard(self.facts, request["seconds"])
        if reference.kind == "track":
            row = self._sources.row("melody", reference)
            chroma, rate = np.array(row["chroma"], dtype=np.float32).reshape(-1, 12), row["frame_rate"]
        else:
            chroma, rate = self._chroma_of_file(reference, wanted.seconds)
        melody = chroma_at(chroma, rate, 0.0, wanted.frames, self.facts.model.chroma.frame_rate)
        if not len(melody):
            raise RequestRefused(
                "unknown melody", f"melody: expected at least one frame of chroma, got none in {reference}"
            )
        return melody

    @cached_property
    def _separator(self) -> "Separator | None":
        from stages.networks.demucs import load_separator

        reference = self.models.separator
        return load_separator(self.context.weights(reference), self.context.device) if reference else None

    def _chroma_of_file(self, reference: Reference, seconds: float) -> tuple[Float[np.ndarray, "F 12"], float]:
        """The chroma of the first seconds of a file, and its frames a second, as the stage `chroma` measures it."""
        from stages.networks.demucs import ChromaSettings, melody_chroma

        recording, settings = self._sources.recording("melody", reference), ChromaSettings()
        # The separator hears some of what follows, so that the last frames are as they are in the whole recording.
        samples = recording.samples[:, : math.ceil((seconds + HEARD_AFTER) * recording.sample_rate)]
        if not samples.any():
            raise RequestRefused("unknown melody", f"melody: expected sound in {reference}, got digital silence")
        chroma = melody_chroma(samples, recording.sample_rate, self._separator, settings, self.context.device)
        return chroma, settings.frame_rate

    # -- joint embedding ------------------------------------------------------------------------------------------

    @cached_property
    def _embedder(self) -> "JointEmbedder":
        from stages.networks.clap import load_joint_embedder

        assert self.models.clap is not None
        vocabulary = self.models.vocabulary
        words = self.context.weights(vocabulary).path if vocabulary else None
        return load_joint_embedder(self.context.weights(self.models.clap).path, self.context.device, words)

    def _embedding(self, request: Mapping[str, Any]) -> Float[Tensor, "E"]:
        """The joint embedding of words, or of the beginning of a recording."""
        reference = self._sources.reference(request, "clap")
        if reference.kind == "track":
            embedding = np.array(self._sources.row("clap", reference)["embeddings"][0], dtype=np.float32)
        elif self.models.clap is None:
            raise RequestRefused("no clap", f"clap: expected generate.clap for {reference}, got none")
        elif reference.kind == "file":
            recording = self._sources.recording("clap", reference)
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
                f"{len(embedding)} for {reference}: generate.clap is to be the model that the stage clap used"
            )
        return torch.from_numpy(embedding)

    # -- continuation ---------------------------------------------------------------------------------------------

    @cached_property
    def _codec(self) -> AnyCodec:
        assert self.models.codec is not None
        path, got = self.context.weights(self.models.codec).path, f"generate.codec = {self.models.codec}"
        return load_codec_of(codes_of_model(self.facts), path, self.context.device, got, "the model")

    def _prompt(self, request: Mapping[str, Any]) -> Int[Tensor, "K P"]:
        """The codes that the clip begins with."""
        reference = self._sources.reference(request, "prompt")
        wanted = max(1, round(request["prompt_seconds"] * self.facts.frame_rate))
        if reference.kind == "track":
            row = self._sources.row("prompt", reference)
            try:
                check_codes(codes_of_model(self.facts), codes_of_row(row), "the model", f"tokens of {reference.value}")
            except ValueError as error:
                raise RequestRefused("other codec", f"prompt: {error}") from error
            codes = torch.tensor(np.array(row["codes"], dtype=np.int64))
        elif self.models.codec is None:
            raise RequestRefused("no codec", "prompt: expected generate.codec for a prompt that is a file, got none")
        else:
            codec, recording = self._codec, self._sources.recording("prompt", reference)
            sound = convert_audio(recording.samples, recording.sample_rate, codec.sample_rate, codec.channels)
            # A codec that looks both ways hears some of what follows the prompt as well.
            heard = (wanted + codec.margins.after) * codec.hop
            codes = codec.encode_track(torch.from_numpy(sound[:, :heard]))
        if codes.shape[1] < wanted:
            got = codes.shape[1] / self.facts.frame_rate
            message = f"prompt: expected {request['prompt_seconds']:g} s of {reference}, got {got:g}"
            raise RequestRefused("prompt too short", message)
        return codes[:, :wanted]
