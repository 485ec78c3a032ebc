"""Codecs of a run that must agree because one reads the other's codes, checked before anything is made.

Codes of one codec are noise to another. A stage would find this only when it is reached: after all clips were
generated, or all recordings encoded. So codecs under different names are compared first.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from schemas import WeightsRef
from schemas.weights import MissingWeights, NotTrainedYet

if TYPE_CHECKING:
    from stages.checkpoints.codecs import CodesFormat
    from stages.pipeline.pipeline import Pipeline

TRAINERS = {"language_model": "train", "codec": "train_codec"}
"""The stage that trains each kind of checkpoint in a store."""

READERS = ("generate", "gate", "decode", "evaluate", "controls")
"""Stages that read a model's codes, or encode prompts for it, with a codec of their own."""


def check_codecs(pipeline: "Pipeline", names: Sequence[str]) -> None:
    """Check that the codecs in the stages of a run can read the codes that they are given.

    A model that is still to be trained, or that this run trains again because it was damaged, makes codes of
    `tokenize.codec`. If that codec is still to be trained too, only the stages themselves can check it.

    Raises:
        ValueError: a codec differs from the model's; the message names both.
        MissingWeights: weights cannot be found or fetched.
    """
    configs: dict[str, Any] = {name: stage.config for name, stage in pipeline.stages.items()}
    initial = getattr(configs.get("train"), "initial", None)
    if initial is not None and "tokenize" in configs and not {"tokenize", "train"}.isdisjoint(names):
        _check(pipeline, names, "train.initial", initial, {"tokenize.codec": configs["tokenize"].codec})
    read = {f"{name}.codec": getattr(configs[name], "codec", None) for name in READERS if name in names}
    if read:
        model = configs["generate"].checkpoint
        if not _is_to_come(pipeline, names, model):
            _check(pipeline, names, "generate.checkpoint", model, read)
        elif "tokenize" in configs:
            _check(pipeline, names, "tokenize.codec", configs["tokenize"].codec, read)


def disagreement_lines(pipeline: "Pipeline", names: Sequence[str]) -> Iterator[str]:
    """Yield why `check_codecs` would stop a run, for a plan.

    Raises:
        MissingWeights: weights cannot be found or fetched.
    """
    try:
        check_codecs(pipeline, names)
    except MissingWeights:
        raise
    except ValueError as error:
        yield str(error)


def _is_to_come(pipeline: "Pipeline", names: Sequence[str], reference: WeightsRef) -> bool:
    """Return whether weights are still to be trained, or were lost or damaged and this run trains them again.

    Raises:
        MissingWeights: they cannot be found or fetched, and no stage of the run makes them.
    """
    try:
        pipeline.weights(reference)
    except NotTrainedYet:
        return True
    except MissingWeights:
        if TRAINERS.get(reference.checkpoint or "") in names:
            return True
        raise
    return False


def _check(
    pipeline: "Pipeline",
    names: Sequence[str],
    field: str,
    source: WeightsRef,
    codecs: Mapping[str, WeightsRef | None],
) -> None:
    """Check that codecs read the codes of a model or codec, as far as all of them exist yet.

    Args:
        field: the field that names the model or codec.
        source: the model that makes the codes, or the codec that encodes the training set.
        codecs: the codecs, by the fields that name them.

    Raises:
        ValueError: one of the codecs does not read the codes.
    """
    others: dict[WeightsRef, str] = {}
    for name, codec in codecs.items():
        if codec is not None and codec != source and not _is_to_come(pipeline, names, codec):
            others.setdefault(codec, name)
    if not others or _is_to_come(pipeline, names, source):
        return
    own = _digest_of_codec(pipeline, field, source)
    others = {codec: name for codec, name in others.items() if pipeline.weights(codec).digest != own}
    if not others:
        return
    from stages.checkpoints.codecs import load_matching_network  # imports torch, which most plans do not need

    try:
        codes = _codes(pipeline, field, source)
    except NotTrainedYet:  # the codec that the model names
        return
    for codec, name in others.items():
        if codes is not None and codes.reference != codec:
            path = pipeline.weights(codec).path
            load_matching_network(codes, path, f"{name} = {codec}", f"{field} = {source}")


def _digest_of_codec(pipeline: "Pipeline", field: str, source: WeightsRef) -> str | None:
    """Return the digest of the codec that encodes the training set, or of the codec whose codes a model in this
    project's form makes, as the model says; None if the codec must be loaded to find out."""
    from stages.checkpoints.facts import read_facts
    from stages.checkpoints.loading import detect_form

    weights = pipeline.weights(source)
    if field == "tokenize.codec":
        return weights.digest
    codec = read_facts(weights.path).codec if detect_form(weights.path) == "segue" else None
    return None if codec is None else codec.digest


def _codes(pipeline: "Pipeline", field: str, source: WeightsRef) -> "CodesFormat | None":
    """Return the format of the codes that a model makes, or that the training set is encoded in; None if the model
    does not say."""
    from stages.checkpoints.codecs import CodesFormat, codes_of_checkpoint, load_codec

    folder = pipeline.weights(source).path
    if field != "tokenize.codec":
        return codes_of_checkpoint(folder, pipeline.weights)
    config: Any = pipeline.stages["tokenize"].config
    codec = load_codec(folder, "cpu", config.codebooks, 2 if config.channels == "stereo" else None)
    sizes = (codec.codebooks, codec.cardinality, codec.frame_rate)
    return CodesFormat(*sizes, codec.identity, codec.channels, str(source))
