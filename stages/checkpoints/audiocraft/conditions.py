"""The conditioners' part of an AudioCraft configuration, both ways (AudioCraft 1.3.0: `config/conditioner/*`,
`audiocraft/modules/conditioners.py`, `get_conditioner_provider` in `audiocraft/models/builders.py`).

A T5 on `description` is the description here, `chroma_stem` the chroma, `clap` the joint embedding (there it takes the
description's place), and a table (`lut`) of whole labels a field. What else AudioCraft or this project has is refused
by name: words there are lemmatised by spaCy, styles come from other encoders, and numbers have no conditioner.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.codec.config import QuantizerConfig
from model.conditioning.config import (
    ChromaConfig,
    ClapConfig,
    FieldConfig,
    JointQuantizerConfig,
    LabelConfig,
    MusicModelConfig,
)
from stages.checkpoints.audiocraft.package import Section
from stages.checkpoints.audiocraft.text_encoder import SIZES, TextEncoder

MELODY, DESCRIPTION = "self_wav", "description"
"""AudioCraft's names of a melody and of a text, which its generation relies on."""

MELODY_WINDOW, MELODY_RATE = 2**14, 32_000
"""STFT window (samples) and sample rate (Hz) of the chroma that melodies are conditioned on here."""

CLAP_CHECKPOINT = {
    "checkpoint": "//reference/clap/music_audioset_epoch_15_esc_90.14.pt",
    "model_arch": "HTSAT-base",
    "enable_fusion": False,
    "sample_rate": 48_000,
    "max_audio_length": 10,
    "audio_stride": 1,
}
"""The joint embedding of `clapemb2music`; a checkpoint does not say which one its model was trained with."""

_CLAP_TRAINING = {"text_p", "batch_size", "autocast_dtype", "cache_path", "q_dropout", "kmeans_init"}
_CLAP_TRAINING |= {"threshold_ema_dead_code", "orthogonal_reg_weight", "orthogonal_reg_active_codes_only"}
_CLAP_TRAINING |= set(CLAP_CHECKPOINT) | {"attribute"}
"""How it was trained, and which network embeds: here embeddings are given, and whoever gives them chooses it."""


@dataclass(frozen=True)
class Conditioners:
    """What a model reads, as its configuration in AudioCraft says it."""

    text_encoder: str | None
    """Name of the T5, one of `SIZES`; None where no description is read."""
    finetuned: bool
    """Whether the T5 learned too, so that its weights are in the file."""
    fields: Mapping[str, FieldConfig]
    chroma: ChromaConfig | None
    clap: ClapConfig | None
    places: Mapping[str, str]
    """The name there of each condition here, in the order in which AudioCraft fuses them."""


def read_conditioners(settings: Section) -> Conditioners:
    """The conditioners of a configuration.

    Raises:
        ValueError: one that this project does not have, or a setting that it cannot honour, by its name.
    """
    part = settings.part("conditioners")
    text: str | None = None
    finetuned, chroma, clap = False, None, None
    fields: dict[str, FieldConfig] = {}
    texts: dict[str, str] = {}
    sounds: dict[str, str] = {}
    joints: dict[str, str] = {}
    for name in part.values:
        if name == "args":  # of the provider: probabilities of training
            continue
        conditioner = part.part(name)
        kind = conditioner.needed("model")
        conditioner.demand("model", "t5", "lut", "chroma_stem", "clap")
        details = conditioner.part(kind)
        if kind == "t5":
            if name != DESCRIPTION:
                raise ValueError(f"expected a T5 for {DESCRIPTION}, got one for {name}")
            text, finetuned = _text_encoder(details), details.get("finetune", False)
            texts["description"] = name
        elif kind == "lut":
            fields[name] = _label(details)
            texts[name] = name
        elif kind == "chroma_stem":
            if chroma is not None:
                raise ValueError(f"expected one conditioner of kind chroma_stem, got {sounds['chroma']} and {name}")
            chroma = _chroma(details, settings)
            sounds["chroma"] = name
        else:
            if clap is not None:
                raise ValueError(f"expected one conditioner of kind clap, got {joints['clap']} and {name}")
            clap = _clap(details)
            joints["clap"] = name
    return Conditioners(text, finetuned, fields, chroma, clap, texts | sounds | joints)


def refuse_another_order(config: MusicModelConfig, read: Conditioners) -> None:
    """Refuse conditions that AudioCraft joins in an order in which this project does not, where the order counts.

    There the texts come in the order of the configuration, and then melody and joint embedding.
    """
    decoder = config.language_model
    for fused in (decoder.prepend, decoder.cross if decoder.cross_positions else ()):
        theirs = [name for name in read.places if name in fused]
        ours = [name for name in config.conditions if name in fused]
        if theirs != ours:
            raise ValueError(f"expected conditioners in the order {ours}, got {theirs}")


def _text_encoder(details: Section) -> str:
    details.refuse_others({"name", "finetune", "autocast_dtype", "word_dropout", "normalize_text"})
    details.demand("normalize_text", False)
    details.demand("name", *SIZES)
    return str(details.needed("name"))


def _label(details: Section) -> LabelConfig:
    details.refuse_others({"n_bins", "dim", "tokenizer", "pad_idx"})
    details.demand("tokenizer", "noop", why="as words are lemmatised by spaCy there")
    details.demand("pad_idx", 0)
    return LabelConfig(rows=details.needed("n_bins"), width=details.needed("dim"))


def _chroma(details: Section, settings: Section) -> ChromaConfig:
    """A melody as AudioCraft's generation reads it: whatever the configuration says, `MusicGen.get_pretrained` brings
    it to the length of training and masks nothing, so that no melody is an endless C."""
    training = {"match_len_on_eval", "eval_wavs", "n_eval_wavs", "cache_path", "batch_size", "device"}
    details.refuse_others(
        {"sample_rate", "n_chroma", "radix2_exp", "argmax", "nfft", "winlen", "winhop", "norm"} | training
    )
    details.demand("sample_rate", MELODY_RATE)
    details.demand("n_chroma", 12)
    details.demand("radix2_exp", MELODY_WINDOW.bit_length() - 1)
    for key, usual in (("nfft", MELODY_WINDOW), ("winlen", MELODY_WINDOW), ("winhop", MELODY_WINDOW // 4)):
        details.demand(key, None, usual)
    details.demand("norm", None, float("inf"))
    seconds = settings.part("dataset").number("segment_duration")
    return ChromaConfig(frames=melody_frames(seconds), null="first_bin", one_hot=details.get("argmax", False))


def melody_frames(seconds: float) -> int:
    """Frames of the chroma of so many seconds: one every quarter of a window, the ends included."""
    return int(MELODY_RATE * seconds) // (MELODY_WINDOW // 4) + 1


def _clap(details: Section) -> ClapConfig:
    details.refuse_others({"dim", "quantize", "n_q", "bins", "decay", "kmeans_iters", "normalize"} | _CLAP_TRAINING)
    details.demand("normalize", True)
    quantizer = None
    if details.get("quantize", True):
        learning = QuantizerConfig(decay=details.get("decay", 0.99), kmeans_iterations=details.get("kmeans_iters", 10))
        quantizer = JointQuantizerConfig(
            codebooks=details.get("n_q", 12), cardinality=details.get("bins", 1024), learning=learning
        )
    return ClapConfig(width=details.needed("dim"), quantizer=quantizer)


def places_of(config: MusicModelConfig) -> dict[str, str]:
    """The name in AudioCraft of each condition of a model.

    Raises:
        ValueError: a condition that AudioCraft does not have, by name.
    """
    if config.description is not None and config.clap is not None:
        raise ValueError(
            "expected a description or a joint embedding (clap), which in AudioCraft takes the description's place, "
            "got both"
        )
    for name, field in config.fields.items():
        if field.kind != "label":
            raise ValueError(
                f"expected fields that are labels, as AudioCraft's tables are here, got {name}: {field.kind}"
            )
    for name in (*config.language_model.sum,):
        if name in ("description", "chroma"):
            raise ValueError(f"expected conditions of one vector to be summed, as in AudioCraft, got {name}")
    own = {"description": DESCRIPTION, "chroma": MELODY, "clap": DESCRIPTION}
    return {name: own.get(name, name) for name in config.conditions}


def conditioner_settings(config: MusicModelConfig, segment_seconds: float, text: TextEncoder | None) -> dict[str, Any]:
    """The section `conditioners` of AudioCraft's configuration.

    Args:
        segment_seconds: length of the training windows, which a melody is brought to there.
        text: how AudioCraft gets the text encoder; None for a model without.

    Raises:
        ValueError: a form of a condition that AudioCraft does not have, by name.
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
        sections[MELODY] = {"model": "chroma_stem", "chroma_stem": _chroma_settings(config.chroma, segment_seconds)}
    if config.clap is not None:
        sections[DESCRIPTION] = {"model": "clap", "clap": _clap_settings(config.clap)}
    return sections


def _chroma_settings(chroma: ChromaConfig, segment_seconds: float) -> dict[str, Any]:
    expected = ChromaConfig(frames=melody_frames(segment_seconds), null="first_bin", one_hot=chroma.one_hot)
    for field in ("null", "match_length", "frame_rate", "frames"):
        wanted, got = getattr(expected, field), getattr(chroma, field)
        if wanted != got:
            raise ValueError(f"expected a chroma with {field} = {wanted}, as AudioCraft generates with, got {got}")
    return {
        "sample_rate": MELODY_RATE,
        "n_chroma": 12,
        "radix2_exp": MELODY_WINDOW.bit_length() - 1,
        "argmax": chroma.one_hot,
        "match_len_on_eval": True,
        "eval_wavs": None,
        "n_eval_wavs": 0,
        "cache_path": None,
    }


def _clap_settings(clap: ClapConfig) -> dict[str, Any]:
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
