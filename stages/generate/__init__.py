"""Generations: the codes that a trained model makes for each request and take (MusicGen, arXiv:2306.05284, 3).

A take's codes depend only on the model, the request and the take's seed. They do not depend on what is generated at the
same time or on how often the work was interrupted (`model.decoding.generation` says why). Conditions are read from the
versions of the tables that the model learned from, so that it never reads codes or embeddings of another codec or CLAP.
A model from elsewhere has learned from no table: conditions that a request refers to are computed from the recordings
themselves.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas.tables import GENERATIONS, REQUESTS, Row
from stages.audio.references import RequestRefused
from stages.checkpoints.adapter_files import uses_of
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.generation_config import CONDITION_FIELDS, CONSULTED, is_foreign, is_newest, take_seed
from stages.checkpoints.generation_config import GenerationConfig as Config
from stages.checkpoints.generation_config import generation_dependencies as dependencies
from stages.generate.pace import Pace
from stages.pipeline.contract import Context, Reject, Shard

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

READS, CONSULTS, WRITES, VERSION = (REQUESTS,), CONSULTED, GENERATIONS, 4
OUTDATED = {3: "takes count from 0 in it"}

AT_ONCE = {"cpu": 256, "cuda": 512}
"""Takes whose conditions are in memory at once, by device. It is several times the number of takes that are decoded at
once, so that few slots are empty while the last takes are finished."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Take:
    """A take that is to be generated."""

    row: Row
    """The row of the request."""
    number: int
    clip: "GenerationRequest"


@dataclass(frozen=True)
class _MadeBy:
    """The models behind codes, as `checkpoints` and `weights` name them."""

    checkpoint_id: str
    """The id of a model of the store; for another model the digest of its files."""
    codec: str | None
    """The digest of the codec's files; None where it is unknown."""


def shard(config: Config, context: Context, requests: pa.Table) -> Iterator[Shard]:
    """Generate every take of the requests that is not kept already, and yield its row as soon as its codes are
    complete.

    Raises:
        ValueError: the checkpoint is not a language model, or its weights are broken.
        MissingWeights: weights that a request needs cannot be fetched.
    """
    generator = context.borrow("generator", lambda: load_generator(config, context))
    yield from generate_rows(config, context, generator, requests.to_pylist())


@dataclass(frozen=True, eq=False)
class Generator:
    """A model in memory, ready to generate."""

    trained: "TrainedModel"
    made_by: _MadeBy


def load_generator(config: Config, context: Context) -> Generator:
    """Load the model that generates.

    Raises:
        ValueError: the checkpoint is not a language model, or its weights are broken.
        MissingWeights: its weights cannot be fetched.
    """
    from stages.checkpoints.loading import load_checkpoint

    local = context.weights(config.checkpoint)
    trained = load_checkpoint(local.path, context.weights, context.device, config.text_encoder)
    checkpoint_id = local.digest
    if config.checkpoint.checkpoint is not None:
        checkpoint_id = str(context.checkpoint(config.checkpoint)["checkpoint_id"])
    codec = trained.facts.codec.digest if trained.facts.codec else None
    if codec is None and trained.codec is not None:
        codec = local.digest  # it is in the model's folder
    return Generator(trained, _MadeBy(checkpoint_id, codec))


def generate_rows(config: Config, context: Context, generator: Generator, requests: list[Row]) -> Iterator[Shard]:
    """Generate every take of some rows of `requests` that is not kept already, and yield its row as soon as its codes
    are complete.

    Raises:
        ValueError: the model's weights are broken.
        MissingWeights: weights that a request needs cannot be fetched.
    """
    trained, made_by = generator.trained, generator.made_by
    batch: list[_Take] = []
    pace = Pace(context.progress)
    for take in _takes(config, context, trained.facts, requests, pace):
        if isinstance(take, Reject):
            yield Shard([], [take])
            continue
        batch.append(take)
        if len(batch) == AT_ONCE[context.device]:
            yield from _generate(config, context, trained, batch, made_by, pace)
            batch = []
    yield from _generate(config, context, trained, batch, made_by, pace)


def _takes(
    config: Config, context: Context, facts: CheckpointFacts, rows: list[Row], pace: Pace
) -> Iterator[_Take | Reject]:
    """Read the conditions of requests one by one, and yield their takes that are not kept already, or the reject of a
    refused request."""
    from stages.checkpoints.conditions import ConditionReader, clip_frames, prompt_frames
    from stages.checkpoints.generation import generation_request

    missing = [(row, numbers) for row in rows if (numbers := _missing_takes(row, context.kept))]
    frames = [
        len(numbers) * (clip_frames(facts, row["seconds"]) - prompt_frames(facts, row)) for row, numbers in missing
    ]
    pace.start(sum(frames))
    reader = ConditionReader(context, facts, config)
    reader.read_rows([row for row, _ in missing])
    for (row, numbers), new_frames in zip(missing, frames, strict=True):
        context.check_stopped()
        try:
            conditions = reader.read(row)
        except RequestRefused as error:
            pace.skip(new_frames)
            message = f"line {row['line']}: {error}"
            yield Reject(row["request_id"], row["name"] or "", error.kind, message, passing=error.passing)
            continue
        if facts.distilled_guidance is not None and not row["guidance_asked"]:
            remark = (
                f"requests without guidance are generated with 1, in one pass: the checkpoint has learned "
                f"guidance {facts.distilled_guidance:g}"
            )
            context.remarks.add(remark, "requests.guidance", row["name"] or f"line {row['line']}")
        for number in numbers:
            clip = generation_request(
                row,
                conditions,
                facts,
                frames=clip_frames(facts, row["seconds"]),
                seed=take_seed(row["seed"], number),
                guidance_form=config.guidance_form,
            )
            yield _Take(row, number, clip)


def _missing_takes(row: Row, kept: frozenset[tuple[str, ...]]) -> list[int]:
    """Return the numbers of a request's takes that are not made yet."""
    return [number for number in range(1, row["takes"] + 1) if (row["request_id"], str(number)) not in kept]


def _generate(
    config: Config, context: Context, trained: "TrainedModel", takes: list[_Take], made_by: _MadeBy, pace: Pace
) -> Iterator[Shard]:
    """Generate takes together, and yield the row of each as soon as its codes are complete."""
    from model.decoding import MemoryPlan
    from stages.checkpoints.generation import generate_codes

    plan_text = ""

    def log_plan(plan: MemoryPlan) -> None:
        nonlocal plan_text
        plan_text = str(plan)
        log.info("%s", plan)

    finished = generate_codes(
        context,
        trained.model,
        trained.facts,
        [take.clip for take in takes],
        adapters=[uses_of(take.row) for take in takes],
        stride=config.stride,
        precision=config.precision,
        cache_precision=config.cache_precision,
        progress=lambda frames: pace.advance(frames, plan_text),
        on_plan=log_plan,
    )
    pace.begin_batch()
    try:
        for index, codes in finished:
            pace.tell(takes[index].clip.frames - takes[index].clip.prompt_frames)
            yield Shard([_generation_row(takes[index], codes, trained.facts, made_by)])
    except FloatingPointError as error:
        raise ValueError(f"expected a usable model in the checkpoint {made_by.checkpoint_id}: {error}") from error


def _generation_row(take: _Take, codes: "Tensor", facts: CheckpointFacts, made_by: _MadeBy) -> Row:
    """Return the row of a take with its codes [K, T]."""
    from stages.checkpoints.conditions import melody_over_clip

    clip, chroma = take.clip, facts.model.chroma
    melody = clip.attributes.chroma
    return {
        "request_id": take.row["request_id"],
        "take": take.number,
        "checkpoint_id": made_by.checkpoint_id,
        "codec": made_by.codec,
        "codec_identity": facts.codec.identity if facts.codec else None,
        "channels": facts.codec.channels if facts.codec else None,
        "frame_rate": facts.frame_rate,
        "cardinality": facts.model.language_model.cardinality,
        "frames": clip.frames,
        "prompt_frames": clip.prompt_frames,
        "seed": clip.seed,
        "codes": list(codes.numpy().astype(np.uint16)),
        "chroma_frame_rate": None if melody is None or chroma is None else chroma.frame_rate,
        "chroma": None if melody is None else list(melody_over_clip(melody.numpy(), facts, take.row["seconds"])),
        "created_at": datetime.now(UTC),
    }
