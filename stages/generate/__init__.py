"""Generations: the codes that a trained model makes for each request and take (MusicGen, arXiv:2306.05284, 3).

A take's codes depend on the model, the request and the take's seed alone, never on what is generated beside it or on
how often the work was broken off (`model.decoding.generation` says how). Conditions are read from the versions of the
tables that the model learned from, so that codes and embeddings of another codec or CLAP never reach it. A model from
elsewhere has learned from none: what a request of it refers to is computed from the recordings themselves.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.lm.config import stride_frames
from schemas import WeightsRef
from schemas.identity import fingerprint
from schemas.tables import CHROMA, CLAP, GENERATIONS, REQUESTS, TOKENS, TRACKS
from schemas.weights import LocalWeights
from stages.checkpoints.forms import conditions_of
from stages.generate.config import Config, is_foreign
from stages.pipeline.contract import Context, Dependencies, Reject, Shard, Stopped

if TYPE_CHECKING:
    from model.decoding.generation import GenerationRequest
    from stages.checkpoints.native import TrainedModel
    from stages.generate.conditions import Given

READS, CONSULTS, WRITES, VERSION = (REQUESTS,), (TRACKS, CHROMA, CLAP, TOKENS), GENERATIONS, 2

AT_ONCE = {"cpu": 64, "cuda": 512}
"""Takes whose conditions are in memory together, by device: several times what it decodes at once, so that few slots
are left empty while the last are finished."""

log = logging.getLogger(__name__)


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Of a model from elsewhere no more than what makes the conditions that it reads. The others have no say: a request
    for them is refused. The table `tracks` says where recordings are.

    Raises:
        ValueError: the checkpoint is none, or cannot be had.
    """
    if not is_foreign(config.checkpoint):
        return Dependencies(config, CONSULTS)
    reads = conditions_of(weights(config.checkpoint).path)
    unread: dict[str, None] = {}
    if "chroma" not in reads:
        unread |= {"separator": None}
    if "clap" not in reads:
        unread |= {"clap": None, "vocabulary": None}
    return Dependencies(config.model_copy(update=unread), (TRACKS,))


@dataclass(frozen=True)
class _Take:
    """One clip to generate."""

    row: Mapping[str, Any]
    number: int
    given: "Given"

    @property
    def seed(self) -> int:
        """The first take has the request's own seed, so that more takes leave it as it is."""
        seed = self.row["seed"]
        return seed if self.number == 0 else int(fingerprint([seed, self.number])[:15], 16)


def shard(config: Config, context: Context, requests: pa.Table) -> Shard:
    """The generations of every take of the requests.

    Raises:
        ValueError: the checkpoint is no language model, or its weights are broken.
        MissingWeights: weights that a request needs cannot be had.
    """
    from stages.checkpoints.loading import load_checkpoint
    from stages.generate.conditions import Conditions, Models
    from stages.generate.sources import RequestRefused

    local = context.weights(config.checkpoint)
    trained = load_checkpoint(local.path, context.weights, context.device)
    models = Models(config.codec, config.separator, config.clap, config.vocabulary)
    conditions = Conditions(context, trained.facts, models)
    rows = requests.to_pylist()
    conditions.look_up(rows)
    takes: list[_Take] = []
    rejects = []
    for row in rows:
        context.check_stopped()
        try:
            given = conditions.of(row)
        except RequestRefused as error:
            message = f"line {row['line']}: {error}"
            rejects.append(Reject(row["request_id"], row["name"] or "", error.kind, message))
            continue
        takes += [_Take(row, number, given) for number in range(row["takes"])]
    checkpoint_id = _checkpoint_id(config, context, local.digest)
    return Shard(_generate(config, context, trained, takes, checkpoint_id), rejects)


def _checkpoint_id(config: Config, context: Context, digest: str) -> str:
    if config.checkpoint.checkpoint is not None:
        return str(context.checkpoint(config.checkpoint)["checkpoint_id"])
    return digest[:16]


def _generate(
    config: Config, context: Context, trained: "TrainedModel", takes: list[_Take], checkpoint_id: str
) -> list[dict]:
    from model.decoding import GenerationStoppedError, MemoryPlan
    from model.decoding.windows import generate_long
    from stages.pipeline.machine import resources_of

    reading = ""

    def tell(plan: MemoryPlan) -> None:
        nonlocal reading
        if str(plan) != reading:
            log.info("%s", plan)
        reading = str(plan)

    facts, chroma, rows = trained.facts, trained.facts.model.chroma, []
    window = facts.segment_frames
    asked = [_asked(take, config) for take in takes]
    context.progress.start("generate", sum(one.frames - one.prompt_frames for one in asked), "frames")
    at_once = AT_ONCE[context.device]
    for first in range(0, len(takes), at_once):
        part = slice(first, first + at_once)
        try:
            made = generate_long(
                trained.model,
                asked[part],
                window=window,
                stride=stride_frames(config.stride, window),
                frame_rate=facts.frame_rate,
                precision=config.precision,
                stop=context.stop.is_set,
                progress=lambda frames: context.progress.advance(frames, reading),
                resources=resources_of(context, tell),
            )
        except GenerationStoppedError as error:
            raise Stopped(str(error)) from error
        except FloatingPointError as error:
            raise ValueError(f"expected a usable model in the checkpoint {checkpoint_id}: {error}") from error
        for take, one, codes in zip(takes[part], asked[part], made, strict=True):
            melody = take.given.melody
            rows.append(
                {
                    "request_id": take.row["request_id"],
                    "take": take.number,
                    "checkpoint_id": checkpoint_id,
                    "codec": facts.codec.identity if facts.codec else None,
                    "channels": facts.codec.channels if facts.codec else None,
                    "frame_rate": facts.frame_rate,
                    "cardinality": facts.model.language_model.cardinality,
                    "frames": one.frames,
                    "prompt_frames": one.prompt_frames,
                    "seed": take.seed,
                    "codes": list(codes.numpy().astype(np.uint16)),
                    "chroma_frame_rate": None if melody is None or chroma is None else chroma.frame_rate,
                    "chroma": None if melody is None else list(melody),
                }
            )
    return rows


def _asked(take: _Take, config: Config) -> "GenerationRequest":
    from model.decoding.generation import GenerationRequest

    row = take.row
    return GenerationRequest(
        attributes=take.given.attributes,
        frames=take.given.frames,
        seed=take.seed,
        guidance=row["guidance"],
        guidance_text=1.0 if row["guidance_text"] is None else row["guidance_text"],
        guidance_form=config.guidance_form,
        temperature=row["temperature"],
        top_k=row["top_k"],
        top_p=row["top_p"],
        prompt=take.given.prompt,
    )
