"""A trained language model from a folder, in whichever form it is: this project's, Hugging Face's or AudioCraft's.

The files in the folder decide which form it is. Published MusicGen repositories hold files of Hugging Face's and
AudioCraft's forms side by side; they are read as Hugging Face's, which include tokenizer and codec. The form, and what
the model reads, are found without torch, so that a plan need not load it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from schemas import WeightsRef
from schemas.weights import AUDIOCRAFT_FILES
from stages.checkpoints.facts import CONFIG, ModelDescription, read_facts

if TYPE_CHECKING:
    from stages.checkpoints.native import FindWeights, TrainedModel

Form = Literal["segue", "hf", "audiocraft"]

HUGGING_FACE_CONDITIONS = {"musicgen": ("description",), "musicgen_melody": ("description", "chroma")}
"""`model_type` of the models of transformers that can be read -> the conditions that they read."""


def detect_form(folder: Path) -> Form:
    """Return the form of the checkpoint in a local folder.

    Raises:
        ValueError: there is none that can be read.
    """
    content = "no config.json"
    if (folder / CONFIG).is_file():
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"expected JSON in {folder / CONFIG}, got {error}") from error
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(model_type, str) and model_type in HUGGING_FACE_CONDITIONS:
            return "hf"
        if isinstance(config, dict) and {"format", "model", "segment_seconds"} <= set(config):
            return "segue"
        content = "a config.json without a model" if model_type is None else f"a config.json of type {model_type!r}"
    if (folder / AUDIOCRAFT_FILES[0]).is_file():
        return "audiocraft"
    if not folder.is_dir():
        content = "a file" if folder.exists() else "nothing there"
    raise ValueError(
        f"expected a language model's checkpoint in {folder} (Segue's, Hugging Face's of type "
        f"{' or '.join(HUGGING_FACE_CONDITIONS)}, or AudioCraft's {AUDIOCRAFT_FILES[0]}), got {content}"
    )


def read_condition_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the conditions that the model of a checkpoint reads.

    Raises:
        ValueError: there is no checkpoint that can be read.
    """
    form = detect_form(folder)
    if form == "audiocraft":  # is only in the file of the weights, which takes torch to read
        from stages.checkpoints.audiocraft.conditioners import conditioners_from_audiocraft
        from stages.checkpoints.audiocraft.package import read_settings

        return tuple(conditioners_from_audiocraft(read_settings(folder / AUDIOCRAFT_FILES[0])).names)
    if form == "hf":
        return HUGGING_FACE_CONDITIONS[json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"]]
    try:
        return read_facts(folder).model.conditions
    except ValueError as error:
        raise ValueError(f"expected a language model's checkpoint in {folder}, got {error}") from error


def named_text_encoder(folder: Path) -> WeightsRef | None:
    """Return the name of the text encoder that a checkpoint names but does not hold; None where it holds its own, or
    reads no text.

    Raises:
        ValueError: there is no checkpoint that can be read.
    """
    form = detect_form(folder)
    if form == "segue":
        reference = read_facts(folder).text_encoder
        return None if reference is None else WeightsRef(reference)
    if form == "hf":
        return None
    from stages.checkpoints.audiocraft.conditioners import T5_SIZES, conditioners_from_audiocraft
    from stages.checkpoints.audiocraft.package import read_settings

    name = conditioners_from_audiocraft(read_settings(folder / AUDIOCRAFT_FILES[0])).text_encoder
    return None if name is None else WeightsRef(T5_SIZES[name].hub)


def describe_model(folder: Path, weights: "FindWeights", text_encoder: WeightsRef | None = None) -> ModelDescription:
    """Read what the model of a checkpoint is, without its weights.

    Args:
        weights: finds the text encoder (`context.weights`).
        text_encoder: where to find a text encoder that the checkpoint only names; None takes that name.

    Raises:
        ValueError: there is no checkpoint that can be read, or its codec is unknown.
        MissingWeights: `text_encoder` cannot be fetched.
    """
    form = detect_form(folder)
    if form == "hf":
        from stages.checkpoints.huggingface.checkpoint import describe_hugging_face

        return describe_hugging_face(folder)
    if form == "audiocraft":
        from stages.checkpoints.audiocraft.checkpoint import describe_audiocraft

        width = None
        if text_encoder is not None:
            width = json.loads((weights(text_encoder).path / CONFIG).read_text(encoding="utf-8")).get("d_model")
        return describe_audiocraft(folder, width)
    facts = read_facts(folder)
    if facts.codec is None:
        raise ValueError(f"expected facts of the codec in {folder / CONFIG}, got none")
    return ModelDescription(facts.model, facts.segment_seconds, facts.codec.channels)


def read_frame_rate(folder: Path) -> float | None:
    """Return the frames of codes a second of a checkpoint's model; None where only the file of the weights states it.

    Raises:
        ValueError: there is no checkpoint that can be read.
    """
    form = detect_form(folder)
    if form == "segue":
        return read_facts(folder).frame_rate
    if form == "audiocraft":
        return None
    codec = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("audio_encoder", {})
    ratios = codec.get("upsampling_ratios")
    return codec["sampling_rate"] / math.prod(ratios) if ratios and "sampling_rate" in codec else None


def count_weights(folder: Path) -> int:
    """Count the numbers in the files of a checkpoint's weights: its network, and codec and text encoder where it holds
    them.

    Raises:
        ValueError: a file is damaged or was cut short; the message names it.
    """
    safetensors = sorted(folder.rglob("*.safetensors"))
    if safetensors:
        return sum(_count_safetensors(file) for file in safetensors)
    from stages.networks.loading import load_pickle  # imports torch

    return sum(_count_tensors(load_pickle(file)) for file in sorted(folder.glob("*.bin")))


def _count_safetensors(file: Path) -> int:
    """Count the numbers in a safetensors file from its header: 8 bytes with the header's length, then JSON, then the
    tensors.

    Raises:
        ValueError: the file does not have the length that its header says, as after a download that broke off.
    """
    size = file.stat().st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(min(length, size)))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected safetensors in {file}, got a file without their header: {error}") from error
    if size != expected:
        raise ValueError(f"expected {expected:,} bytes of safetensors in {file}, got {size:,}: download it again")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _count_tensors(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_count_tensors(item) for item in value.values())
    return math.prod(value.shape) if hasattr(value, "shape") else 0


def load_checkpoint(
    folder: Path, weights: "FindWeights", device: str = "cpu", text_encoder: WeightsRef | None = None
) -> "TrainedModel":
    """Load a model in any of the forms; no code in its files is run.

    Args:
        folder: the local folder, from `context.weights(reference).path`.
        weights: finds a text encoder or codec that the checkpoint only names (`context.weights`).
        text_encoder: where to find a text encoder that the checkpoint only names; None takes that name.

    Raises:
        ValueError: there is no checkpoint, or its model cannot be built here.
        MissingWeights: weights that it names cannot be fetched.
    """
    form = detect_form(folder)
    if form == "segue":
        from stages.checkpoints.native import load_native_checkpoint

        return load_native_checkpoint(folder, weights, device, text_encoder)
    if form == "hf":
        from stages.checkpoints.huggingface.checkpoint import read_hugging_face

        trained = read_hugging_face(folder)
    else:
        from stages.checkpoints.audiocraft.checkpoint import read_audiocraft

        trained = read_audiocraft(folder, weights, text_encoder)
    trained.model.to(device).eval()
    return trained
