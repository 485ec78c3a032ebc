"""AudioCraft's checkpoints, read and written: `state_dict.bin` and `compression_state_dict.bin` in a folder.

The form is that of AudioCraft 1.3.0: what its export writes (`audiocraft/utils/export.py`), and all that its loaders
and builders look for when they make a model from it (`audiocraft/models/loaders.py`, `builders.py`). The weights of a
frozen T5 are in neither file: the configuration names the T5, and it is fetched by that name. The published language
models are stored in half precision and their codecs in float32.

AudioCraft attends to the zeros that pad conditions of different lengths, so `padding` of a model that is read is
`"attended"`. A model that masks padding is written all the same: without a batch both compute the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import EncodecModel

from model.codec.codec import coder_of
from model.conditioning.config import MusicModelConfig, TextConfig
from model.music_model import MusicModel
from schemas import WeightsRef
from stages.checkpoints.audiocraft.codec import (
    AudioCraftCodec,
    read_audiocraft_codec,
    write_audiocraft_codec,
    write_codec_reference,
)
from stages.checkpoints.audiocraft.conditioners import (
    AUDIOCRAFT_CHROMA,
    CONDITIONER_PREFIX,
    T5_SIZES,
    Conditioners,
    check_order,
    conditioner_names,
    conditioner_tensor_to_audiocraft,
    conditioners_from_audiocraft,
    conditioners_to_audiocraft,
    find_t5,
)
from stages.checkpoints.audiocraft.lm import (
    decoder_from_audiocraft,
    decoder_state_to_audiocraft,
    decoder_to_audiocraft,
    parameter_name_to_audiocraft,
    parameters_in_audiocraft,
)
from stages.checkpoints.audiocraft.package import (
    LANGUAGE_MODEL_FILE,
    Package,
    Section,
    read_package,
    read_settings,
    write_package,
)
from stages.checkpoints.facts import DISTILLED, CheckpointFacts, CodecFacts, ModelDescription
from stages.checkpoints.native import FindWeights, TrainedModel, check_codec, describe_codec, load_text_encoder
from stages.checkpoints.precision import Precision
from stages.networks.loading import check_tensors

GUIDANCE = "classifier_free_guidance"
"""The section of a configuration on classifier-free guidance."""

PUBLISHED_CODECS = ("facebook/encodec_32khz", "facebook/encodec_24khz")
"""Mono codecs that AudioCraft finds by name (`CompressionModel.get_pretrained`)."""


def read_audiocraft(folder: Path, weights: FindWeights, text_encoder: WeightsRef | None = None) -> TrainedModel:
    """Read an AudioCraft model, in evaluation mode on the CPU. No code in its files is run.

    Args:
        weights: finds the text encoder and the codec that the files only name (`context.weights`).
        text_encoder: where to find the text encoder; None takes the name in the files.

    Raises:
        ValueError: files are missing, damaged or name code; a setting (named) is not supported here; weights do not fit
            the configuration; or language model and codec do not fit.
        MissingWeights: weights that the files name cannot be fetched.
    """
    package = read_package(folder / LANGUAGE_MODEL_FILE)
    codec = read_audiocraft_codec(folder, weights)
    imported = model_from_audiocraft(package, weights, text_encoder)
    facts = _codec_facts(package.config, imported.model.config, codec)
    return TrainedModel(
        imported.model,
        CheckpointFacts(
            model=imported.model.config,
            frame_rate=facts.frame_rate,
            segment_seconds=package.config.section("dataset").number("segment_duration"),
            text_encoder=imported.text_encoder,
            text_encoder_digest=imported.text_encoder_digest,
            codec=facts,
            distilled_guidance=package.config.section(GUIDANCE).values.get(DISTILLED),
        ),
        codec.network,
    )


def describe_audiocraft(folder: Path, text_width: int | None = None) -> ModelDescription:
    """Read what an AudioCraft model is, without its weights.

    Args:
        text_width: width of the text encoder that is used with it; None takes that of the T5 that it names.

    Raises:
        ValueError: files are missing or damaged, or a setting is not supported here.
    """
    settings = read_settings(folder / LANGUAGE_MODEL_FILE)
    conditioners = conditioners_from_audiocraft(settings)
    if conditioners.text_encoder is not None and text_width is None:
        text_width = T5_SIZES[conditioners.text_encoder].width
    stereo = settings.section("interleave_stereo_codebooks").get("use", False)
    return ModelDescription(
        model=_model_config(settings, conditioners, text_width),
        segment_seconds=settings.section("dataset").number("segment_duration"),
        channels=2 if stereo else int(settings.number("channels")),
    )


def _model_config(settings: Section, conditioners: Conditioners, text_width: int | None) -> MusicModelConfig:
    """Return the configuration here for a model's settings in AudioCraft.

    Args:
        text_width: width of the text encoder; None for a model that reads no descriptions.

    Raises:
        ValueError: a setting is not supported here.
    """
    config = MusicModelConfig(
        language_model=decoder_from_audiocraft(settings, {there: here for here, there in conditioners.names.items()}),
        description=None if text_width is None else TextConfig(width=text_width, finetune=conditioners.finetuned),
        fields=dict(conditioners.fields),
        chroma=conditioners.chroma,
        clap=conditioners.clap,
    )
    check_order(config, conditioners)
    return config


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A language model with its conditioners, and where its text encoder came from."""

    model: MusicModel
    text_encoder: str | None
    """Reference of a frozen text encoder; None where it learned, or where there is none."""
    text_encoder_digest: str | None
    """Digest of the files of the text encoder, or of the one that training began with."""


def model_from_audiocraft(
    package: Package, weights: FindWeights, text_encoder: WeightsRef | None = None
) -> ImportedModel:
    """Build the language model and the conditioners of an exported file, in evaluation mode on the CPU.

    Args:
        text_encoder: as in `read_audiocraft`.

    Raises:
        ValueError: a setting (named) is not supported here, or weights do not fit it.
        MissingWeights: its text encoder cannot be fetched.
    """
    settings, encoder, tokenizer, files, reference = package.config, None, None, None, None
    try:
        conditioners = conditioners_from_audiocraft(settings)
        if conditioners.text_encoder is not None:
            reference = text_encoder or WeightsRef(T5_SIZES[conditioners.text_encoder].hub)
            files = weights(reference)
            encoder, tokenizer = load_text_encoder(files.path)
        config = _model_config(settings, conditioners, None if encoder is None else encoder.config.d_model)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, (error.title, *first["loc"])))
        raise ValueError(f"expected the configuration of a model, got {location}: {first['msg']}") from error
    with torch.device("meta"):  # the weights come from the file; this saves a random start
        model = MusicModel(config, encoder, tokenizer)
    _load_state(model, package.state, conditioners.names)
    digest = None if files is None else files.digest
    return ImportedModel(model.eval(), None if conditioners.finetuned else reference, digest)


def _codec_facts(settings: Section, config: MusicModelConfig, codec: AudioCraftCodec) -> CodecFacts:
    """Describe the codec, and check that its codes are the language model's (`get_wrapped_compression_model`)."""
    network, decoder = codec.network, config.language_model
    settings.section("interleave_stereo_codebooks").check("per_timestep", False)
    settings.check("sample_rate", network.config.sampling_rate, why="the codec's")
    own, sides = network.config.audio_channels, 2 if encodes_both_sides(settings) else 1
    if sides == 2 and own != 1:
        raise ValueError(f"expected a codec of one channel for interleave_stereo_codebooks, got one of {own}")
    levels = settings.values.get("compression_model_n_q") or network.config.num_quantizers
    if levels * sides != decoder.codebooks or network.config.codebook_size != decoder.cardinality:
        raise ValueError(
            f"expected a codec that fits the language model, with {decoder.codebooks} codebooks of "
            f"{decoder.cardinality}, got {levels * sides} of {network.config.codebook_size}"
        )
    return describe_codec(network, decoder.codebooks, own * sides, codec.reference)


def encodes_both_sides(settings: Section) -> bool:
    """Return whether a mono codec encodes left and right, with their codebooks alternating in the model's codes."""
    return bool(settings.section("interleave_stereo_codebooks").get("use", False))


def write_audiocraft(trained: TrainedModel, folder: Path, precision: Precision = Precision()) -> None:
    """Write a model into an existing folder as AudioCraft exports its own.

    The codec is written with the model, or as a name where AudioCraft finds it by that name. A frozen text encoder is
    written as a name if it is a published one. Otherwise it is written with the model, as one that learned: AudioCraft
    has frozen encoders only by name. A checkpoint does not state which joint embedding the model was trained with, so
    the published one of AudioCraft (`clapemb2music`) is named.

    Raises:
        ValueError: a feature (named) of the model, its text encoder or its codec that AudioCraft does not have.
    """
    model, facts = trained.model, trained.facts
    names, text = conditioner_names(model.config), find_t5(trained)
    decoder = decoder_to_audiocraft(model.config.language_model, names)
    conditioners = conditioners_to_audiocraft(model.config, facts.segment_seconds, text)
    if facts.codec is None:
        raise ValueError("expected a model with a known codec, got one that does not state its codec: name it")
    if not isinstance(trained.codec, EncodecModel | None):
        raise ValueError(f"expected an EnCodec to write in AudioCraft's form, got {coder_of(trained.codec).kind}")
    sides = facts.codec.channels // (1 if trained.codec is None else trained.codec.config.audio_channels)
    _write_codec(trained.codec, facts.codec, folder)
    settings = {
        "solver": "musicgen",
        "sample_rate": facts.codec.sample_rate,
        "channels": facts.codec.channels,
        "device": "cpu",
        "dtype": precision.stored,
        "dataset": {"segment_duration": facts.segment_seconds},
        "compression_model_n_q": facts.codec.codebooks // sides,
        "interleave_stereo_codebooks": {"use": sides == 2, "per_timestep": False},
        **decoder,
        "conditioners": conditioners,
        GUIDANCE: _guidance_settings(facts.distilled_guidance),
        "attribute_dropout": {},
    }
    state = _state_to_audiocraft(model, names, text_encoder=text is not None and text.inside)
    write_package(folder / LANGUAGE_MODEL_FILE, precision.of(state), settings)


def _guidance_settings(distilled: float | None) -> dict[str, float]:
    """Return the settings of guidance; a model that has learned a coefficient is used with 1."""
    settings = {"training_dropout": 0.0, "inference_coef": 3.0}
    return settings if distilled is None else settings | {"inference_coef": 1.0, DISTILLED: distilled}


def _write_codec(network: EncodecModel | None, codec: CodecFacts, folder: Path) -> None:
    if network is not None:
        check_codec(network, codec, "the model")
    if codec.reference in PUBLISHED_CODECS:
        write_codec_reference(codec.reference, folder)
    elif network is None:
        raise ValueError(f"expected the codec {codec.reference or codec.identity} to write with the model, got none")
    else:
        write_audiocraft_codec(network, folder)


_CHROMA_TABLE = re.compile(rf"{re.escape(CONDITIONER_PREFIX)}\w+\.chroma\.(spec\.window|fbanks)")
"""Tables that follow from the configuration, but are in the state nevertheless."""


def _load_state(model: MusicModel, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Set all weights of a model from AudioCraft's state.

    Args:
        state: tensors by AudioCraft's names.
        names: AudioCraft's name of each condition.

    Raises:
        ValueError: tensors are missing, unknown or of another shape; the message names them.
    """
    own = model.weights()
    audiocraft_names = {name: _name_to_audiocraft(name, names) for name in own}
    tensors = {
        name: value for name, value in parameters_in_audiocraft(state).items() if not _CHROMA_TABLE.fullmatch(name)
    }
    check_tensors(tensors, {audiocraft_names[name]: value.shape for name, value in own.items()}, "the language model")
    model.load_weights({name: tensors[audiocraft_names[name]] for name in own})


def _state_to_audiocraft(model: MusicModel, names: Mapping[str, str], text_encoder: bool) -> dict[str, Tensor]:
    """Return a model's state with AudioCraft's names, complete for its strict loading.

    Args:
        names: AudioCraft's name of each condition.
        text_encoder: whether the weights of a frozen text encoder are included.
    """
    state = decoder_state_to_audiocraft(model.language_model.state_dict(), model.config.language_model)
    own = model.state_dict() if text_encoder else model.weights()
    state |= {_name_to_audiocraft(name, names): value for name, value in own.items()}
    if model.chroma is not None:
        state[f"{CONDITIONER_PREFIX}{names['chroma']}.chroma.spec.window"] = torch.hann_window(AUDIOCRAFT_CHROMA.window)
    return state


def _name_to_audiocraft(name: str, names: Mapping[str, str]) -> str:
    """Return AudioCraft's name of an entry of a music model's state; `names` has AudioCraft's name of each
    condition."""
    part, _, inside = name.partition(".")
    if part == "language_model":
        return parameter_name_to_audiocraft(inside)
    return conditioner_tensor_to_audiocraft(name, names)
