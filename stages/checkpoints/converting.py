"""A checkpoint from one form into another: this project's, Hugging Face's MusicGen, AudioCraft's.

What is written holds all that it needs: language model, text encoder where the form keeps one, and codec. A model that
was trained here only names its codec; that one is fetched, and must be the one whose codes the model learned.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from model.codec.codec import coder_of
from schemas import Store, WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.codecs import SHORT, codes_of_model, network_of
from stages.checkpoints.forms import Form, form_of
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import TrainedModel, describe_codec, save_checkpoint

Find = Callable[[WeightsRef], LocalWeights]
"""Finds weights by name (`WeightsLibrary.get`)."""


@dataclass(frozen=True)
class Conversion:
    """What was read and written."""

    source: Form
    destination: Form
    parameters: int
    """Of the language model and its conditioners, the text encoder included."""
    codec: str
    """The codec that is there now, in words."""


def convert(folder: Path, destination: Path, form: Form, weights: Find, codec: WeightsRef | None = None) -> Conversion:
    """Write the checkpoint of a local folder in another form (or the same, with all that it needs inside).

    Args:
        destination: a local folder that is not there yet, or is empty; it stands whole or not at all.
        weights: finds the text encoder and the codec that the checkpoint names.
        codec: the codec, where the checkpoint neither holds nor names one, or it has another name now.

    Raises:
        ValueError: the source is no checkpoint, `destination` is taken or inside the source, the codec is not the
            model's, or the form cannot express the model.
        MissingWeights: what the checkpoint names cannot be had.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"expected a new or empty folder to write to, got {destination}, where something is already")
    if folder.resolve() in destination.resolve().parents:  # whose digest that would change
        raise ValueError(f"expected a folder outside of the checkpoint {folder} to write to, got {destination}")
    trained = _with_codec(load_checkpoint(folder, weights), weights, codec)
    place = destination.absolute()
    with Store(str(place.parent)).new_folder(place.name) as new:
        if form == "segue":
            # The text encoder's weights come along, wherever they were kept.
            facts = trained.facts.model_copy(update={"text_encoder": None})
            save_checkpoint(new, trained.model, facts, trained.codec)
        elif form == "hf":
            from stages.checkpoints.huggingface.checkpoint import write_hugging_face

            write_hugging_face(trained, new)
        else:
            from stages.checkpoints.audiocraft.checkpoint import write_audiocraft

            write_audiocraft(trained, new)
    parameters = sum(value.numel() for value in trained.model.parameters())
    return Conversion(form_of(folder), form, parameters, _codec_in_words(trained))


def _with_codec(trained: TrainedModel, weights: Find, given: WeightsRef | None) -> TrainedModel:
    """The model with its codec: the one inside it, the one given, or the one that it names."""
    facts = trained.facts
    named = given or (WeightsRef(facts.codec.reference) if facts.codec and facts.codec.reference else None)
    if named is None or (given is None and trained.codec is not None):
        return trained
    network = network_of(codes_of_model(facts), weights(named).path, f"the codec {named}", "the checkpoint")
    if facts.codec is None:
        codebooks, channels = facts.model.language_model.codebooks, coder_of(network).channels
        found = describe_codec(network, codebooks, channels, str(named))
        facts = facts.model_copy(update={"codec": found})
    return replace(trained, facts=facts, codec=network)


def _codec_in_words(trained: TrainedModel) -> str:
    codec = trained.facts.codec
    if codec is None:
        return "no codec"
    where = "its codec" if trained.codec is not None else f"the name of its codec {codec.reference}"
    sound = {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")
    return f"{where} (identity {codec.identity[:SHORT]}…, {codec.codebooks} codebooks, {sound})"
