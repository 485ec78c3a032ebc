"""Samples: clips of fixed texts that a model makes before, during and after training, with the same seeds each time.

They do not affect the training: the weights come out the same whatever samples are asked for, and however often. Each
clip can be played from the store as soon as it is made, and is a row of `samples`.
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from model.conditioning.captions import plain_caption
from model.decoding.generation import GenerationRequest
from model.decoding.windows import generate_long
from model.lm.config import STRIDE, stride_frames
from model.music_model import Attributes, MusicModel
from schemas import WeightsRef
from schemas.tables import SAMPLES
from stages.audio import SourceType, encode_audio
from stages.checkpoints.codecs import CodesFormat, load_matching_codec
from stages.checkpoints.training_log import TrainingLog
from stages.pipeline.contract import Context
from stages.pipeline.machine import decoding_options, free_memory
from stages.train.config import Config
from stages.train.corpus import Corpus
from stages.train.distributed import Rank
from stages.train.initial_model import InitialModel
from stages.train.sharding import BYTES_FROZEN, SHARE_OF_STATE, WholeModel

if TYPE_CHECKING:
    from stages.checkpoints.codecs import AnyCodec


PLAIN_TEXT = "A piece of music"
"""The description of a sample where neither the recipe nor a held-out track has one."""


class Sampler:
    """Makes the samples of a training.

    Args:
        held_out: tracks whose descriptions are used where the recipe gives none; positions in the corpus.
        frames: length of the windows that the model is trained on.
        rank: the first process makes the samples. Where the model is sharded, all processes must call `make` at the
            same time.
        whole: the whole model in the first process, to make samples with where the model is sharded.
    """

    def __init__(
        self,
        config: Config,
        context: Context,
        corpus: Corpus,
        held_out: Sequence[int],
        initial: InitialModel,
        frames: int,
        rank: Rank,
        whole: WholeModel | None = None,
    ) -> None:
        self._config, self._context, self._corpus = config, context, corpus
        self._initial, self._window, self._rank, self._whole = initial, frames, rank, whole
        samples = config.samples
        descriptions = [text for track in held_out if (text := plain_caption(corpus.metadata(track)))]
        descriptions = list(dict.fromkeys(descriptions)) or [PLAIN_TEXT]
        self._texts = () if samples is None else samples.texts or tuple(descriptions[: samples.count])
        unavailable = config.model.description is None or corpus.codec is None  # reads no text, or has no known codec
        if unavailable or not rank.evaluates:
            self._texts = ()

    def is_due(self, step: int) -> bool:
        """Return whether samples are made after a step, besides those at the beginning and the end."""
        return self._config.samples is not None and step % self._config.samples.every == 0

    def make(self, step: int, training_log: TrainingLog) -> None:
        """Make a clip of each text with the weights that the model has now, unless this step's samples exist.

        Args:
            training_log: keeps the rows, with the state of the training.
        """
        if not self._texts or self._rank.agreed(any(row["step"] == step for row in training_log.samples)):
            return
        if self._whole is None:
            self._make(step, training_log, self._initial.model, self._context)
            return
        context = self._roomy_context()
        model = self._whole.filled(self._initial.model, self._rank, context.device)
        if model is not None:
            self._make(step, training_log, model, context)
        self._rank.wait_for_others()

    def _roomy_context(self) -> Context:
        """Return a context on a device that has room for the whole model: the training's own device, or else the
        CPU."""
        context = self._context
        size = sum(value.numel() for value in self._initial.model.parameters()) * BYTES_FROZEN
        has_room = self._rank.agreed(size <= SHARE_OF_STATE * free_memory(context.device))
        return context if has_room else replace(context, settings=context.settings.model_copy(update={"device": "cpu"}))

    def _make(self, step: int, training_log: TrainingLog, model: MusicModel, context: Context) -> None:
        """Make the samples of a step, write their files, and publish all rows so far."""
        assert self._config.samples is not None
        rate = self._corpus.frame_rate
        frames = max(1, round(self._config.samples.seconds * rate))
        requests = [GenerationRequest(Attributes(text), frames, seed=number) for number, text in enumerate(self._texts)]
        learning = model.training
        model.eval()
        try:
            with _plain(model, self._config):
                clips = generate_long(
                    model,
                    requests,
                    window=self._window,
                    stride=stride_frames(STRIDE, self._window),
                    frame_rate=rate,
                    # A request to stop does not interrupt it: the state would be saved without the samples, and they
                    # would be lost.
                    options=replace(decoding_options(context, "float32", None, None), stop=None),
                )
                for number, codes in sorted(clips, key=lambda clip: clip[0]):
                    training_log.samples.append(self._keep(step, number, requests[number], codes))
        finally:
            model.train(learning)
        rows = pa.Table.from_pylist(self.rows(training_log), schema=SAMPLES.schema)
        identity = self._context.identity
        self._context.store.write_shard(SAMPLES, self._context.fingerprint, identity, rows, input_key=identity)

    def rows(self, training_log: TrainingLog) -> list[dict[str, Any]]:
        """Return all rows of `samples` so far."""
        return [{"checkpoint_id": self._context.identity} | row for row in training_log.samples]

    def _keep(self, step: int, number: int, request: GenerationRequest, codes: Any) -> dict[str, Any]:
        """Decode a clip, write its file, and return its row."""
        checkpoint, text = self._context.identity, self._texts[number]
        sound = self._codec.decode_track(codes).float().clamp(-1, 1).cpu().numpy()
        tags = {"title": f"Step {step}: {text}", "description": text, "generated": "true", "checkpoint": checkpoint}
        data = encode_audio(sound, self._codec.sample_rate, "flac", tags, source=SourceType.TRAINED)
        digest = hashlib.sha256(data).hexdigest()
        path = f"audio/checkpoint={checkpoint}/sample-{step:07d}-{number + 1}-{digest[:8]}.flac"
        self._context.store.write_bytes(path, data)
        return {
            **{"step": step, "number": number + 1, "description": text, "seed": request.seed},
            **{"seconds": sound.shape[-1] / self._codec.sample_rate, "sample_rate": self._codec.sample_rate},
            **{"channels": sound.shape[0], "path": path, "sha256": digest},
        }

    @cached_property
    def _codec(self) -> "AnyCodec":
        facts, initial = self._corpus.codec, self._config.initial
        assert facts is not None
        reference = initial if self._initial.codec is not None else facts.reference
        assert reference is not None
        codes = CodesFormat(
            facts.codebooks, facts.cardinality, facts.frame_rate, facts.identity, facts.channels, facts.reference
        )
        path = self._context.weights(WeightsRef(reference)).path
        return load_matching_codec(codes, path, self._context.device, f"the codec of {reference}", "the training")


def _plain(model: MusicModel, config: Config) -> Any:
    """Return a context in which a model with low-rank updates is a plain one, as decoding needs it."""
    if config.lora is None:
        return nullcontext()
    from stages.train.lora import merged  # imports peft, which other trainings do not need

    return merged(model)
