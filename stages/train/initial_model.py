"""The model that a training begins with: fresh, or a checkpoint in any form, whole or through low-rank updates.

A recipe describes the model, and the checkpoint must hold that model: otherwise its weights would mean something else.
The recipe may add conditions that the checkpoint lacks, which start fresh. Where the recipe has twice the checkpoint's
codebooks, a mono model becomes a stereo one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from model.codec.coders import CodecNetwork
from model.conditioning.config import MusicModelConfig
from model.lm.config import LanguageModelConfig
from model.lm.language_model import stereo_configuration, stereo_weights
from model.music_model import MusicModel
from model.optim.train_state import parameter_checksums, step_seed
from schemas import WeightsRef
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.loading import detect_form, load_checkpoint, read_condition_names
from stages.checkpoints.native import TrainedModel, load_text_encoder
from stages.pipeline.contract import Context
from stages.train.batches import INITIAL_WEIGHTS
from stages.train.config import Config

FUSIONS = ("cross", "prepend", "sum", "interpolate")
"""Fields of the decoder that list names of conditions; the order does not matter."""

FREE_IN_DECODER = {"dropout", "attention_dropout", "padding"}
FREE_IN_CONDITIONS = {"finetune", "max_tokens", "frames", "analysis"}
"""Fields that a training may change: they say how a model learns or how much input it gets, not what its weights
mean."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A model to train, and where it comes from."""

    model: MusicModel
    text_encoder: str | None
    """Reference of a frozen text encoder that is stored elsewhere; None where its weights belong in the new checkpoint,
    or where there is no text encoder."""
    text_encoder_digest: str | None
    parents: list[str]
    """Ids of the store's checkpoints that the model was made from."""
    facts: CheckpointFacts | None
    """Facts of the checkpoint that training begins from; None for fresh weights."""
    codec: CodecNetwork | None
    """The codec that the checkpoint holds; None where it holds none."""
    checksums: Mapping[str, int]
    """Checksums of the parameters, by name, before low-rank updates are added."""


@dataclass(frozen=True, eq=False)
class _TextEncoder:
    """A text encoder with its reference, digest and parents, as in `InitialModel`."""

    network: T5EncoderModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    reference: str | None = None
    digest: str | None = None
    parents: tuple[str, ...] = ()


def initial_model(config: Config, context: Context) -> InitialModel:
    """Make the model of a recipe before its first step, on the CPU: a device may have no room for all of it.

    Torch's generator is seeded for the weights that start fresh.

    Raises:
        ValueError: `initial` is not a checkpoint, or holds another model; or it has no text encoder and the recipe
            gives none.
        MissingWeights: weights that the recipe names cannot be fetched.
    """
    trained, parents, seed = None, [], step_seed(config.seed, 0, INITIAL_WEIGHTS)
    if config.initial is None:
        text = _initial_text_encoder(config, context, None)
        torch.manual_seed(seed)
        model = MusicModel(config.model, text.network, text.tokenizer)
    else:
        torch.manual_seed(seed)
        fresh_weights = _draw_fresh_weights(config, read_condition_names(context.weights(config.initial).path))
        generator_state = torch.get_rng_state()
        trained = load_initial(config, context)
        check_same_model(config, trained.facts.model)
        if config.initial.checkpoint is not None:
            parents.append(str(context.checkpoint(config.initial)["checkpoint_id"]))
        text = _initial_text_encoder(config, context, trained)
        with torch.device("meta"):  # gets the checkpoint's own tensors below, not copies
            model = MusicModel(config.model, text.network, text.tokenizer)
        _take_weights(model, trained, fresh_weights)
        torch.set_rng_state(generator_state)
    checksums = parameter_checksums(model)
    if config.lora is not None:
        from stages.train.lora import add_adapter, continue_adapter  # imports peft, which other trainings do not need

        if config.initial_adapter is None:
            add_adapter(model, config.lora)
        else:
            continue_adapter(model, config.lora, context.weights(config.initial_adapter).path)
    model.language_model.transformer.checkpointing = config.checkpoint_layers
    finetuned = config.model.description is not None and config.model.description.finetune
    return InitialModel(
        model=model,
        text_encoder=None if finetuned else text.reference,
        text_encoder_digest=text.digest,
        parents=[*parents, *text.parents],
        facts=None if trained is None else trained.facts,
        codec=None if trained is None else trained.codec,
        checksums=checksums,
    )


def load_initial(config: Config, context: Context, device: str = "cpu") -> TrainedModel:
    """Load the checkpoint that training starts from.

    A checkpoint of AudioCraft does not hold a frozen text encoder: it is loaded with the recipe's, where it has one.

    Raises:
        ValueError: `initial` is not a checkpoint.
        MissingWeights: the checkpoint, or weights that it names, cannot be fetched.
    """
    assert config.initial is not None
    folder = context.weights(config.initial).path
    encoder = config.text_encoder if detect_form(folder) == "audiocraft" else None
    return load_checkpoint(folder, context.weights, device, encoder)


def _initial_text_encoder(config: Config, context: Context, trained: TrainedModel | None) -> _TextEncoder:
    """Return the text encoder that the recipe names, or else the checkpoint's."""
    if config.model.description is None:
        return _TextEncoder()
    initial_text = None if trained is None else trained.facts.model.description
    reference = config.text_encoder
    if reference is not None:
        if initial_text is not None and initial_text.finetune:
            raise ValueError(
                f"expected train.text_encoder = null, because the text encoder of train.initial = {config.initial} "
                f"learned with it, got {reference}"
            )
        parents: tuple[str, ...] = ()
        if reference.checkpoint is not None:
            parents = (str(context.checkpoint(reference)["checkpoint_id"]),)
            reference = WeightsRef.to_checkpoint(parents[0])
        local = context.weights(reference)
        network, tokenizer = load_text_encoder(local.path)
        return _TextEncoder(network, tokenizer, str(reference), local.digest, parents)
    if trained is None or trained.model.description is None:
        raise ValueError(f"expected train.text_encoder, because train.initial = {config.initial} has none, got none")
    conditioner, facts = trained.model.description, trained.facts
    return _TextEncoder(conditioner.encoder, conditioner.tokenizer, facts.text_encoder, facts.text_encoder_digest)


def check_same_model(config: Config, checkpoint: MusicModelConfig) -> None:
    """Check that a recipe's model is the model of the checkpoint it starts from: the same, with conditions added, or
    with the codebooks doubled.

    Raises:
        ValueError: the models differ; the message names each field that does.
    """
    decoder = checkpoint.language_model
    if config.model.language_model.codebooks == 2 * decoder.codebooks:
        decoder = stereo_configuration(decoder)
    differing = _decoder_differences(config.model.language_model, decoder, checkpoint.conditions)
    for name in checkpoint.conditions:
        if name in config.model.conditions:
            own, initial = _condition_fields(config.model, name), _condition_fields(checkpoint, name)
            differing += [
                f"train.model.{name}.{field}: expected {initial.get(field)}, got {own.get(field)}"
                for field in sorted(own.keys() | initial.keys())
                if own.get(field) != initial.get(field)
            ]
    if differing:
        raise ValueError(f"expected the model of train.initial = {config.initial}, got another: {'; '.join(differing)}")


def _decoder_differences(
    decoder: LanguageModelConfig, initial: LanguageModelConfig, known: tuple[str, ...]
) -> list[str]:
    """Describe the fields in which a decoder differs from the checkpoint's.

    Args:
        known: names of the conditions that the checkpoint has; added conditions are no difference.
    """
    differences = []
    for name in LanguageModelConfig.model_fields:
        expected, got = getattr(initial, name), getattr(decoder, name)
        if name == "delays":
            expected, got = initial.codebook_delays, decoder.codebook_delays
        if name in FUSIONS:
            expected, got = sorted(expected), sorted(condition for condition in got if condition in known)
        if expected != got and name not in FREE_IN_DECODER:
            differences.append(f"train.model.language_model.{name}: expected {expected}, got {got}")
    if decoder.cross and not initial.cross:
        differences.append(
            f"train.model.language_model.cross: expected none, as it has no cross-attention, got {decoder.cross}"
        )
    return differences


def _condition_fields(config: MusicModelConfig, name: str) -> dict[str, Any]:
    """Return the fields of a condition that its weights depend on."""
    condition = config.fields[name] if name in config.fields else getattr(config, name)
    facts: dict[str, Any] = condition.model_dump(exclude=FREE_IN_CONDITIONS)
    if facts.get("quantizer"):
        facts["quantizer"].pop("learning")
    return facts


def _draw_fresh_weights(config: Config, known: Sequence[str]) -> dict[str, Tensor]:
    """Draw a model's random start, and return the weights of the conditions that a checkpoint lacks.

    The whole model is drawn, so that low-rank updates, which are drawn after it, come out the same with or without a
    checkpoint. Its other weights are freed before the checkpoint is loaded: a machine may not have room for both.

    Args:
        known: names of the conditions that the checkpoint has.

    Raises:
        ValueError: the checkpoint lacks conditions, and they would stay frozen.
    """
    fresh = [name for name in config.model.conditions if name not in known]
    if fresh and config.lora is not None and not config.lora.conditioners:
        raise ValueError(f"expected train.lora.conditioners = true for new conditions to learn, got {fresh} frozen")
    if fresh:
        log.warning("conditions that train.initial lacks start with random weights: %s", ", ".join(fresh))
    encoder, tokenizer = None, None
    if config.model.description is not None:  # a stand-in without weights, for which nothing is drawn
        with torch.device("meta"):
            encoder = T5EncoderModel(T5Config(d_model=config.model.description.width, num_layers=1))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()))
    weights = MusicModel(config.model, encoder, tokenizer).weights()
    prefixes = tuple(f"fields.{name}." if name in config.model.fields else f"{name}." for name in fresh)
    return {name: value for name, value in weights.items() if name.startswith(prefixes) and not value.is_meta}


def _take_weights(model: MusicModel, trained: TrainedModel, fresh: Mapping[str, Tensor]) -> None:
    """Load a checkpoint's weights into a model that was made on the device `meta`, without copying them.

    Args:
        fresh: weights of the conditions that the checkpoint lacks.
    """
    weights = trained.model.weights()
    if model.config.language_model.codebooks == 2 * trained.facts.model.language_model.codebooks:
        weights = stereo_weights(weights)
    # A text encoder has its weights already where it learns in one of the two models and is frozen in the other.
    own = {name: value for name, value in model.weights().items() if not value.is_meta}
    all_weights = own | dict(fresh) | weights
    model.load_weights({name: all_weights[name] for name in model.weights()})
