"""Generations: the codes that a trained model makes for each request and take (MusicGen, arXiv:2306.05284, 3).

A take's codes depend on the model, the request and the take's seed alone, never on what is generated beside it or on
how often the work was broken off (`model.generation` says how). Conditions are read from the versions of the tables
that the model learned from, so that codes and embeddings of another codec or CLAP never reach it. A model from
elsewhere has learned from none: what a request of it refers to is computed from the recordings themselves.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

import schemas
from model.configuration import Precision
from schemas import WeightsRef
from schemas.identity import fingerprint
from schemas.tables import CHROMA, CLAP, GENERATIONS, REQUESTS, TOKENS, TRACKS
from schemas.weights import LocalWeights
from stages.checkpoints.forms import conditions_of
from stages.contract import Context, Needs, Reject, Shard, Stopped
from stages.generation.strides import STRIDE, stride_frames

if TYPE_CHECKING:
    from model.generation import GenerationRequest
    from stages.checkpoints.folder import TrainedModel
    from stages.generation.conditions import Given

READS, CONSULTS, WRITES, VERSION = (REQUESTS,), (TRACKS, CHROMA, CLAP, TOKENS), GENERATIONS, 2

AT_ONCE = {"cpu": 64, "cuda": 512}
"""Takes whose conditions are in memory together, by device: several times what it decodes at once, so that few slots
are left empty while the last are finished."""

log = logging.getLogger(__name__)


def _reference(value: Any) -> Any:
    """`latest` and the ids of checkpoints as references to weights."""
    if value == "latest":
        return "checkpoint:language_model"
    if isinstance(value, str) and value and not set(value) & set(":/."):
        return f"checkpoint:{value}"
    return value


def is_foreign(checkpoint: str) -> bool:
    """Whether a checkpoint, as `Config.checkpoint` names it, is none of the store's own."""
    return not str(_reference(checkpoint)).startswith("checkpoint:")


class Config(schemas.Config):
    """Which model generates, and what reads the files and words that requests refer to."""

    checkpoint: Annotated[WeightsRef, BeforeValidator(_reference)] = WeightsRef("checkpoint:language_model")
    """The language model: `latest`, the newest of this recipe; the `checkpoint_id` of one to stay with; or one from
    elsewhere, by its folder (`./small`), hub id or URL."""
    stride: float = Field(default=STRIDE, gt=0, lt=1)
    """A clip longer than the windows that the model was trained on is made window by window. Each begins so much later
    than the one before, as a share of a window, and goes on from its end (AudioCraft: `extend_stride`, 18 s of 30)."""
    guidance_form: Literal["one_pass", "two_pass"] = "one_pass"
    """Whether guidance's null is padded to the length of the conditions, or has a pass and a length of its own
    (AudioCraft: `two_step_cfg`, off)."""
    precision: Precision = "float32"
    """Of the model's weights while it decodes. Less is faster and gives other codes now and then: of random weights'
    greedy codes `float16` changes next to none, `int8` about one in ten (tests/benchmarks/RESULTS.md)."""
    codec: WeightsRef | None = WeightsRef("facebook/encodec_32khz")
    """What encodes prompts that are files: the codec that `tokenize` used. None refuses them."""
    separator: WeightsRef | None = WeightsRef("demucs:htdemucs")
    """What separates melodies that are files: the separator that `chroma` used. None takes the full mix."""
    clap: WeightsRef | None = WeightsRef("lukewys/laion_clap/music_audioset_epoch_15_esc_90.14.pt")
    """What embeds words and files for CLAP: the model that `clap` used. None refuses them."""
    vocabulary: WeightsRef | None = WeightsRef("FacebookAI/roberta-base/tokenizer.json")
    """RoBERTa's vocabulary, which a LAION checkpoint in `clap` reads words with; a model folder has its own."""


def needs(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Needs:
    """Of a model from elsewhere no more than what makes the conditions that it reads. The others have no say: a request
    for them is refused. The table `tracks` says where recordings are.

    Raises:
        ValueError: the checkpoint is none, or cannot be had.
    """
    if not is_foreign(config.checkpoint):
        return Needs(config, CONSULTS)
    reads = conditions_of(weights(config.checkpoint).path)
    unread: dict[str, None] = {}
    if "chroma" not in reads:
        unread |= {"separator": None}
    if "clap" not in reads:
        unread |= {"clap": None, "vocabulary": None}
    return Needs(config.model_copy(update=unread), (TRACKS,))


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
    from stages.generation.conditions import Conditions, Models
    from stages.generation.sources import RequestRefused

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
    if config.checkpoint.startswith("checkpoint:"):
        return str(context.checkpoint(config.checkpoint)["checkpoint_id"])
    return digest[:16]


def _generate(
    config: Config, context: Context, trained: "TrainedModel", takes: list[_Take], checkpoint_id: str
) -> list[dict]:
    from model.decoding import GenerationStoppedError, MemoryPlan
    from model.windows import generate_long
    from stages.generation.machine import resources_of

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
    from model.generation import GenerationRequest

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
