"""Comparisons of a clip's melody following: with an untrained model, and with the most that the codec lets through."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import T5EncoderModel

from model.chroma import chroma
from model.conditioning.config import ChromaConfig
from model.music_model import Attributes, MusicModel
from schemas import WeightsRef
from schemas.identity import by_hash
from schemas.tables import TOKENS, Row
from stages.audio import resample, to_mono
from stages.audio.references import Reference, rows_of_tracks
from stages.checkpoints.codecs import CodesFormat, load_codecs_of_rows
from stages.checkpoints.facts import read_facts
from stages.checkpoints.generation import RequestConditions, description_of, generate_codes, generation_request
from stages.checkpoints.loading import load_checkpoint
from stages.evaluate.listening import chance_agreement, chroma_agreement
from stages.pipeline.contract import Context

Key = tuple[str, int]
"""A clip: its request's id and its take."""


class Comparisons:
    """Compares clips with the melodies that they were given.

    Args:
        generations: of the clips to be scored that were given one.
        request_of: their requests.

    Raises:
        ValueError: the codec is not the one that the generations' codes belong to.
    """

    def __init__(
        self,
        context: Context,
        codec_reference: WeightsRef,
        generations: Sequence[Row],
        request_of: Mapping[str, Row],
    ) -> None:
        checkpoints = {generation["checkpoint_id"] for generation in generations}
        self._analyses = {checkpoint: _chroma_analysis(context, checkpoint) for checkpoint in checkpoints}
        self._codecs = {}
        if generations:
            path, got = context.weights(codec_reference).path, f"evaluate.codec = {codec_reference}"
            self._codecs = load_codecs_of_rows(generations, path, context.device, got)
        self._track_of = {row["request_id"]: _melody_track(request_of[row["request_id"]]) for row in generations}
        tracks = {track for track in self._track_of.values() if track}
        self._tokens = rows_of_tracks(context.store, context.versions, TOKENS, tracks)

    def chroma_of(
        self, samples: Float[npt.NDArray[np.float32], "C N"], sample_rate: int, generation: Row
    ) -> Float[Tensor, "F 12"]:
        """Measure the chroma of a sound's mix, in the way in which the melody of a generation was measured."""
        analysis = self._analyses[generation["checkpoint_id"]]
        sound = resample(to_mono(samples), sample_rate, analysis.sample_rate)
        return chroma(torch.from_numpy(sound), analysis)[0]

    def similarity(self, clip_chroma: Float[Tensor, "F 12"], generation: Row) -> float:
        """Return how well chroma agrees with the melody that a generation was given."""
        return chroma_agreement(
            clip_chroma, self._rate(generation), _asked_melody(generation), generation["chroma_frame_rate"]
        )

    def chance_similarity(self, clip_chroma: Float[Tensor, "F 12"], generation: Row) -> float:
        """Return the expected `similarity` with the melody's frames in random order."""
        return chance_agreement(
            clip_chroma, self._rate(generation), _asked_melody(generation), generation["chroma_frame_rate"]
        )

    def ceiling(self, generation: Row) -> float | None:
        """Return the similarity of the melody's own track, through the codec; None where it is no track, or of a model
        that speaks other codes than the store's own."""
        reference = self._tokens.get(self._track_of[generation["request_id"]] or "")
        if reference is None or CodesFormat.from_row(reference) != CodesFormat.from_row(generation):
            return None
        codes = torch.tensor(np.array(reference["codes"], dtype=np.int64)[:, : generation["frames"]])
        return self.decoded_similarity(codes, generation)

    def decoded_similarity(self, codes: Int[Tensor, "K T"], generation: Row) -> float:
        """Return how well codes, decoded, follow the melody of a generation."""
        codec = self._codecs[CodesFormat.from_row(generation)]
        return self.similarity(
            self.chroma_of(codec.decode_track(codes).numpy(), codec.sample_rate, generation), generation
        )

    def _rate(self, generation: Row) -> float:
        return self._analyses[generation["checkpoint_id"]].frame_rate


def _asked_melody(generation: Row) -> Float[Tensor, "F 12"]:
    return torch.from_numpy(np.array(generation["chroma"], dtype=np.float32))


def key_of(row: Row) -> Key:
    """Return the clip that a row is about."""
    return row["request_id"], row["take"]


def chosen_clips(count: int, generations: Iterable[Row]) -> set[Key]:
    """Choose the clips of a shard that are compared with an untrained model's: by the hash of their keys, so that it
    does not depend on which of them are still to be scored."""
    melodic = [key_of(row) for row in generations if row["chroma"]]
    return set(sorted(melodic, key=lambda key: by_hash(f"{key[0]}/{key[1]}"))[:count])


def _melody_track(request: Row) -> str | None:
    """Return the id of the track whose melody was asked for; None where it was a file."""
    reference = Reference.from_row(request["melody"] or "")
    return reference.value if reference.kind == "track" else None


def _chroma_analysis(context: Context, checkpoint: str) -> ChromaConfig:
    """Return how the melodies that a checkpoint follows are measured: the published way for one from elsewhere."""
    if context.library.checkpoint(checkpoint) is None:
        return ChromaConfig()
    melody = read_facts(context.weights(WeightsRef.to_checkpoint(checkpoint)).path).model.chroma
    assert melody is not None, "only a model that reads melodies is given one"
    return melody.analysis


def generate_untrained(
    context: Context, seed: int, generations: Sequence[Row], request_of: Mapping[str, Row]
) -> Iterator[tuple[Row, Int[Tensor, "K _"]]]:
    """Generate the same requests and seeds by an untrained model of each checkpoint's architecture: yield each row of
    `generations` and its codes as soon as they are whole.

    Args:
        generations: of checkpoints of this store.
        seed: where the weights come from.

    Raises:
        Stopped: the run was asked to stop.
    """
    for checkpoint in sorted({generation["checkpoint_id"] for generation in generations}):
        own = [generation for generation in generations if generation["checkpoint_id"] == checkpoint]
        for number, codes in _generate_of_checkpoint(context, checkpoint, seed, own, request_of):
            yield own[number], codes


def _generate_of_checkpoint(
    context: Context, checkpoint: str, seed: int, generations: Sequence[Row], request_of: Mapping[str, Row]
) -> Iterator[tuple[int, Int[Tensor, "K _"]]]:
    local = context.weights(WeightsRef.to_checkpoint(checkpoint))
    trained = load_checkpoint(local.path, context.weights)
    clips = []
    for row in generations:
        request, codes = request_of[row["request_id"]], np.array(row["codes"], dtype=np.int64)
        # A CLAP reference is left out: random weights make nothing of it, and it would have to be embedded again.
        attributes = Attributes(
            description=description_of(request, trained.facts.model),
            chroma=torch.from_numpy(np.array(row["chroma"], dtype=np.float32)),
        )
        prompt = torch.from_numpy(codes[:, : row["prompt_frames"]]) if row["prompt_frames"] else None
        conditions = RequestConditions(attributes, prompt)
        clips.append(generation_request(request, conditions, frames=row["frames"], seed=row["seed"]))
    return generate_codes(context, untrained(trained.model, seed).to(context.device), trained.facts, clips)


def untrained(model: MusicModel, seed: int) -> MusicModel:
    """Build a model of the same architecture with the random weights that training would begin with; a text encoder
    that learned with the model is random again, a frozen one stays."""
    encoder, tokenizer = None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.description is not None:
            encoder, tokenizer = model.description.encoder, model.description.tokenizer
            if model.config.description is not None and model.config.description.finetune:
                encoder = T5EncoderModel(encoder.config)
        return MusicModel(model.config, encoder, tokenizer).eval()
