"""A checkpoint from one form into another: this project's, Hugging Face's MusicGen, AudioCraft's.

What is written holds all that it needs: language model, text encoder where the form keeps one, and codec. A model that
was trained here only names its codec; that one is fetched, and must be the one whose codes the model learned. The card
comes along, with how the new form is loaded.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from model.codec.codec import coder_of
from schemas import WeightsRef
from schemas.storage.local_disk import new_folder
from stages.checkpoints.audiocraft.checkpoint import write_audiocraft
from stages.checkpoints.codecs import IDENTITY_DIGITS, CodesFormat, load_matching_network
from stages.checkpoints.huggingface.checkpoint import write_hugging_face
from stages.checkpoints.loading import Form, detect_form, load_checkpoint
from stages.checkpoints.model_card import CARD, converted_card, write_card
from stages.checkpoints.native import FindWeights, TrainedModel, describe_codec, save_checkpoint
from stages.checkpoints.precision import Precision, StoredType, stored_type


@dataclass(frozen=True)
class Conversion:
    """What was read and written."""

    source: Form
    destination: Form
    parameters: int
    """Of the language model and its conditioners, the text encoder included."""
    codec: str
    """The codec that is there now, in words."""
    stored: StoredType
    """The precision of its weights there."""


def convert_checkpoint(
    folder: Path,
    destination: Path,
    form: Form,
    weights: FindWeights,
    codec: WeightsRef | None = None,
    stored: StoredType | None = None,
) -> Conversion:
    """Write the checkpoint of a local folder in another form (or the same, with all that it needs inside).

    Args:
        destination: a local folder that is not there yet, or is empty; it stands whole or not at all.
        weights: finds the text encoder and the codec that the checkpoint names.
        codec: the codec, where the checkpoint neither holds nor names one, or it has another name now.
        stored: the precision that weights are rounded to; None keeps that of the source, and changes no weight.

    Raises:
        ValueError: the source is no checkpoint, `destination` is taken or inside the source, the codec is not the
            model's, or the form cannot express the model.
        MissingWeights: what the checkpoint names cannot be had.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"expected a new or empty folder to write to, got {destination}, where something is already")
    if folder.resolve() in destination.resolve().parents:  # whose digest that would change
        raise ValueError(f"expected a folder outside of the checkpoint {folder} to write to, got {destination}")
    trained = _leave_places_out(_add_codec(load_checkpoint(folder, weights), weights, codec))
    precision = Precision(stored or stored_type(folder), rounds=stored is not None)
    target = destination.absolute()
    with new_folder(target) as new:
        if form == "segue":
            # The text encoder's weights come along, wherever they were kept.
            facts = trained.facts.model_copy(update={"text_encoder": None})
            save_checkpoint(new, trained.model, facts, trained.codec, precision)
        elif form == "hf":
            write_hugging_face(trained, new, precision)
        else:
            write_audiocraft(trained, new, precision)
        write_card(new, converted_card(_read_card(folder), trained.facts, form))
    parameters = sum(value.numel() for value in trained.model.parameters())
    return Conversion(detect_form(folder), form, parameters, _codec_in_words(trained), precision.stored)


def _read_card(folder: Path) -> str | None:
    """Read the card of a checkpoint; None where it has none that is text."""
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _add_codec(trained: TrainedModel, weights: FindWeights, chosen: WeightsRef | None) -> TrainedModel:
    """Give the model its codec: the one inside it, the one that the user chose, or the one that it names."""
    facts = trained.facts
    named = chosen or (WeightsRef(facts.codec.reference) if facts.codec and facts.codec.reference else None)
    if named is None or (chosen is None and trained.codec is not None):
        return trained
    codes = CodesFormat.from_facts(facts)
    network = load_matching_network(codes, weights(named).path, f"the codec {named}", "the checkpoint")
    if facts.codec is None:
        codec = describe_codec(network, codes.codebooks, coder_of(network).channels, str(named))
        facts = facts.model_copy(update={"codec": codec})
    return replace(trained, facts=facts, codec=network)


def _leave_places_out(trained: TrainedModel) -> TrainedModel:
    """Leave out where on this machine the codec was had that lies with the model: elsewhere it says nothing, and who
    publishes a model does not mean to publish folders' names."""
    codec = trained.facts.codec
    if trained.codec is None or codec is None or codec.reference is None:
        return trained
    reference = WeightsRef(codec.reference)
    if not (Path(reference).is_absolute() or reference.startswith((".", "~")) or Path(reference).exists()):
        return trained
    nameless = codec.model_copy(update={"reference": None})
    return replace(trained, facts=trained.facts.model_copy(update={"codec": nameless}))


def _codec_in_words(trained: TrainedModel) -> str:
    codec = trained.facts.codec
    if codec is None:
        return "no codec"
    where = "its codec" if trained.codec is not None else f"the name of its codec {codec.reference}"
    sound = {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")
    return f"{where} (identity {codec.identity[:IDENTITY_DIGITS]}…, {codec.codebooks} codebooks, {sound})"
