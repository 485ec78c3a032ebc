"""The knobs of generation, how they name a checkpoint, and which of them and of the tables a clip depends on.

Two stages generate a catalog's clips with these knobs: `generate`, and `gate`, which generates again what did not pass.
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
"""Conditions, by the name of their table -> the fields of the configuration with the weights that compute them from a
file."""


def _checkpoint_reference(value: Any) -> Any:
    """Turn `latest` and the ids of checkpoints into references to weights."""
    if value == "latest":
        return WeightsRef.to_checkpoint("language_model")
    if isinstance(value, str) and value and not set(value) & set(":/."):
        return WeightsRef.to_checkpoint(value)
    return value


def is_foreign(checkpoint: str) -> bool:
    """Return whether a checkpoint, as `GenerationConfig.checkpoint` names it, is not one of the store's own."""
    return WeightsRef(_checkpoint_reference(checkpoint)).checkpoint is None


def is_newest(checkpoint: str) -> bool:
    """Return whether a checkpoint, as `GenerationConfig.checkpoint` names it, is the newest of the recipe."""
    return WeightsRef(_checkpoint_reference(checkpoint)).checkpoint == "language_model"


class GenerationConfig(schemas.Config):
    """The model that generates, and the models that read the files and words in requests."""

    checkpoint: Annotated[WeightsRef, BeforeValidator(_checkpoint_reference)] = WeightsRef("checkpoint:language_model")
    """The language model: `latest`, the newest of this recipe; the `checkpoint_id` of a fixed one; or one from
    elsewhere, by its folder (`./small`), hub id or URL."""
    text_encoder: WeightsRef | None = None
    """The T5 that reads descriptions, for a checkpoint that only names it, as AudioCraft's and those trained with a
    frozen encoder do; None takes the one that it names."""
    stride: float = Field(default=STRIDE, gt=0, lt=1)
    """A clip longer than the windows that the model was trained on is made window by window. This is the distance
    between the beginnings of two windows, as a share of a window; each window continues the one before (AudioCraft:
    `extend_stride`, 18 s of 30)."""
    guidance_form: Literal["one_pass", "two_pass"] = "one_pass"
    """Whether the null conditions of guidance are padded to the length of the conditions and share their pass, or have
    their own length in a second pass (AudioCraft: `two_step_cfg`, off)."""
    precision: Precision = "float32"
    """Precision of the model's weights while it decodes. Lower precision is faster and changes some codes: of the
    greedy codes of random weights, `float16` changes almost none and `int8` about one in ten
    (tests/benchmarks/RESULTS.md), more on a CPU without VNNI, where it has 7 bits. On a CPU without instructions for
    `bfloat16` take `float16`. Weights that are stored as float16, as the published ones are, lose nothing in `float16`;
    a CPU may read them at half size for `float32` too, where that is faster."""
    cache_precision: CachePrecision = "float32"
    """Precision of the keys and values of a clip's earlier steps. On a GPU `bfloat16` halves the bytes that a step of
    many clips reads and that a clip occupies, and `int8`, with a scale for each head and step, nearly quarters them; on
    a CPU it only saves memory, and takes longer. Some codes change: docs/performance.md says how many."""
    codec: WeightsRef | None = ENCODEC_32KHZ
    """The codec that encodes prompts that are files. In a recipe it is `tokenize.codec` unless it is given, or the
    codec inside `checkpoint` where that is one from elsewhere. None refuses such prompts."""
    separator: WeightsRef | None = HTDEMUCS
    """The model that separates melodies that are files; in a recipe it is `chroma.separator` unless it is given. None
    takes the full mix."""
    clap: WeightsRef | None = LAION_CLAP
    """The model that embeds words and files for CLAP; in a recipe it is `clap.model` unless it is given. None refuses
    them."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, with which a LAION checkpoint in `clap` reads words; in a recipe it is `clap.vocabulary`
    unless it is given. A model folder brings its own."""


def generation_dependencies(config: GenerationConfig, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what clips depend on. Tables and weights of conditions that the model does not read are left out; a
    request with such a condition is refused. For a model from elsewhere the only table is `tracks`, which says where
    recordings are. A text encoder that the model only names is included.

    Raises:
        NotTrainedYet: the checkpoint is yet to be trained by an earlier stage.
        WeightsNotFetched: the checkpoint is not fetched. The error also names the separator if the model is known to
            read melodies, and everything that may be needed if nothing is known of the model.
        ValueError: the reference is not a checkpoint.
    """
    try:
        folder = weights(config.checkpoint).path
    except WeightsNotFetched as error:
        model = config.checkpoint.hub_model
        if model in TEXT_MODELS:
            raise
        conditions = [CHROMA.name] if model in MELODY_MODELS else [*CONDITION_FIELDS]
        references = [getattr(config, field) for condition in conditions for field in CONDITION_FIELDS[condition]]
        needed = [reference for reference in references if reference is not None]
        if model in MELODY_MODELS:
            raise WeightsNotFetched([*error.references, *needed], error.why) from error
        raise WeightsNotFetched(error.references, error.why, perhaps=needed) from error
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
    """Return the seed of a take of a request. The first take has the request's own seed, so that asking for more takes
    does not change it.

    Args:
        take: number of the take, from 1.
        retake: number of tries of the take before this one; every try has a seed of its own.
    """
    earlier_takes = take - 1  # takes were once numbered from 0; seeds stay the same
    if retake:
        return int(fingerprint([seed, earlier_takes, retake])[:15], 16)
    return int(fingerprint([seed, earlier_takes])[:15], 16) if earlier_takes else seed


def is_deterministic(request: Row) -> bool:
    """Return whether every seed gives the same clip for a row of `requests` (`model.decoding.sampling`)."""
    return bool(request["temperature"] == 0 or (request["top_p"] == 0 and request["top_k"] == 1))
