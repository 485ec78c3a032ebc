"""A trained language model as a folder in this project's own form, written and read.

```
model.safetensors   the averaged weights of language model and conditioners (and of a text encoder that learned too)
README.md           its card: what it reads and was taught, how good it is, how it is loaded
config.json         what the model is, and what its codes and conditions came from
text_encoder/       configuration and tokenizer of the text encoder; its weights where it came with the model
codec/              the codec of its codes, where it came with the model
adapter/            low-rank updates in peft's form, where it learned by them; the weights have them already
```

A model that was trained here does not copy a frozen text encoder or the codec into its folder; `config.json` has the
digest of the one and the identity of the other. A model that was imported with both keeps both, so that its folder is
complete.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    DacModel,
    EncodecModel,
    MimiModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from model.codec.codec import codebook_identity, coder_of
from model.codec.coders import CodecNetwork, Coder
from model.music_model import MusicModel
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.facts import CONFIG, CheckpointFacts, CodecFacts, read_facts
from stages.checkpoints.precision import Precision
from stages.networks.loading import load_network, load_tokenizer, save_network

WEIGHTS, TEXT_ENCODER, CODEC = "model.safetensors", "text_encoder", "codec"

ATTENTION = "sdpa"
"""The implementation of attention that transformers chooses by default."""

CODECS: Mapping[str, tuple[type[CodecNetwork], str]] = {
    "encodec": (EncodecModel, "eager"),
    "dac": (DacModel, "eager"),
    "mimi": (MimiModel, ATTENTION),
}
"""`model_type` of a codec's configuration -> its class, and its implementation of attention."""


FindWeights = Callable[[WeightsRef], LocalWeights]
"""Finds weights by name (`context.weights`, `WeightsLibrary.get`)."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A language model in evaluation mode, and the facts about it."""

    model: MusicModel
    facts: CheckpointFacts
    codec: CodecNetwork | None = None
    """The codec, where it came with the model."""


@disk_errors()
def save_checkpoint(
    folder: Path,
    model: MusicModel,
    facts: CheckpointFacts,
    codec: CodecNetwork | None = None,
    precision: Precision = Precision(),
) -> None:
    """Write a model with its present weights into an existing folder, and `codec` with it if it is given.

    The weights of a frozen text encoder are written only where `facts.text_encoder` is None.
    """
    weights = _without_shared_memory({name: value.detach().cpu() for name, value in model.weights().items()})
    save_file(precision.of(weights), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if model.description is not None:
        if facts.text_encoder is None and not model.description.config.finetune:
            encoder = model.description.encoder
            save_network(encoder, folder / TEXT_ENCODER, precision.of(encoder.state_dict()))
        else:
            model.description.encoder.config.save_pretrained(folder / TEXT_ENCODER)
        model.description.tokenizer.save_pretrained(folder / TEXT_ENCODER)
    if codec is not None:
        save_network(codec, folder / CODEC, precision.of(codec.state_dict()))


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors requires. Only those that do share are copied: a second copy
    of a large model may be more than the machine has room for."""
    separate, storages = dict[str, Tensor](), set[int]()
    for name, value in tensors.items():
        storage = value.untyped_storage()
        owns_memory = value.is_contiguous() and storage.nbytes() == value.nbytes and storage.data_ptr() not in storages
        separate[name] = value if owns_memory else value.clone(memory_format=torch.contiguous_format)
        storages.add(storage.data_ptr())
    return separate


def load_native_checkpoint(
    folder: Path,
    weights: FindWeights,
    device: str | torch.device = "cpu",
    text_encoder: WeightsRef | None = None,
) -> TrainedModel:
    """Read a model that `save_checkpoint` wrote.

    Args:
        folder: the local folder, from `context.weights(reference).path`.
        weights: finds a frozen text encoder that is stored elsewhere (`context.weights`).
        text_encoder: where to find that text encoder; None takes the name in the folder.

    Raises:
        ValueError: the folder is not such a checkpoint, or its text encoder or codec is not the one that it was trained
            with.
        MissingWeights: its text encoder cannot be fetched.
    """
    try:
        facts = read_facts(folder)
        encoder, tokenizer = None, None
        if facts.model.description is not None:
            tokenizer = load_tokenizer(folder / TEXT_ENCODER)
            if facts.model.description.finetune:
                config = T5Config.from_pretrained(folder / TEXT_ENCODER, attn_implementation=ATTENTION)
                encoder = T5EncoderModel(config)
            else:
                encoder = _load_frozen_text_encoder(folder, facts, weights, text_encoder)
        with torch.device("meta"):  # the weights come from the file; this saves a random start
            model = MusicModel(facts.model, encoder, tokenizer)
        model.load_weights(load_file(folder / WEIGHTS))
    except (OSError, KeyError, ValidationError, json.JSONDecodeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"expected a language model's checkpoint in {folder}, got {error}") from error
    return TrainedModel(model.to(device).eval(), facts, load_codec_inside(folder, facts))


def _load_frozen_text_encoder(
    folder: Path, facts: CheckpointFacts, weights: FindWeights, text_encoder_reference: WeightsRef | None
) -> T5EncoderModel:
    if facts.text_encoder is None:
        return load_text_encoder(folder / TEXT_ENCODER)[0]
    files = weights(text_encoder_reference or WeightsRef(facts.text_encoder))
    if files.digest != facts.text_encoder_digest:
        given_name = f"{text_encoder_reference} with digest " if text_encoder_reference else ""
        raise ValueError(
            f"expected the text encoder {facts.text_encoder} with digest {facts.text_encoder_digest}, as "
            f"{folder.name} was trained with, got {given_name}{files.digest}"
        )
    return load_text_encoder(files.path)[0]


def load_codec_inside(folder: Path, facts: CheckpointFacts) -> CodecNetwork | None:
    """Load the codec in a model's folder; None where there is none.

    Raises:
        ValueError: it is not the codec whose codes the model learned.
    """
    if not (folder / CODEC).is_dir():
        return None
    network = load_native_codec(folder / CODEC)
    if facts.codec is None:
        raise ValueError(f"expected facts of the codec in {folder / CONFIG}, because the folder has a codec, got none")
    check_codec(network, facts.codec, f"the checkpoint {folder}")
    return network


def describe_codec(network: CodecNetwork, codebooks: int, channels: int, reference: str | None = None) -> CodecFacts:
    """Describe the codec of a model's codes.

    Args:
        codebooks: K of the codes; twice the network's own levels in use where a mono network encodes both sides.
        channels: channels of the sound that the codes stand for.
        reference: name of the weights that the codec was loaded from.

    Raises:
        ValueError: the network has no such levels.
    """
    coder = coder_of(network)
    return CodecFacts(
        reference=reference,
        identity=codebook_identity(network, codebooks // encoded_sides(coder, channels)),
        sample_rate=coder.sample_rate,
        frame_rate=coder.frame_rate,
        codebooks=codebooks,
        cardinality=coder.cardinality,
        channels=channels,
    )


def encoded_sides(coder: Coder, channels: int | None) -> int:
    """Return how many times a network encodes a recording: twice where the network is mono and the sound stereo, else
    once."""
    return 2 if channels == 2 and coder.channels == 1 else 1


def check_codec(network: CodecNetwork, facts: CodecFacts, owner: str) -> None:
    """Refuse a codec whose codes are not the model's.

    Args:
        owner: the model in an error message, such as `the checkpoint 0123456789abcdef`.

    Raises:
        ValueError: the codec has another identity.
    """
    levels = facts.codebooks // encoded_sides(coder_of(network), facts.channels)
    if not has_identity(network, levels, facts.identity):
        raise ValueError(
            f"expected the codec with identity {facts.identity}, which {owner} uses, got one with "
            f"{codebook_identity(network, levels)}"
        )


def has_identity(network: CodecNetwork, levels: int, identity: str) -> bool:
    """Return whether a codec has an identity. It is computed from values in half precision; identities from before that
    rule were computed in float32, and are recognised too."""
    return any(codebook_identity(network, levels, rounded) == identity for rounded in (torch.float16, torch.float32))


def load_native_codec(path: Path) -> CodecNetwork:
    """Load a codec from a local folder in transformers' form, of the kind that its configuration names, on the CPU.

    Raises:
        ValueError: the folder holds no codec, or one of an unknown kind.
    """
    expected = f"expected a codec's folder (config.json, model.safetensors) of type {', '.join(CODECS)} in {path}"
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind = content.get("model_type") if isinstance(content, dict) else None
    except (OSError, ValueError) as error:
        raise ValueError(f"{expected}, got {error}") from error
    if not isinstance(kind, str) or kind not in CODECS:
        raise ValueError(f"{expected}, got one of type {kind!r}")
    network_class, attention = CODECS[kind]
    try:
        network: CodecNetwork = load_network(network_class, path, attention)
        return network
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise ValueError(f"{expected}, got {error}") from error


def load_encodec(path: Path) -> EncodecModel:
    """Load an EnCodec from a local folder in transformers' form, on the CPU.

    Raises:
        ValueError: there is no such codec.
    """
    network = load_native_codec(path)
    if not isinstance(network, EncodecModel):
        raise ValueError(f"expected an EnCodec in {path}, got a {coder_of(network).kind}")
    return network


def load_text_encoder(path: Path) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    """Load a T5 encoder and its tokenizer from a local folder.

    Raises:
        ValueError: there is no such encoder.
    """
    try:
        return load_network(T5EncoderModel, path, ATTENTION), load_tokenizer(path)
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise ValueError(f"expected a T5 encoder and its tokenizer in {path}, got {error}") from error
