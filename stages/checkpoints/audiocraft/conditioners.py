"""AudioCraft's conditioners, read and written: their settings, the T5s that AudioCraft has by name, and the names of
their tensors.

The source is AudioCraft 1.3.0: `config/conditioner/*`, `audiocraft/modules/conditioners.py`, `get_conditioner_provider`
in `audiocraft/models/builders.py`; T5, arXiv:1910.10683, and Flan-T5, arXiv:2210.11416.

AudioCraft's T5 on `description` is the description here, `chroma_stem` the chroma, `clap` the joint embedding (which
AudioCraft reads in place of the description), and a table (`lut`) of whole labels a field. Other conditioners of either
project are refused by name: AudioCraft lemmatises words with spaCy, its styles come from other encoders, and it has no
conditioner of numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import T5Config

from model.codec.config import QuantizerConfig
from model.conditioning.config import (
    FRAME_WISE,
    ChromaConfig,
    ClapConfig,
    FieldConfig,
    JointQuantizerConfig,
    LabelConfig,
    MelodyConfig,
    MusicModelConfig,
)
from stages.checkpoints.audiocraft.package import Section
from stages.checkpoints.native import TrainedModel

MELODY, DESCRIPTION = "self_wav", "description"
"""AudioCraft's names of a melody and of a text; its generation relies on them."""

AUDIOCRAFT_CHROMA = ChromaConfig()
"""The settings with which AudioCraft measures a melody."""

CLAP_CHECKPOINT = {
    "checkpoint": "//reference/clap/music_audioset_epoch_15_esc_90.14.pt",
    "model_arch": "HTSAT-base",
    "enable_fusion": False,
    "sample_rate": 48_000,
    "max_audio_length": 10,
    "audio_stride": 1,
}
"""Settings of the joint embedding of `clapemb2music`; a checkpoint does not state which one its model was trained
with."""

_CLAP_TRAINING = {"text_p", "batch_size", "autocast_dtype", "cache_path", "q_dropout", "kmeans_init"}
_CLAP_TRAINING |= {"threshold_ema_dead_code", "orthogonal_reg_weight", "orthogonal_reg_active_codes_only"}
_CLAP_TRAINING |= set(CLAP_CHECKPOINT) | {"attribute"}
"""Settings of the training and of the embedding network. They are ignored: models here get embeddings from outside, so
the network is chosen elsewhere."""


@dataclass(frozen=True)
class T5Size:
    """A published T5 encoder."""

    hub: str
    """Hub id."""
    width: int
    layers: int
    heads: int
    head_width: int
    feedforward: int
    gated: bool
    """Whether the feed-forward layers are gated GELUs, as in Flan-T5, rather than ReLUs."""


T5_SIZES = {
    "t5-small": T5Size("google-t5/t5-small", 512, 6, 8, 64, 2_048, False),
    "t5-base": T5Size("google-t5/t5-base", 768, 12, 12, 64, 3_072, False),
    "t5-large": T5Size("google-t5/t5-large", 1_024, 24, 16, 64, 4_096, False),
    "t5-3b": T5Size("google-t5/t5-3b", 1_024, 24, 32, 128, 16_384, False),
    "t5-11b": T5Size("google-t5/t5-11b", 1_024, 24, 128, 128, 65_536, False),
    "google/flan-t5-small": T5Size("google/flan-t5-small", 512, 8, 6, 64, 1_024, True),
    "google/flan-t5-base": T5Size("google/flan-t5-base", 768, 12, 12, 64, 2_048, True),
    "google/flan-t5-large": T5Size("google/flan-t5-large", 1_024, 24, 16, 64, 2_816, True),
}
"""The T5 encoders by AudioCraft's names. (It lists Flan-T5's two largest as well, but has no widths for them.)"""

T5_VOCABULARY = 32_128
"""Size of the vocabulary of all of them."""


@dataclass(frozen=True)
class NamedT5:
    """How AudioCraft gets a text encoder: a frozen one by its name; for one that learned, the name only gives the
    architecture."""

    name: str
    """One of `T5_SIZES`."""
    inside: bool
    """Whether its weights are in the checkpoint, which AudioCraft expects of an encoder that learned."""


def find_t5(trained: TrainedModel) -> NamedT5 | None:
    """Return how AudioCraft gets the text encoder of a model; None for a model without one.

    A frozen encoder with a published name is fetched by that name. The weights of any other, whether it learned here or
    is not known to be a published one, must be in the checkpoint.

    Raises:
        ValueError: AudioCraft has no T5 of this architecture by name.
    """
    description = trained.model.description
    if description is None:
        return None
    if not description.config.finetune:
        for name, size in T5_SIZES.items():
            if trained.facts.text_encoder in (name, size.hub):
                return NamedT5(name, inside=False)
    config = description.encoder.config
    assert isinstance(config, T5Config)
    own = (config.d_model, config.num_layers, config.num_heads, config.d_kv, config.d_ff, config.is_gated_act)
    for name, size in T5_SIZES.items():
        published = (size.width, size.layers, size.heads, size.head_width, size.feedforward, size.gated)
        if own == published and config.vocab_size == T5_VOCABULARY:
            return NamedT5(name, inside=True)
    raise ValueError(
        f"expected a text encoder that AudioCraft knows by name ({', '.join(T5_SIZES)}), got a T5 of width "
        f"{config.d_model}, {config.num_layers} layers and {config.vocab_size} pieces"
    )


@dataclass(frozen=True)
class Conditioners:
    """What a model reads, from its configuration in AudioCraft."""

    text_encoder: str | None
    """Name of the T5, one of `T5_SIZES`; None where no description is read."""
    finetuned: bool
    """Whether the T5 learned too, so that its weights are in the file."""
    fields: Mapping[str, FieldConfig]
    chroma: MelodyConfig | None
    clap: ClapConfig | None
    names: Mapping[str, str]
    """AudioCraft's name of each condition, in the order in which AudioCraft fuses them."""


def conditioners_from_audiocraft(settings: Section) -> Conditioners:
    """Read the conditioners of a configuration.

    Raises:
        ValueError: a conditioner or a setting (named) that this project does not support.
    """
    section = settings.section("conditioners")
    text: str | None = None
    finetuned, chroma, clap = False, None, None
    fields: dict[str, FieldConfig] = {}
    texts: dict[str, str] = {}
    sounds: dict[str, str] = {}
    joints: dict[str, str] = {}
    for name in section.values:
        if name == "args":  # settings of the provider: probabilities in training
            continue
        conditioner = section.section(name)
        kind = conditioner.require("model")
        conditioner.check("model", "t5", "lut", "chroma_stem", "clap")
        details = conditioner.section(kind)
        if kind == "t5":
            if name != DESCRIPTION:
                raise ValueError(f"expected a T5 for {DESCRIPTION}, got one for {name}")
            text, finetuned = _t5_from_audiocraft(details), details.get("finetune", False)
            texts["description"] = name
        elif kind == "lut":
            fields[name] = _label_from_audiocraft(details)
            texts[name] = name
        elif kind == "chroma_stem":
            if chroma is not None:
                raise ValueError(f"expected one conditioner of kind chroma_stem, got {sounds['chroma']} and {name}")
            chroma = _chroma_from_audiocraft(details, settings)
            sounds["chroma"] = name
        else:
            if clap is not None:
                raise ValueError(f"expected one conditioner of kind clap, got {joints['clap']} and {name}")
            clap = _clap_from_audiocraft(details)
            joints["clap"] = name
    return Conditioners(text, finetuned, fields, chroma, clap, texts | sounds | joints)


def check_order(config: MusicModelConfig, conditioners: Conditioners) -> None:
    """Refuse conditions that AudioCraft joins in another order than this project, where the order matters.

    AudioCraft joins the texts in the order of the configuration, and then melody and joint embedding.

    Raises:
        ValueError: the orders differ.
    """
    decoder = config.language_model
    for fused in (decoder.prepend, decoder.cross if decoder.cross_positions else ()):
        audiocraft_order = [name for name in conditioners.names if name in fused]
        own_order = [name for name in config.conditions if name in fused]
        if audiocraft_order != own_order:
            raise ValueError(f"expected conditioners in the order {own_order}, got {audiocraft_order}")


def _t5_from_audiocraft(details: Section) -> str:
    details.refuse_unknown({"name", "finetune", "autocast_dtype", "word_dropout", "normalize_text"})
    details.check("normalize_text", False)
    details.check("name", *T5_SIZES)
    return str(details.require("name"))


def _label_from_audiocraft(details: Section) -> LabelConfig:
    details.refuse_unknown({"n_bins", "dim", "tokenizer", "pad_idx"})
    details.check("tokenizer", "noop", why="because AudioCraft lemmatises words with spaCy")
    details.check("pad_idx", 0)
    return LabelConfig(rows=details.require("n_bins"), width=details.require("dim"))


def _chroma_from_audiocraft(details: Section, settings: Section) -> MelodyConfig:
    """Read the settings of a melody as AudioCraft generates with them. Whatever the configuration says,
    `MusicGen.get_pretrained` brings melodies to the length of training and masks nothing, so that a missing melody is
    an endless C."""
    training = {"match_len_on_eval", "eval_wavs", "n_eval_wavs", "cache_path", "batch_size", "device"}
    details.refuse_unknown(
        {"sample_rate", "n_chroma", "radix2_exp", "argmax", "nfft", "winlen", "winhop", "norm"} | training
    )
    details.check("sample_rate", AUDIOCRAFT_CHROMA.sample_rate)
    details.check("n_chroma", 12)
    details.check("radix2_exp", AUDIOCRAFT_CHROMA.window.bit_length() - 1)
    for key, default in (
        ("nfft", AUDIOCRAFT_CHROMA.window),
        ("winlen", AUDIOCRAFT_CHROMA.window),
        ("winhop", AUDIOCRAFT_CHROMA.hop),
    ):
        details.check(key, None, default)
    details.check("norm", None, float("inf"))
    seconds = settings.section("dataset").number("segment_duration")
    return MelodyConfig(
        frames=AUDIOCRAFT_CHROMA.frames(seconds), null="first_bin", one_hot=details.get("argmax", False)
    )


def _clap_from_audiocraft(details: Section) -> ClapConfig:
    details.refuse_unknown({"dim", "quantize", "n_q", "bins", "decay", "kmeans_iters", "normalize"} | _CLAP_TRAINING)
    details.check("normalize", True)
    quantizer = None
    if details.get("quantize", True):
        learning = QuantizerConfig(decay=details.get("decay", 0.99), kmeans_iterations=details.get("kmeans_iters", 10))
        quantizer = JointQuantizerConfig(
            codebooks=details.get("n_q", 12), cardinality=details.get("bins", 1024), learning=learning
        )
    return ClapConfig(width=details.require("dim"), quantizer=quantizer)


def conditioner_names(config: MusicModelConfig) -> dict[str, str]:
    """Return AudioCraft's name of each condition of a model.

    Raises:
        ValueError: a condition (named) that AudioCraft does not have.
    """
    if config.description is not None and config.clap is not None:
        raise ValueError(
            "expected a description or a joint embedding (clap), which in AudioCraft takes the description's place, "
            "got both"
        )
    if unsupported := [name for name in FRAME_WISE if name in config.conditions]:
        raise ValueError(f"expected conditions that AudioCraft's MusicGen has, got {', '.join(unsupported)}")
    for name, field in config.fields.items():
        if field.kind != "label":
            raise ValueError(f"expected fields that are labels, as in AudioCraft, got {name}: {field.kind}")
    for name in config.language_model.sum:
        if name in ("description", "chroma"):
            raise ValueError(f"expected conditions of one vector to be summed, as in AudioCraft, got {name}")
    own = {"description": DESCRIPTION, "chroma": MELODY, "clap": DESCRIPTION}
    return {name: own.get(name, name) for name in config.conditions}


def conditioners_to_audiocraft(
    config: MusicModelConfig, segment_seconds: float, text: NamedT5 | None
) -> dict[str, Any]:
    """Return the section `conditioners` of AudioCraft's configuration.

    Args:
        segment_seconds: length of the training windows, which AudioCraft brings a melody to.
        text: how AudioCraft gets the text encoder; None for a model without one.

    Raises:
        ValueError: a form (named) of a condition that AudioCraft does not have.
    """
    sections: dict[str, Any] = {}
    if text is not None:
        t5 = {"name": text.name, "finetune": text.inside, "word_dropout": 0.0, "normalize_text": False}
        sections[DESCRIPTION] = {"model": "t5", "t5": t5}
    for name, field in config.fields.items():
        assert isinstance(field, LabelConfig)
        lut = {"n_bins": field.rows, "dim": field.width, "tokenizer": "noop", "pad_idx": 0}
        sections[name] = {"model": "lut", "lut": lut}
    if config.chroma is not None:
        sections[MELODY] = {
            "model": "chroma_stem",
            "chroma_stem": _chroma_to_audiocraft(config.chroma, segment_seconds),
        }
    if config.clap is not None:
        sections[DESCRIPTION] = {"model": "clap", "clap": _clap_to_audiocraft(config.clap)}
    return sections


def _chroma_to_audiocraft(chroma: MelodyConfig, segment_seconds: float) -> dict[str, Any]:
    expected = MelodyConfig(frames=AUDIOCRAFT_CHROMA.frames(segment_seconds), null="first_bin", one_hot=chroma.one_hot)
    for field in ("null", "match_length", "analysis", "frame_rate", "frames"):
        wanted, got = getattr(expected, field), getattr(chroma, field)
        if wanted != got:
            raise ValueError(f"expected a chroma with {field} = {wanted}, which AudioCraft generates with, got {got}")
    return {
        "sample_rate": AUDIOCRAFT_CHROMA.sample_rate,
        "n_chroma": 12,
        "radix2_exp": AUDIOCRAFT_CHROMA.window.bit_length() - 1,
        "argmax": chroma.one_hot,
        "match_len_on_eval": True,
        "eval_wavs": None,
        "n_eval_wavs": 0,
        "cache_path": None,
    }


def _clap_to_audiocraft(clap: ClapConfig) -> dict[str, Any]:
    quantizer = clap.quantizer
    levels = quantizer or JointQuantizerConfig()
    return CLAP_CHECKPOINT | {
        "dim": clap.width,
        "attribute": DESCRIPTION,
        "normalize": True,
        "quantize": quantizer is not None,
        "n_q": levels.codebooks,
        "bins": levels.cardinality,
        "decay": levels.learning.decay,
        "kmeans_iters": levels.learning.kmeans_iterations,
        "text_p": 0.0,
        "cache_path": None,
    }


CONDITIONER_PREFIX = "condition_provider.conditioners."
"""Prefix of every tensor of a conditioner in AudioCraft's state."""

_TENSOR_NAMES = (
    (r"projection\.", "output_proj."),
    (r"table\.", "embed."),
    (r"encoder\.", "t5."),
    (r"quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
)
"""How a tensor's name within a conditioner begins here -> in AudioCraft."""


def conditioner_tensor_to_audiocraft(name: str, names: Mapping[str, str]) -> str:
    """Return AudioCraft's name of an entry of a music model's state that belongs to a conditioner.

    Args:
        name: the entry, such as `description.projection.weight`.
        names: AudioCraft's name of each condition.
    """
    condition, _, parameter = name.partition(".")
    if condition == "fields":
        condition, _, parameter = parameter.partition(".")
    for own_name, audiocraft_name in _TENSOR_NAMES:
        if re.match(own_name, parameter):
            return f"{CONDITIONER_PREFIX}{names[condition]}.{re.sub(own_name, audiocraft_name, parameter, count=1)}"
    raise AssertionError(f"no name in AudioCraft for {name}")
