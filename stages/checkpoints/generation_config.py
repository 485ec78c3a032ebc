"""The knobs of generation, how a checkpoint is named in them, and which of them and of the tables have a say.

Two stages generate a catalog's clips with them: `generate`, and `gate`, which makes again what did not pass.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

import schemas
from model.lm.config import STRIDE, CachePrecision, Precision
from schemas import WeightsRef
from schemas.identity import fingerprint
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS, Row
from schemas.weights import LocalWeights, WeightsNotFetched
from stages.checkpoints.loading import named_text_encoder, read_condition_names
from stages.networks.published import (
    ENCODEC_32KHZ,
    HTDEMUCS,
    LAION_CLAP,
    MELODY_MODELS,
    ROBERTA_VOCABULARY,
    TEXT_MODELS,
)
from stages.pipeline.contract import Dependencies

CONSULTED = (TRACKS, CHROMA, CLAP, TOKENS)
"""The tables that conditions are looked up in."""

CONDITION_FIELDS = {CHROMA.name: ("separator",), CLAP.name: ("clap", "vocabulary")}
"""Conditions, whose tables bear their names -> the fields of the configuration whose weights make them of a file."""


def _checkpoint_reference(value: Any) -> Any:
    """Turn `latest` and the ids of checkpoints into references to weights."""
    if value == "latest":
        return WeightsRef.to_checkpoint("language_model")
    if isinstance(value, str) and value and not set(value) & set(":/."):
        return WeightsRef.to_checkpoint(value)
    return value


def is_foreign(checkpoint: str) -> bool:
    """Tell whether a checkpoint, as `GenerationConfig.checkpoint` names it, is none of the store's own."""
    return WeightsRef(_checkpoint_reference(checkpoint)).checkpoint is None


def is_newest(checkpoint: str) -> bool:
    """Tell whether a checkpoint, as `GenerationConfig.checkpoint` names it, is the newest of the recipe."""
    return WeightsRef(_checkpoint_reference(checkpoint)).checkpoint == "language_model"


class GenerationConfig(schemas.Config):
    """Names the model that generates, and what reads the files and words that requests refer to."""

    checkpoint: Annotated[WeightsRef, BeforeValidator(_checkpoint_reference)] = WeightsRef("checkpoint:language_model")
    """The language model: `latest`, the newest of this recipe; the `checkpoint_id` of one to stay with; or one from
    elsewhere, by its folder (`./small`), hub id or URL."""
    text_encoder: WeightsRef | None = None
    """The T5 that reads descriptions, where the checkpoint only names it, as AudioCraft's do and trainings with a
    frozen one; None takes it by that name."""
    stride: float = Field(default=STRIDE, gt=0, lt=1)
    """A clip longer than the windows that the model was trained on is made window by window. Each begins so much later
    than the one before, as a share of a window, and goes on from its end (AudioCraft: `extend_stride`, 18 s of 30)."""
    guidance_form: Literal["one_pass", "two_pass"] = "one_pass"
    """Whether guidance's null is padded to the length of the conditions, or has a pass and a length of its own
    (AudioCraft: `two_step_cfg`, off)."""
    precision: Precision = "float32"
    """Precision of the model's weights while it decodes. Less is faster and gives other codes now and then: of random
    weights' greedy codes `float16` changes next to none, `int8` about one in ten (tests/benchmarks/RESULTS.md), and
    more on a CPU without VNNI, where it is of 7 bits. On one that has no instructions for `bfloat16` take `float16`.
    Weights that are numbers of float16, as the published ones are, lose nothing by it: of those a CPU may read half as
    much in `float32` too, where that is faster there."""
    cache_precision: CachePrecision = "float32"
    """Precision of the keys and values of a clip's earlier steps. On a GPU `bfloat16` halves and `int8`, with a scale
    for each head and step, nearly quarters what a step of many clips reads, and how many fit; on a CPU it saves memory
    alone, and takes longer. Other codes come of it now and then: docs/performance.md says how many."""
    codec: WeightsRef | None = ENCODEC_32KHZ
    """What encodes prompts that are files. In a recipe it is `tokenize.codec` unless it is given, or the codec inside
    `checkpoint` where that is one from elsewhere. None refuses such prompts."""
    separator: WeightsRef | None = HTDEMUCS
    """What separates melodies that are files; in a recipe `chroma.separator` unless it is given. None takes the full
    mix."""
    clap: WeightsRef | None = LAION_CLAP
    """What embeds words and files for CLAP; in a recipe `clap.model` unless it is given. None refuses them."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, which a LAION checkpoint in `clap` reads words with; in a recipe `clap.vocabulary` unless
    it is given. A model folder has its own."""


def generation_dependencies(config: GenerationConfig, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Leave out what the model does not read: the weights that make those conditions (a request for them is refused)
    and their tables. For a model from elsewhere all tables but `tracks`, which says where recordings are. A text
    encoder that the model only names has a say.

    Raises:
        NotTrainedYet: an earlier stage is still to train the checkpoint.
        WeightsNotFetched: it cannot be had; one of which it is known that it reads melodies names its separator too,
            and one of which nothing is known all that it may turn out to need.
        ValueError: it is none.
    """
    try:
        folder = weights(config.checkpoint).path
    except WeightsNotFetched as error:
        model = config.checkpoint.hub_model
        if model in TEXT_MODELS:
            raise
        read = [CHROMA.name] if model in MELODY_MODELS else [*CONDITION_FIELDS]
        makers = [getattr(config, field) for condition in read for field in CONDITION_FIELDS[condition]]
        needs = [reference for reference in makers if reference is not None]
        if model in MELODY_MODELS:
            raise WeightsNotFetched([*error.references, *needs], error.why) from error
        raise WeightsNotFetched(error.references, error.why, perhaps=needs) from error
    reads = read_condition_names(folder)
    named = named_text_encoder(folder)
    changes: dict[str, WeightsRef | None] = {"text_encoder": named and (config.text_encoder or named)}
    consults = [TRACKS] if is_foreign(config.checkpoint) else [*CONSULTED]
    for condition, fields in CONDITION_FIELDS.items():
        if condition not in reads:
            changes |= dict.fromkeys(fields)
            consults = [table for table in consults if table.name != condition]
    return Dependencies(config.model_copy(update=changes), tuple(consults))


def take_seed(seed: int, take: int, retake: int = 0) -> int:
    """Return the seed of a take of a request: the first has the request's own, so that more takes leave it as it is.

    Args:
        take: its number, from 1.
        retake: how many tries of the take came before; each has a seed that is no other take's.
    """
    before = take - 1  # by which seeds were told apart when takes were numbered from 0: the same clips come of them
    if retake:
        return int(fingerprint([seed, before, retake])[:15], 16)
    return int(fingerprint([seed, before])[:15], 16) if before else seed


def leaves_nothing_to_chance(request: Row) -> bool:
    """Return whether every seed makes the same of a row of `requests` (`model.decoding.sampling`)."""
    return bool(request["temperature"] == 0 or (request["top_p"] == 0 and request["top_k"] == 1))
