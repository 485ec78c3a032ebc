"""The configuration of transformers' MusicGen and MusicGen-melody, converted to this project's and back.

Both describe the same computation. A feature that transformers does not have is refused by name when a model is
written. The `dropout` of 0.1 in published checkpoints is only transformers' default: MusicGen was trained without
dropout (AudioCraft's `transformer_lm.dropout` is 0). It affects further training only.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import EncodecConfig, EncodecModel, MusicgenConfig, MusicgenMelodyConfig, T5Config

from model.chroma import PITCH_CLASSES
from model.codec.network import bandwidth_for
from model.conditioning.config import MelodyConfig, MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig

HuggingFaceConfig = MusicgenConfig | MusicgenMelodyConfig

TYPES: dict[str, type[MusicgenConfig] | type[MusicgenMelodyConfig]] = {
    "musicgen": MusicgenConfig,
    "musicgen_melody": MusicgenMelodyConfig,
}
PARTS = ("text_encoder", "audio_encoder", "decoder")
IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Settings that are ignored in a file: transformers would fetch the kernels that they name, and run them."""
ACTIVATIONS = ("gelu", "relu")
POSITIONS = 2048
"""Positions that transformers makes sinusoids for at first; it makes more when needed."""


def read_hugging_face_config(folder: Path) -> HuggingFaceConfig:
    """Read the configuration of a folder.

    Raises:
        ValueError: it is the configuration of another model, or of a MusicGen with other encoders.
    """
    raw = read_json_object(folder / "config.json")
    kind = raw.get("model_type")
    if kind not in TYPES:
        raise ValueError(f"expected a model of type {' or '.join(TYPES)} in {folder}, got {kind!r}")
    if missing := [name for name in PARTS if not isinstance(raw.get(name), dict)]:
        raise ValueError(f"expected a text_encoder, an audio_encoder and a decoder in {folder}, got no {missing[0]}")
    settings = _without_implementations(raw, folder) | {
        name: _without_implementations(raw[name], folder) for name in PARTS
    }
    try:
        config = TYPES[kind].from_dict(settings)
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"expected the configuration of a {kind} in {folder}, got {error}") from error
    encoder: Any
    for name, encoder, wanted in (
        ("text_encoder", config.text_encoder, T5Config),
        ("audio_encoder", config.audio_encoder, EncodecConfig),
    ):
        if type(encoder) is not wanted:
            raise ValueError(f"expected {name} of type {wanted.model_type} in {folder}, got {encoder.model_type!r}")
    return config


def _without_implementations(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Leave out the settings that name implementations.

    Raises:
        ValueError: the weights are quantised.
    """
    if "quantization_config" in raw:
        raise ValueError(f"expected weights that are not quantised in {folder}, got a quantization_config")
    return {name: value for name, value in raw.items() if name not in IMPLEMENTATIONS}


def read_json_object(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ValueError: the file holds none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a JSON object in {file}, got {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {file}, got {type(value).__name__}")
    return value


def stereo_delays(codebooks: int) -> tuple[int, ...]:
    """Return the delays of a stereo model, whose codebooks are left's and right's alternately: a mono model's delays,
    each twice."""
    return tuple(codebook // 2 for codebook in range(codebooks))


def config_from_hugging_face(config: HuggingFaceConfig, melody_rate: float, max_tokens: int) -> MusicModelConfig:
    """Return the configuration of the music model that transformers' configuration describes.

    Args:
        config: from `read_hugging_face_config`.
        melody_rate: frames of a melody a second, as the folder's feature extractor makes them.
        max_tokens: tokens after which a description is cut.

    Raises:
        ValueError: the model has a feature that this project's lacks.
    """
    decoder: Any = config.decoder
    text: Any = config.text_encoder
    melody = isinstance(config, MusicgenMelodyConfig)
    if decoder.activation_function not in ACTIVATIONS:
        raise ValueError(f"expected activation_function {' or '.join(ACTIVATIONS)}, got {decoder.activation_function}")
    cross_width = None if melody else decoder.cross_attention_hidden_size
    if cross_width not in (None, decoder.hidden_size):
        raise ValueError(
            f"expected cross_attention_hidden_size {decoder.hidden_size}, the decoder's own, got {cross_width}"
        )
    if melody and config.num_chroma != PITCH_CLASSES:
        raise ValueError(f"expected num_chroma {PITCH_CLASSES}, got {config.num_chroma}")
    dropout = decoder.dropout if decoder.dropout == decoder.activation_dropout else 0.0
    attention_dropout = decoder.attention_dropout
    exact = decoder.ffn_dim % decoder.hidden_size == 0
    return MusicModelConfig(
        language_model=LanguageModelConfig(
            codebooks=decoder.num_codebooks,
            cardinality=decoder.vocab_size,
            width=decoder.hidden_size,
            heads=decoder.num_attention_heads,
            layers=decoder.num_hidden_layers,
            feedforward_multiplier=decoder.ffn_dim // decoder.hidden_size if exact else 4,
            feedforward_width=None if exact else decoder.ffn_dim,
            activation=decoder.activation_function,
            dropout=dropout,
            attention_dropout=None if attention_dropout == dropout else attention_dropout,
            delays=stereo_delays(decoder.num_codebooks) if decoder.audio_channels == 2 else None,
            cross=() if melody else ("description",),
            prepend=("description", "chroma") if melody else (),
        ),
        description=TextConfig(width=text.d_model, max_tokens=max_tokens),
        chroma=MelodyConfig(frames=config.chroma_length, frame_rate=melody_rate, null="first_bin") if melody else None,
    )


def config_to_hugging_face(model: MusicModelConfig, text_encoder: T5Config, codec: EncodecModel) -> HuggingFaceConfig:
    """Return transformers' configuration for a music model, its text encoder and its codec.

    Raises:
        ValueError: the model has a feature that transformers' MusicGen lacks; the message names it.
    """
    _check_expressible(model)
    ours = model.language_model
    stereo = ours.codebook_delays == stereo_delays(ours.codebooks) and ours.codebooks > 1
    decoder = {
        "vocab_size": ours.cardinality,
        "num_codebooks": ours.codebooks,
        "hidden_size": ours.width,
        "num_attention_heads": ours.heads,
        "num_hidden_layers": ours.layers,
        "ffn_dim": ours.expanded_width,
        "activation_function": ours.activation,
        "dropout": ours.dropout,
        "activation_dropout": ours.dropout,
        "attention_dropout": ours.dropout if ours.attention_dropout is None else ours.attention_dropout,
        "audio_channels": 2 if stereo else 1,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": ours.cardinality,
        "bos_token_id": ours.cardinality,
        # Needed not for generating, but for training further in transformers with labels.
        "decoder_start_token_id": ours.cardinality,
    }
    levels = ours.codebooks // 2 if stereo else ours.codebooks
    parts: dict[str, Any] = {
        "text_encoder": _without_local_path(text_encoder.to_dict()),
        "audio_encoder": _audio_encoder(codec, levels),
        "decoder": decoder,
    }
    if model.chroma is None:
        config: HuggingFaceConfig = MusicgenConfig(**parts)
        config.architectures = ["MusicgenForConditionalGeneration"]
    else:
        config = MusicgenMelodyConfig(**parts, num_chroma=PITCH_CLASSES, chroma_length=model.chroma.frames)
        config.architectures = ["MusicgenMelodyForConditionalGeneration"]
    config.dtype = "float32"
    return config


def _check_expressible(model: MusicModelConfig) -> None:
    """Check that transformers' MusicGen or MusicGen-melody can express a model.

    `padding` may have either value: it only matters in a batch, and a description by itself gives the same.

    Raises:
        ValueError: it cannot; the message names the first difference.
    """
    melody = model.chroma is not None
    readable = ("description", "chroma") if melody else ("description",)
    if unreadable := [name for name in model.conditions if name not in readable]:
        raise ValueError(
            "expected a model that reads descriptions, or descriptions and melodies, as Hugging Face's MusicGen and "
            f"MusicGen-melody do, got one that reads {', '.join(unreadable)}"
        )
    if model.description is None:
        raise ValueError("expected a model that reads descriptions, as Hugging Face's MusicGen does, got one without")
    ours = model.language_model
    plain = LanguageModelConfig(
        cross=() if melody else ("description",),
        prepend=("description", "chroma") if melody else (),
        codebooks=ours.codebooks,
        cardinality=ours.cardinality,
        width=ours.width,
        heads=ours.heads,
        layers=ours.layers,
    )
    free = {"feedforward_multiplier", "feedforward_width", "activation", "dropout", "attention_dropout", "padding"}
    unused = {"flattening", "group", "interpolate_steps", "cross_position_scale"}
    wanted, own = plain.model_dump(exclude=free | unused), ours.model_dump(exclude=free | unused)
    stereo = stereo_delays(ours.codebooks)
    own["delays"] = ours.codebook_delays
    wanted["delays"] = stereo if own["delays"] == stereo else plain.codebook_delays
    # The order of the names does not matter: the melody goes before the description.
    wanted["prepend"], own["prepend"] = sorted(wanted["prepend"]), sorted(own["prepend"])
    wanted["key_value_heads"], own["key_value_heads"] = ours.heads, ours.key_value_heads or ours.heads
    if model.chroma is not None:
        chroma = MelodyConfig(frames=model.chroma.frames, null="first_bin")
        wanted |= {f"chroma.{name}": value for name, value in chroma.model_dump().items()}
        own |= {f"chroma.{name}": value for name, value in model.chroma.model_dump().items()}
    for name, value in wanted.items():
        if own[name] != value:
            raise ValueError(
                f"expected a model with {name} = {_format_value(value)}, which Hugging Face's "
                f"{'MusicGen-melody' if melody else 'MusicGen'} has, got {_format_value(own[name])}"
            )


def _format_value(value: object) -> str:
    """Return a value as it is written in a configuration file."""
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in (None, (), []) else str(value)


def _without_local_path(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out the local path that a network was loaded from."""
    return {name: value for name, value in settings.items() if name != "_name_or_path"}


def _audio_encoder(codec: EncodecModel, levels: int) -> dict[str, Any]:
    """Return the codec's settings. The first bandwidth is that of `levels` codebooks, which transformers encodes
    prompts with."""
    config: Any = codec.config
    quantizer: Any = codec.quantizer
    rates = [*config.target_bandwidths, bandwidth_for(levels, config.codebook_nbits, config.frame_rate)]
    first = next(rate for rate in rates if quantizer.get_num_quantizers_for_bandwidth(rate) == levels)
    settings = _without_local_path(config.to_dict())
    return settings | {"target_bandwidths": [first, *(rate for rate in config.target_bandwidths if rate > first)]}
