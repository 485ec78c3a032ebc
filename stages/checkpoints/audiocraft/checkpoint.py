"""AudioCraft's checkpoints, read and written: `state_dict.bin` and `compression_state_dict.bin` in a folder.

The form is that of AudioCraft 1.3.0: what its export writes (`audiocraft/utils/export.py`), and all that its loaders
and builders look for when a model is made from it (`audiocraft/models/loaders.py`, `builders.py`). A T5 that did not
learn is in neither file: its name is, and it is had by that name. The published weights are of half precision; here
they are float32, and are written so.

AudioCraft attends to the zeros that pad conditions of different lengths, so what is read has `padding = "attended"`.
A model that masks them is written all the same: an item for itself is computed alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import EncodecModel

from model.codec.codec import codebook_identity, coder_of
from model.conditioning.config import MusicModelConfig, TextConfig
from model.music_model import MusicModel
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.audiocraft.codec import (
    AudioCraftCodec,
    read_audiocraft_codec,
    write_audiocraft_codec,
    write_codec_reference,
)
from stages.checkpoints.audiocraft.conditions import (
    conditioner_settings,
    places_of,
    read_conditioners,
    refuse_another_order,
)
from stages.checkpoints.audiocraft.decoder import decoder_config, decoder_settings
from stages.checkpoints.audiocraft.package import LANGUAGE_MODEL_FILE, Package, Section, read_package, write_package
from stages.checkpoints.audiocraft.state import load_state, state_of
from stages.checkpoints.audiocraft.text_encoder import SIZES, text_encoder_of
from stages.checkpoints.codecs import codec_facts
from stages.checkpoints.facts import CheckpointFacts, CodecFacts
from stages.checkpoints.native import TrainedModel, load_text_encoder

PUBLISHED_CODECS = ("facebook/encodec_32khz", "facebook/encodec_24khz")
"""Mono codecs that AudioCraft has by name (`CompressionModel.get_pretrained`)."""


def read_audiocraft(folder: Path, weights: Callable[[WeightsRef], LocalWeights]) -> TrainedModel:
    """Read a model of AudioCraft's, in evaluation mode on the CPU. Nothing in its files is run.

    Args:
        weights: finds the text encoder and the codec that the files only name (`context.weights`).

    Raises:
        ValueError: files that are missing, damaged or name code; a setting that this project's model cannot honour, by
            its name; weights that do not fit the configuration; a language model and a codec that do not fit.
        MissingWeights: what the files name cannot be had.
    """
    package = read_package(folder / LANGUAGE_MODEL_FILE)
    codec = read_audiocraft_codec(folder, weights)
    read = music_model_of(package, weights)
    facts = _codec_facts(package.config, read.model.config, codec)
    return TrainedModel(
        read.model,
        CheckpointFacts(
            model=read.model.config,
            frame_rate=facts.frame_rate,
            segment_seconds=package.config.part("dataset").number("segment_duration"),
            text_encoder=read.text_encoder,
            text_encoder_digest=read.text_encoder_digest,
            codec=facts,
        ),
        codec.network,
    )


@dataclass(frozen=True, eq=False)
class ReadModel:
    """A language model with its conditioners, and where its text encoder was had."""

    model: MusicModel
    text_encoder: str | None
    """Reference of a text encoder that did not learn."""
    text_encoder_digest: str | None
    """Of the files of the text encoder, or of the one that learning began with."""


def music_model_of(package: Package, weights: Callable[[WeightsRef], LocalWeights]) -> ReadModel:
    """The language model and the conditioners of an exported file, in evaluation mode on the CPU.

    Raises:
        ValueError: a setting that this project's model cannot honour, by its name, or weights that do not fit it.
        MissingWeights: its text encoder cannot be had.
    """
    settings, encoder, tokenizer, found, reference = package.config, None, None, None, None
    try:
        conditioners = read_conditioners(settings)
        if conditioners.text_encoder is not None:
            reference = SIZES[conditioners.text_encoder].hub
            found = weights(WeightsRef(reference))
            encoder, tokenizer = load_text_encoder(found.path)
        config = MusicModelConfig(
            language_model=decoder_config(settings, {there: here for here, there in conditioners.places.items()}),
            description=encoder and TextConfig(width=encoder.config.d_model, finetune=conditioners.finetuned),
            fields=dict(conditioners.fields),
            chroma=conditioners.chroma,
            clap=conditioners.clap,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (error.title, *first["loc"])))
        raise ValueError(f"expected the configuration of a model, got {where}: {first['msg']}") from error
    refuse_another_order(config, conditioners)
    with torch.device("meta"):  # the weights come from the file: no time and memory for a random start
        model = MusicModel(config, encoder, tokenizer)
    load_state(model, package.state, conditioners.places)
    digest = None if found is None else found.digest
    return ReadModel(model.eval(), None if conditioners.finetuned else reference, digest)


def _codec_facts(settings: Section, config: MusicModelConfig, codec: AudioCraftCodec) -> CodecFacts:
    """What the codec's codes are, which must be the language model's (`get_wrapped_compression_model`)."""
    stereo, network, decoder = settings.part("interleave_stereo_codebooks"), codec.network, config.language_model
    stereo.demand("per_timestep", False)
    settings.demand("sample_rate", network.config.sampling_rate, why="the codec's")
    own, sides = network.config.audio_channels, 2 if stereo.get("use", False) else 1
    if sides == 2 and own != 1:
        raise ValueError(f"expected a codec of one channel for interleave_stereo_codebooks, got one of {own}")
    levels = settings.values.get("compression_model_n_q") or network.config.num_quantizers
    if levels * sides != decoder.codebooks or network.config.codebook_size != decoder.cardinality:
        raise ValueError(
            f"expected a codec that fits the language model, with {decoder.codebooks} codebooks of "
            f"{decoder.cardinality}, got {levels * sides} of {network.config.codebook_size}"
        )
    return codec_facts(network, decoder.codebooks, own * sides, codec.reference)


def write_audiocraft(trained: TrainedModel, folder: Path) -> None:
    """Write a model into an existing folder as AudioCraft exports its own.

    The codec is written with the model, or by its name where AudioCraft has it by that name. A frozen text encoder is
    written by its name if it is a published one, else with the model, and then as one that learned: AudioCraft has
    frozen ones by their names only. Which joint embedding a model was trained with, a checkpoint does not say: what is
    written names the published one of AudioCraft's own (`clapemb2music`).

    Raises:
        ValueError: a feature of the model, its text encoder or its codec that AudioCraft does not have, by name.
    """
    model, facts = trained.model, trained.facts
    places, text = places_of(model.config), text_encoder_of(trained)
    decoder = decoder_settings(model.config.language_model, places)
    conditioners = conditioner_settings(model.config, facts.segment_seconds, text)
    if facts.codec is None:
        raise ValueError("expected a model whose codec is known, got one that does not say: name its codec")
    if not isinstance(trained.codec, EncodecModel | None):
        raise ValueError(f"expected an EnCodec to write in AudioCraft's form, got {coder_of(trained.codec).kind}")
    sides = facts.codec.channels // (1 if trained.codec is None else trained.codec.config.audio_channels)
    levels = facts.codec.codebooks // sides
    _write_codec(trained.codec, facts.codec, levels, folder)
    settings = {
        "solver": "musicgen",
        "sample_rate": facts.codec.sample_rate,
        "channels": facts.codec.channels,
        "device": "cpu",
        "dtype": "float32",
        "dataset": {"segment_duration": facts.segment_seconds},
        "compression_model_n_q": levels,
        "interleave_stereo_codebooks": {"use": sides == 2, "per_timestep": False},
        **decoder,
        "conditioners": conditioners,
        "classifier_free_guidance": {"training_dropout": 0.0, "inference_coef": 3.0},
        "attribute_dropout": {},
    }
    state = state_of(model, places, text_encoder=text is not None and text.inside)
    write_package(folder / LANGUAGE_MODEL_FILE, state, settings)


def _write_codec(network: EncodecModel | None, codec: CodecFacts, levels: int, folder: Path) -> None:
    if network is not None and (found := codebook_identity(network, levels)) != codec.identity:
        raise ValueError(f"expected the codec with identity {codec.identity}, which the model speaks, got {found}")
    if codec.reference in PUBLISHED_CODECS:
        write_codec_reference(codec.reference, folder)
    elif network is None:
        raise ValueError(f"expected the codec {codec.reference or codec.identity} to write with the model, got none")
    else:
        write_audiocraft_codec(network, folder)
