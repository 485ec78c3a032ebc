"""Converting checkpoints between forms: this project's, Hugging Face's MusicGen, AudioCraft's.

The result is complete: language model, text encoder where the form keeps one, and codec. A model that was trained here
only names its codec; that codec is fetched, and must be the one whose codes the model learned. The card is converted
too, with how the new form is loaded.
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
    """Number of weights of the language model and its conditioners, the text encoder included."""
    codec: str
    """The codec of the result, in words."""
    stored: StoredType
    """The precision of the result's weights."""


def convert_checkpoint(
    folder: Path,
    destination: Path,
    form: Form,
    weights: FindWeights,
    codec: WeightsRef | None = None,
    stored: StoredType | None = None,
) -> Conversion:
    """Write the checkpoint of a local folder in another form, or completely in the same one.

    Args:
        destination: a local folder that does not exist yet, or is empty; it is written completely or not at all.
        weights: finds the text encoder and the codec that the checkpoint names.
        codec: the codec, where the checkpoint neither holds nor names one, or where it has another name now.
        stored: the precision that weights are rounded to; None keeps the source's, and changes no weight.

    Raises:
        ValueError: the source is not a checkpoint, `destination` is taken or inside the source, the codec is not the
            model's, or the form cannot express the model.
        MissingWeights: weights that the checkpoint names cannot be fetched.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"expected a new or empty folder to write to, got {destination}, which is neither")
    if folder.resolve() in destination.resolve().parents:  # writing there would change its digest
        raise ValueError(f"expected a folder outside of the checkpoint {folder} to write to, got {destination}")
    trained = _without_local_paths(_add_codec(load_checkpoint(folder, weights), weights, codec))
    precision = Precision(stored or stored_type(folder), rounds=stored is not None)
    target = destination.absolute()
    with new_folder(target) as new_path:
        if form == "segue":
            # The text encoder's weights are written too, wherever they were.
            facts = trained.facts.model_copy(update={"text_encoder": None})
            save_checkpoint(new_path, trained.model, facts, trained.codec, precision)
        elif form == "hf":
            write_hugging_face(trained, new_path, precision)
        else:
            write_audiocraft(trained, new_path, precision)
        write_card(new_path, converted_card(_read_card(folder), trained.facts, form))
    parameters = sum(value.numel() for value in trained.model.parameters())
    return Conversion(detect_form(folder), form, parameters, _codec_in_words(trained), precision.stored)


def _read_card(folder: Path) -> str | None:
    """Read the card of a checkpoint; None where it has none, or one that is not text."""
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _add_codec(trained: TrainedModel, weights: FindWeights, chosen: WeightsRef | None) -> TrainedModel:
    """Return the model with its codec: the one that the user chose, or else the one inside it, or else the one that it
    names."""
    facts = trained.facts
    reference = chosen or (WeightsRef(facts.codec.reference) if facts.codec and facts.codec.reference else None)
    if reference is None or (chosen is None and trained.codec is not None):
        return trained
    codes = CodesFormat.from_facts(facts)
    network = load_matching_network(codes, weights(reference).path, f"the codec {reference}", "the checkpoint")
    if facts.codec is None:
        codec = describe_codec(network, codes.codebooks, coder_of(network).channels, str(reference))
        facts = facts.model_copy(update={"codec": codec})
    return replace(trained, facts=facts, codec=network)


def _without_local_paths(trained: TrainedModel) -> TrainedModel:
    """Leave out a reference to a local path if the codec is inside the model. It means nothing on another machine, and
    whoever publishes a model does not mean to publish the names of folders."""
    codec = trained.facts.codec
    if trained.codec is None or codec is None or codec.reference is None:
        return trained
    reference = WeightsRef(codec.reference)
    if not (Path(reference).is_absolute() or reference.startswith((".", "~")) or Path(reference).exists()):
        return trained
    without_name = codec.model_copy(update={"reference": None})
    return replace(trained, facts=trained.facts.model_copy(update={"codec": without_name}))


def _codec_in_words(trained: TrainedModel) -> str:
    codec = trained.facts.codec
    if codec is None:
        return "no codec"
    codec_name = "its codec" if trained.codec is not None else f"the name of its codec {codec.reference}"
    sound = {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")
    return f"{codec_name} (identity {codec.identity[:IDENTITY_DIGITS]}…, {codec.codebooks} codebooks, {sound})"
