"""Generations: the codes that a trained model makes for each request and take (MusicGen, arXiv:2306.05284, 3).

A take's codes depend on the model, the request and the take's seed alone, never on what is generated beside it or on
how often the work was broken off (`model.decoding.generation` says how). Conditions are read from the versions of the
tables that the model learned from, so that codes and embeddings of another codec or CLAP never reach it. A model from
elsewhere has learned from none: what a request of it refers to is computed from the recordings themselves.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas import WeightsRef
from schemas.identity import fingerprint
from schemas.tables import CHROMA, CLAP, GENERATIONS, REQUESTS, TOKENS, TRACKS, Row
from schemas.weights import LocalWeights
from stages.audio.references import RequestRefused
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.loading import read_condition_names
from stages.generate.config import Config, is_foreign, is_newest
from stages.pipeline.contract import Context, Dependencies, Reject, Shard

if TYPE_CHECKING:
    from torch import Tensor

    from model.decoding.generation import GenerationRequest
    from stages.checkpoints.native import TrainedModel

__all__ = [
    "CONDITION_FIELDS",
    "CONSULTS",
    "READS",
    "VERSION",
    "WRITES",
    "Config",
    "dependencies",
    "is_foreign",
    "is_newest",
    "shard",
]

READS, CONSULTS, WRITES, VERSION = (REQUESTS,), (TRACKS, CHROMA, CLAP, TOKENS), GENERATIONS, 2

AT_ONCE = {"cpu": 64, "cuda": 512}
"""Takes whose conditions are in memory together, by device: several times what it decodes at once, so that few slots
are left empty while the last are finished."""

CONDITION_FIELDS = {CHROMA.name: ("separator",), CLAP.name: ("clap", "vocabulary")}
"""Conditions, whose tables bear their names -> the fields of Config whose weights make them of a file."""

log = logging.getLogger(__name__)


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Leave out what the model does not read: the weights that make those conditions (a request for them is refused)
    and their tables. For a model from elsewhere all tables but `tracks`, which says where recordings are.

    Raises:
        NotTrainedYet: an earlier stage is still to train the checkpoint.
        ValueError: it is none, or cannot be had.
    """
    reads = read_condition_names(weights(config.checkpoint).path)
    unread: dict[str, None] = {}
    consults = [TRACKS] if is_foreign(config.checkpoint) else [*CONSULTS]
    for condition, fields in CONDITION_FIELDS.items():
        if condition not in reads:
            unread |= dict.fromkeys(fields)
            consults = [table for table in consults if table.name != condition]
    return Dependencies(config.model_copy(update=unread), tuple(consults))


def shard(config: Config, context: Context, requests: pa.Table) -> Iterator[Shard]:
    """Generate every take of the requests.

    Raises:
        ValueError: the checkpoint is no language model, or its weights are broken.
        MissingWeights: weights that a request needs cannot be had.
    """
    from stages.checkpoints.generation import generation_request
    from stages.checkpoints.loading import load_checkpoint
    from stages.generate.conditions import ConditionReader, clip_frames

    local = context.weights(config.checkpoint)
    trained = load_checkpoint(local.path, context.weights, context.device)
    reader = ConditionReader(context, trained.facts, config)
    rows = requests.to_pylist()
    reader.read_rows(rows)
    takes: list[Row] = []
    clips: list[GenerationRequest] = []
    for row in rows:
        context.check_stopped()
        try:
            conditions = reader.read(row)
        except RequestRefused as error:
            message = f"line {row['line']}: {error}"
            yield Shard([], [Reject(row["request_id"], row["name"] or "", error.kind, message)])
            continue
        frames = clip_frames(trained.facts, row["seconds"])
        for take in range(row["takes"]):
            seed = _take_seed(row["seed"], take)
            takes.append(row | {"take": take})
            clips.append(
                generation_request(row, conditions, frames=frames, seed=seed, guidance_form=config.guidance_form)
            )
    checkpoint_id = local.digest[:16]
    if config.checkpoint.checkpoint is not None:
        checkpoint_id = str(context.checkpoint(config.checkpoint)["checkpoint_id"])
    yield from _generate(config, context, trained, takes, clips, checkpoint_id)


def _take_seed(seed: int, take: int) -> int:
    """Return the seed of a take: the first has the request's own, so that more takes leave it as it is."""
    return seed if take == 0 else int(fingerprint([seed, take])[:15], 16)


def _generate(
    config: Config,
    context: Context,
    trained: "TrainedModel",
    takes: list[Row],
    clips: "list[GenerationRequest]",
    checkpoint_id: str,
) -> Iterator[Shard]:
    """Generate clips and yield their rows.

    Args:
        takes: the rows of `requests` behind the clips, one for one, each with its `take`.
    """
    from model.decoding import MemoryPlan
    from stages.checkpoints.generation import generate_codes

    plan_text = ""

    def log_plan(plan: MemoryPlan) -> None:
        nonlocal plan_text
        if str(plan) != plan_text:
            log.info("%s", plan)
        plan_text = str(plan)

    context.progress.start("generate", sum(clip.frames - clip.prompt_frames for clip in clips), "frames")
    at_once = AT_ONCE[context.device]
    for first in range(0, len(clips), at_once):
        group = slice(first, first + at_once)
        try:
            codes_of_clips = generate_codes(
                context,
                trained.model,
                trained.facts,
                clips[group],
                stride=config.stride,
                precision=config.precision,
                progress=lambda frames: context.progress.advance(frames, plan_text),
                on_plan=log_plan,
            )
        except FloatingPointError as error:
            raise ValueError(f"expected a usable model in the checkpoint {checkpoint_id}: {error}") from error
        rows = [
            _generation_row(take, clip, codes, trained.facts, checkpoint_id)
            for take, clip, codes in zip(takes[group], clips[group], codes_of_clips, strict=True)
        ]
        yield Shard(rows)


def _generation_row(
    take: Row,
    clip: "GenerationRequest",
    codes: "Tensor",
    facts: CheckpointFacts,
    checkpoint_id: str,
) -> Row:
    """Make the row of a clip from its codes [K, T]."""
    from stages.generate.conditions import melody_over_clip

    melody, chroma = clip.attributes.chroma, facts.model.chroma
    return {
        "request_id": take["request_id"],
        "take": take["take"],
        "checkpoint_id": checkpoint_id,
        "codec": facts.codec.identity if facts.codec else None,
        "channels": facts.codec.channels if facts.codec else None,
        "frame_rate": facts.frame_rate,
        "cardinality": facts.model.language_model.cardinality,
        "frames": clip.frames,
        "prompt_frames": clip.prompt_frames,
        "seed": clip.seed,
        "codes": list(codes.numpy().astype(np.uint16)),
        "chroma_frame_rate": None if melody is None or chroma is None else chroma.frame_rate,
        "chroma": None if melody is None else list(melody_over_clip(melody.numpy(), facts, take["seconds"])),
    }
