"""Codecs loaded from folders, and checks that a codec is the one that some codes belong to.

A folder gives a `Codec`, or a `StereoCodec` where a mono codec encodes both sides. Codes of another codec decode to
noise without an error, so everything that stores codes stores the identity of their codec too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.codec.codec import Codec, codebook_identity, coder_of
from model.codec.coders import CodecNetwork
from model.codec.stereo import StereoCodec
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.audio import Samples
from stages.checkpoints.audiocraft.checkpoint import encodes_both_sides
from stages.checkpoints.audiocraft.codec import read_audiocraft_codec
from stages.checkpoints.audiocraft.package import CODEC_FILE, LANGUAGE_MODEL_FILE, read_settings
from stages.checkpoints.facts import CONFIG, CheckpointFacts, read_facts
from stages.checkpoints.huggingface.checkpoint import read_hugging_face_codec
from stages.checkpoints.huggingface.configuration import read_hugging_face_config
from stages.checkpoints.loading import detect_form
from stages.checkpoints.native import (
    FindWeights,
    describe_codec,
    encoded_sides,
    has_identity,
    load_codec_inside,
    load_native_codec,
)
from stages.pipeline.contract import Context

AnyCodec = Codec | StereoCodec

IDENTITY_DIGITS = 12
"""Digits of an identity that messages show."""


@dataclass(frozen=True)
class CodesFormat:
    """The format of codes: enough to decide whether a codec can decode them."""

    codebooks: int
    cardinality: int
    frame_rate: float
    """Frames of codes a second."""
    identity: str | None
    """Identity of their codec; None for codes of a release that did not store it."""
    channels: int | None
    """Channels of the sound that they stand for; None means those of their codec."""
    reference: str | None = field(default=None, compare=False)
    """Name of the weights of their codec, for messages."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "CodesFormat":
        """Describe the codes of a row of `tokens` or `generations`."""
        return cls(
            codebooks=len(row["codes"]),
            cardinality=row["cardinality"],
            frame_rate=row["frame_rate"],
            identity=row["codec_identity"],
            channels=row["channels"],
            reference=row.get("codec_reference"),
        )

    @classmethod
    def from_facts(cls, facts: CheckpointFacts) -> "CodesFormat":
        """Describe the codes that a language model makes."""
        network, codec = facts.model.language_model, facts.codec
        if codec is None:
            return cls(network.codebooks, network.cardinality, facts.frame_rate, None, None)
        sizes = (codec.codebooks, codec.cardinality, codec.frame_rate)
        return cls(*sizes, codec.identity, codec.channels, codec.reference)

    def __str__(self) -> str:
        return f"{self.codebooks} codebooks of {self.cardinality} codes at {self.frame_rate:g} frames a second"


def load_codec(path: Path, device: str = "cpu", codebooks: int | None = None, channels: int | None = None) -> AnyCodec:
    """Load the codec of a local folder (`context.weights(reference).path`).

    Args:
        codebooks: K of the codes; None takes all levels. A mono codec that encodes both sides gives two codebooks a
            level.
        channels: channels of the sound; None takes the codec's own. A mono codec can encode 2.

    Raises:
        ValueError: the folder holds no codec, or one that cannot give such codes.
    """
    return _make_codec(load_codec_network(path), device, codebooks, channels)


def load_codec_network(path: Path) -> CodecNetwork:
    """Load the codec of a local folder, on the CPU: the folder's own, or the one inside a language model's checkpoint.

    Raises:
        ValueError: there is none.
    """
    if (path / CODEC_FILE).is_file() and not (path / CONFIG).is_file():
        return read_audiocraft_codec(path, _refuse_reference).network
    try:
        form = detect_form(path)
    except ValueError:  # not a language model's folder
        return load_native_codec(path)
    if form == "hf":
        return read_hugging_face_codec(path)
    if form == "audiocraft":
        return read_audiocraft_codec(path, _refuse_reference).network
    facts = read_facts(path)
    inside = load_codec_inside(path, facts)
    if inside is None:
        codec_name = f": it uses {facts.codec.reference}" if facts.codec and facts.codec.reference else ""
        raise ValueError(f"expected a codec in the checkpoint {path}, got none{codec_name}")
    return inside


def codes_of_checkpoint(folder: Path, weights: FindWeights) -> CodesFormat | None:
    """Return the format of the codes that the language model of a local folder makes, in any form; None where the
    checkpoint does not state it. Of the weights at most the codec's are loaded.

    Args:
        weights: finds a codec that the files only name (`context.weights`).

    Raises:
        ValueError: there is no checkpoint, or its codec cannot be read.
        MissingWeights: the codec that it names cannot be fetched.
    """
    form = detect_form(folder)
    if form == "segue":
        facts = read_facts(folder)
        return None if facts.codec is None else CodesFormat.from_facts(facts)
    if form == "hf":
        decoder: Any = read_hugging_face_config(folder).decoder
        network, codebooks, stereo = read_hugging_face_codec(folder), decoder.num_codebooks, decoder.audio_channels == 2
    else:
        settings = read_settings(folder / LANGUAGE_MODEL_FILE)
        network, stereo = read_audiocraft_codec(folder, weights).network, encodes_both_sides(settings)
        codebooks = settings.section("transformer_lm").number("n_q")
    channels = 2 if stereo else coder_of(network).channels
    described = describe_codec(network, int(codebooks), channels)
    sizes = (described.codebooks, described.cardinality, described.frame_rate)
    return CodesFormat(*sizes, described.identity, described.channels)


def _refuse_reference(reference: WeightsRef) -> LocalWeights:
    raise ValueError(f"expected a codec in the folder, got only the name of one: use {reference} instead")


def load_matching_codec(codes: CodesFormat, path: Path, device: str, got: str, owner: str) -> AnyCodec:
    """Load the codec of a local folder onto `device`, and check that it is the codec of some codes. Arguments and
    errors are those of `load_matching_network`."""
    return _make_codec(load_matching_network(codes, path, got, owner), device, codes.codebooks, codes.channels)


def borrow_codecs_of_rows(
    rows: Iterable[Mapping[str, Any]], reference: WeightsRef, context: Context, knob: str
) -> dict[CodesFormat, AnyCodec]:
    """Borrow the codec for each format of codes in rows of `generations`; there are several formats where different
    kinds of models made the rows.

    Args:
        knob: the knob that names the codec, such as `decode.codec`.

    Raises:
        ValueError: the codec is not the one of the codes.
    """
    path, got = context.weights(reference).path, f"{knob} = {reference}"
    codecs: dict[CodesFormat, AnyCodec] = {}
    for row in rows:
        if (codes := CodesFormat.from_row(row)) not in codecs:
            owner = f"the checkpoint {row['checkpoint_id']}"
            load = partial(load_matching_codec, codes, path, context.device, got, owner)
            codecs[codes] = context.borrow(("codec", codes), load)
    return codecs


def decode_generation(codec: AnyCodec, generation: Mapping[str, Any], seconds: float) -> Samples:
    """Decode the codes of a row of `generations` to sound [C, N], cut to the requested seconds, exact to the sample."""
    return next(_decode_all(codec, [(generation, seconds)]))


def decode_generations(
    codecs: Mapping[CodesFormat, AnyCodec], wanted: Sequence[tuple[Mapping[str, Any], float]]
) -> Iterator[Samples]:
    """Decode the codes of rows of `generations`, and yield the sound of each as `decode_generation` returns it. Some
    codecs decode several rows in little more time than one.

    Args:
        codecs: the codec for each format of codes (`borrow_codecs_of_rows`).
        wanted: the rows, each with the requested seconds.
    """
    for codes, group in groupby(wanted, lambda item: CodesFormat.from_row(item[0])):
        yield from _decode_all(codecs[codes], list(group))


def _decode_all(codec: AnyCodec, wanted: Sequence[tuple[Mapping[str, Any], float]]) -> Iterator[Samples]:
    tracks = [torch.from_numpy(np.array(generation["codes"], dtype=np.int64)) for generation, _ in wanted]
    for (_, seconds), sound in zip(wanted, codec.decode_tracks(tracks), strict=True):
        samples: Samples = sound.float().numpy()
        yield samples[:, : round(seconds * codec.sample_rate)]


def load_matching_network(codes: CodesFormat, path: Path, got: str, owner: str) -> CodecNetwork:
    """Load the network of a local folder's codec, on the CPU, and check that it is the codec of some codes.

    Args:
        got: where the codec was named, for messages, such as `decode.codec = facebook/encodec_32khz`.
        owner: where the codes come from, for messages, such as `the checkpoint 0123456789abcdef`.

    Raises:
        ValueError: the codec is not the one of the codes.
    """
    network = load_codec_network(path)
    coder = coder_of(network)
    own_channels, levels = coder.channels, coder.codebooks
    sides = encoded_sides(coder, codes.channels)
    fits = (
        codes.codebooks % sides == 0
        and codes.codebooks <= sides * levels
        and codes.channels in (None, sides * own_channels)
    )
    if not fits or (codes.cardinality, codes.frame_rate) != (coder.cardinality, coder.frame_rate):
        channels = "" if codes.channels is None else f" and {codes.channels} channels"
        raise ValueError(
            f"expected a codec of {codes}{channels}, which {owner} uses, got {got} with {sides * levels} codebooks of "
            f"{coder.cardinality} codes at {coder.frame_rate:g} frames a second and {sides * own_channels} channels"
        )
    levels = codes.codebooks // sides
    if codes.identity is not None and not has_identity(network, levels, codes.identity):
        raise _other_codec(codes, codebook_identity(network, levels), owner, got)
    return network


def check_codes_format(expected: CodesFormat, codes: CodesFormat, owner: str, got: str) -> None:
    """Refuse codes that are not of the format that a model uses.

    Args:
        owner: the model of the expected format, for messages, such as `the checkpoint 0123456789abcdef`.
        got: where the codes come from, for messages, such as `tokens made by facebook/encodec_32khz`.

    Raises:
        ValueError: the codes are of another codec, or of other sizes.
    """
    if replace(codes, identity=expected.identity, channels=expected.channels) != expected:
        raise ValueError(f"expected codes of {expected}, which {owner} uses, got {got} with {codes}")
    if None not in (codes.identity, expected.identity) and codes.identity != expected.identity:
        raise _other_codec(expected, str(codes.identity), owner, got)


def _other_codec(codes: CodesFormat, identity: str, owner: str, got: str) -> ValueError:
    codec_name = f"the codec {codes.reference}" if codes.reference else "the codec"
    return ValueError(
        f"expected {codec_name} (identity {str(codes.identity)[:IDENTITY_DIGITS]}…), which {owner} uses, got {got} "
        f"(identity {identity[:IDENTITY_DIGITS]}…)"
    )


def _make_codec(network: CodecNetwork, device: str, codebooks: int | None, channels: int | None) -> AnyCodec:
    coder = coder_of(network)
    sides = encoded_sides(coder, channels)
    if channels not in (None, sides * coder.channels):
        raise ValueError(f"expected a codec of {channels} channels, got one of {coder.channels}")
    if codebooks is not None and codebooks % sides:
        raise ValueError(f"expected an even number of codebooks, left and right interleaved, got {codebooks}")
    codec = Codec(network, device, None if codebooks is None else codebooks // sides)
    return StereoCodec(codec) if sides == 2 else codec
