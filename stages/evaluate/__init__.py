"""Scores: facts about every clip, and how well it follows what was asked for.

Melody following is a number that means little alone, so it is measured four times, always against the chroma that the
model was given: on the clip; as chance level (`stages.evaluate.listening.chance_agreement`); on what an untrained model
of the same architecture makes of the same request and seed; and on the reference's own codes, decoded, which is as much
as the codec lets through. All of them measure the full mix, as MusicGen's metric does (arXiv:2306.05284, section 4).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

import schemas
from model.lm.config import STRIDE
from schemas import WeightsRef
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, SCORES, TOKENS, TRACKS, Row
from schemas.weights import LocalWeights
from stages.audio.keys import parse_key
from stages.networks.published import ENCODEC_32KHZ, LAION_CLAP, ROBERTA_VOCABULARY
from stages.pipeline.contract import Context, Dependencies, Reject, Shard

if TYPE_CHECKING:
    from torch import Tensor

    from stages.audio import DecodedAudio
    from stages.evaluate.comparisons import Comparisons
    from stages.evaluate.likeness import Likeness

READS, CONSULTS, WRITES, VERSION = (CLIPS, REQUESTS, GENERATIONS), (TRACKS, TOKENS), SCORES, 4


class Config(schemas.Config):
    """What scores are made with."""

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec of the clips' codes: it decodes the references and what the untrained model makes. In a recipe it is
    `tokenize.codec` unless it is given, or the codec inside `generate.checkpoint` where that is one from elsewhere."""
    clap: WeightsRef | None = LAION_CLAP
    """What compares clips with words, and embeds them for the stage nearest (MusicGen, section 4, "CLAP"); in a recipe
    `clap.model` unless it is given. None leaves both out."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, for the words of a LAION checkpoint, which brings none; in a recipe `clap.vocabulary`
    unless it is given. None where `clap` is a folder."""
    stride: float = Field(default=STRIDE, gt=0, lt=1)
    """From one window of a long clip to the next, as a share of a window: where its seams are. In a recipe it is
    `generate.stride` unless it is given."""
    untrained_clips: int = Field(default=8, ge=0)
    """How many clips of a shard, of those that follow a melody, are compared with an untrained model's."""
    untrained_seed: int = Field(default=0, ge=0)
    """Where the untrained model's weights come from."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Leave out the vocabulary where there is no CLAP model to compare words with."""
    return Dependencies(config if config.clap else config.model_copy(update={"vocabulary": None}), CONSULTS)


def shard(
    config: Config, context: Context, clips: pa.Table, requests: pa.Table, generations: pa.Table
) -> Iterator[Shard]:
    """Score every clip, those last that wait for what an untrained model makes.

    Raises:
        ValueError: the codec is not the one that the store's codes came from.
        MissingWeights: weights that the scores need cannot be had.
    """
    from stages.evaluate.comparisons import Comparisons, chosen_clips, generate_untrained, key_of
    from stages.evaluate.likeness import Likeness
    from stages.evaluate.seams import window_borders, window_frames

    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    generation_of = {key_of(row): row for row in generations.to_pylist()}
    clip_of = {key_of(row): row for row in clips.to_pylist()}
    context.progress.start("evaluate", len(clip_of), "clips")
    checkpoints = {generation_of[key]["checkpoint_id"] for key in clip_of}
    windows = {checkpoint: window_frames(context, checkpoint) for checkpoint in checkpoints}
    melodic = [generation_of[key] for key in clip_of if generation_of[key]["chroma"]]
    comparisons = Comparisons(context, config.codec, melodic, request_of)
    likeness = Likeness(context, config.clap, config.vocabulary) if config.clap else None
    chosen = chosen_clips(config.untrained_clips, generation_of.values())
    compared = [row for row in melodic if key_of(row) in chosen and context.library.checkpoint(row["checkpoint_id"])]
    waiting = {key_of(row) for row in compared}
    alone = ((key, None) for key in clip_of if key not in waiting)
    beside = (
        (key_of(row), codes) for row, codes in generate_untrained(context, config.untrained_seed, compared, request_of)
    )
    for key, untrained in chain(alone, beside):
        context.check_stopped()
        clip, request, generation = clip_of[key], request_of[key[0]], generation_of[key]
        borders = window_borders(generation, windows[generation["checkpoint_id"]], config.stride)
        part = _score(context, clip, request, generation, borders, comparisons, likeness, untrained)
        context.progress.advance()
        yield part


def _score(
    context: Context,
    clip: Row,
    request: Row,
    generation: Row,
    borders: Sequence[float],
    comparisons: "Comparisons",
    likeness: "Likeness | None",
    untrained: "Tensor | None",
) -> Shard:
    """Score a clip, beside the codes [K, T] that an untrained model made of its request where there are such."""
    from stages.audio import AudioError, read_audio

    try:
        recording = read_audio(f"{context.store.url.rstrip('/')}/{clip['path']}")
    except AudioError as error:
        key = f"{clip['request_id']}/{clip['take']}"
        return Shard([], [Reject(key, clip["path"], error.kind, str(error), passing=error.passing)])
    row = {"request_id": clip["request_id"], "take": clip["take"], "seconds_asked": request["seconds"]}
    row |= {"seconds": recording.seconds, "silence": clip["silence"], "clipping": clip["clipping"]}
    row |= _sound_scores(recording, borders)
    row |= _melody_scores(recording, generation, comparisons, untrained) | _key_and_tempo_scores(recording, request)
    if likeness is not None:
        windows = likeness.embed(recording)
        row |= {"embeddings": list(windows), "clap_similarity": likeness.to_words(windows, request["description"])}
    return Shard([row])


def _sound_scores(recording: "DecodedAudio", borders: Sequence[float]) -> dict[str, Any]:
    """Score the sound by itself, with the times at which its decoding windows meet."""
    import torch

    from stages.audio import to_mono
    from stages.evaluate.seams import seam_contrast
    from stages.evaluate.sound import measure_sound, mel_statistics

    mono = torch.from_numpy(to_mono(recording.samples)[0])
    scores = asdict(measure_sound(recording.samples, recording.sample_rate))
    scores["seam_contrast"] = seam_contrast(mono, recording.sample_rate, borders)
    return scores | {"mel_statistics": mel_statistics(mono, recording.sample_rate)}


def _melody_scores(
    recording: "DecodedAudio", generation: Row, comparisons: "Comparisons", untrained: "Tensor | None"
) -> dict[str, float | None]:
    if not generation["chroma"]:
        return {}
    chroma = comparisons.chroma_of(recording.samples, recording.sample_rate, generation)
    return {
        "chroma_similarity": comparisons.similarity(chroma, generation),
        "chroma_similarity_chance": comparisons.chance_similarity(chroma, generation),
        "chroma_similarity_untrained": None
        if untrained is None
        else comparisons.decoded_similarity(untrained, generation),
        "chroma_similarity_ceiling": comparisons.ceiling(generation),
    }


def _key_and_tempo_scores(recording: "DecodedAudio", request: Row) -> dict[str, Any]:
    """Score key and tempo where the request names them; `…_correct` is null where none was found in the clip."""
    import torch

    from stages.audio import to_mono
    from stages.evaluate.listening import estimate_key, estimate_tempo, pitch_class_profile, tempo_is_correct

    scores: dict[str, Any] = {}
    mono = torch.from_numpy(to_mono(recording.samples)[0])
    asked_key = parse_key(request["key"]) if request["key"] else None
    if asked_key is not None:
        key = estimate_key(pitch_class_profile(mono, recording.sample_rate))
        scores |= {"key_asked": asked_key, "key": key.name if key else None}
        scores |= {"key_correct": key.name == asked_key if key else None}
    if request["bpm"] is not None:
        bpm = estimate_tempo(mono, recording.sample_rate)
        scores |= {"bpm_asked": request["bpm"], "bpm": bpm}
        scores |= {"bpm_correct": None if bpm is None else tempo_is_correct(request["bpm"], bpm)}
    return scores
