"""Scores: facts about every clip, and how well it follows what was asked for.

A clip's scores depend only on the clip and its request. Values to compare them with are columns beside them: the chance
level for the melody, and its ceiling, which is what the codec lets through. Comparisons that need generation, or that
are the same for all clips of a model, are made once by the stage `controls`. The stage `measure` puts both into a score
card.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

import schemas
from model.lm.config import STRIDE
from schemas import WeightsRef
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, SCORES, TOKENS, TRACKS, VERDICTS, Row
from schemas.weights import LocalWeights
from stages.networks.published import ENCODEC_32KHZ, LAION_CLAP, ROBERTA_VOCABULARY
from stages.pipeline.contract import Context, Dependencies, Reject, Shard

if TYPE_CHECKING:
    from stages.audio import DecodedAudio
    from stages.evaluate.ceilings import Ceilings
    from stages.evaluate.likeness import Likeness

READS, CONSULTS = (CLIPS, REQUESTS, GENERATIONS, VERDICTS), (TRACKS, TOKENS)
WRITES, VERSION = SCORES, 8
OPTIONAL = (TOKENS,)


class Config(schemas.Config):
    """The networks and settings that scores are made with."""

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec of the clips' codes, which decodes the recordings whose melodies are followed. In a recipe it is
    `tokenize.codec` unless it is given, or the codec inside `generate.checkpoint` if that is one from elsewhere."""
    clap: WeightsRef | None = LAION_CLAP
    """The CLAP model that compares clips with words and embeds them for the stage `nearest` (MusicGen, section 4,
    "CLAP"); in a recipe `clap.model` unless it is given. None leaves both out."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, for the words of a LAION checkpoint, which brings none; in a recipe `clap.vocabulary`
    unless it is given. None where `clap` is a folder."""
    stride: float = Field(default=STRIDE, gt=0, lt=1)
    """Distance from one window of a long clip to the next, as a share of a window, which says where its seams are. In a
    recipe it is `generate.stride` unless it is given."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the scores depend on. The vocabulary is left out if there is no CLAP model to compare words with."""
    return Dependencies(config if config.clap else config.model_copy(update={"vocabulary": None}), CONSULTS)


def shard(
    config: Config, context: Context, clips: pa.Table, requests: pa.Table, generations: pa.Table, verdicts: pa.Table
) -> Iterator[Shard]:
    """Yield the scores of every clip, or a reject if it cannot be read.

    Raises:
        ValueError: the codec is not the one that the store's codes came from.
        MissingWeights: weights that the scores need are not available.
    """
    from stages.audio import AudioError, read_audio
    from stages.evaluate.ceilings import Ceilings
    from stages.evaluate.likeness import Likeness
    from stages.evaluate.scoring import score_sound
    from stages.judging.asking import asked_by_request
    from stages.judging.instruments import InstrumentJudges
    from stages.judging.seams import window_borders, window_frames
    from stages.judging.tries import chosen_try

    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    generation_of = {(row["request_id"], row["take"]): row for row in generations.to_pylist()}
    verdict_of = {(row["request_id"], row["take"]): row for row in verdicts.to_pylist()}
    keyed = (((row["request_id"], row["take"]), row) for row in clips.to_pylist())
    rows = [(row, chosen_try(verdict_of[key], generation_of[key])) for key, row in keyed]
    context.progress.start("evaluate", len(rows), "clips")
    checkpoints = {generation["checkpoint_id"] for _, generation in rows}
    windows = {checkpoint: window_frames(context, checkpoint) for checkpoint in checkpoints}
    ceilings = Ceilings(context, config.codec, [row for _, row in rows if row["chroma"]], request_of)
    judges = InstrumentJudges(context)
    likeness = Likeness(context, config.clap, config.vocabulary) if config.clap else None
    for clip, generation in rows:
        context.check_stopped()
        request = request_of[clip["request_id"]]
        try:
            recording = read_audio(f"{context.store.url.rstrip('/')}/{clip['path']}")
        except AudioError as error:
            key = f"{clip['request_id']}/{clip['take']}"
            part = Shard([], [Reject(key, clip["path"], error.kind, str(error), passing=error.passing)])
        else:
            borders = window_borders(generation, windows[generation["checkpoint_id"]], config.stride)
            detected = judges.detect(generation)
            asked = asked_by_request(request, detected.names if detected else ())
            scores = score_sound(recording.samples, recording.sample_rate, asked, borders, detected)
            scores |= {name: clip[name] for name in ("request_id", "take", "silence", "clipping")}
            scores |= {"seconds_asked": request["seconds"]}
            scores |= _melody_scores(context, recording, generation, ceilings)
            scores |= {} if likeness is None else _text_scores(recording, request, likeness)
            part = Shard([scores])
        context.progress.advance()
        yield part


def _melody_scores(
    context: Context, recording: "DecodedAudio", generation: Row, ceilings: "Ceilings"
) -> dict[str, float | None]:
    from stages.judging.melody import Melody, melody_analysis

    melody, analysis = Melody.of_row(generation), melody_analysis(context, [generation["checkpoint_id"]])
    if melody is None or analysis is None:
        return {}
    scores: dict[str, float | None] = {**melody.scores(recording.samples, recording.sample_rate, analysis)}
    return scores | {"chroma_similarity_ceiling": ceilings.of(generation, melody, analysis)}


def _text_scores(recording: "DecodedAudio", request: Row, likeness: "Likeness") -> dict[str, Any]:
    from stages.evaluate.likeness import mean_similarity

    windows, words = likeness.embed(recording), likeness.embed_words(request["description"])
    scores = {"embeddings": list(windows), "clap_similarity": mean_similarity(windows, words)}
    return scores | {"description_embedding": words}
