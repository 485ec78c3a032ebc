"""Codecs by folder: a `Codec`, or a `StereoCodec` where a mono one is to encode both sides; and whether it is the one
that some codes belong to.

Codes of another codec decode to noise without an error, so what carries codes carries the identity of its codec too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.codec.codec import Codec, codebook_identity, coder_of
from model.codec.coder import CodecNetwork
from model.codec.stereo import StereoCodec
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.audiocraft.codec import read_audiocraft_codec
from stages.checkpoints.audiocraft.package import CODEC_FILE
from stages.checkpoints.facts import CONFIG, CheckpointFacts, read_facts
from stages.checkpoints.forms import form_of
from stages.checkpoints.huggingface.checkpoint import read_hugging_face_codec
from stages.checkpoints.native import codec_inside, encoded_sides, load_codec_network

AnyCodec = Codec | StereoCodec

SHORT = 12
"""Digits of an identity that a person is told."""


@dataclass(frozen=True)
class Codes:
    """What is known of codes: enough to tell whether a codec can read them."""

    codebooks: int
    cardinality: int
    frame_rate: float
    identity: str | None
    """Of their codec; None for codes of a time when it was not written down."""
    channels: int | None
    """Of the sound that they stand for; None: those of their codec."""
    reference: str | None = field(default=None, compare=False)
    """Where their codec was had, for a person to read."""


def codes_of_row(row: Mapping[str, Any]) -> Codes:
    """The codes of a row of `tokens` or `generations`."""
    found = (len(row["codes"]), row["cardinality"], row["frame_rate"], row["codec"], row["channels"])
    return Codes(*found, reference=row.get("codec_reference"))


def codes_of_model(facts: CheckpointFacts) -> Codes:
    """The codes that a language model makes."""
    network, codec = facts.model.language_model, facts.codec
    if codec is None:
        return Codes(network.codebooks, network.cardinality, facts.frame_rate, None, None)
    sizes = (codec.codebooks, codec.cardinality, codec.frame_rate)
    return Codes(*sizes, codec.identity, codec.channels, codec.reference)


def load_codec(path: Path, device: str = "cpu", codebooks: int | None = None, channels: int | None = None) -> AnyCodec:
    """The codec of a local folder (`context.weights(reference).path`).

    Args:
        codebooks: K of the codes; None takes all levels. A mono codec that encodes both sides gives two a level.
        channels: of the sound; None takes the codec's own. A mono codec can encode 2.

    Raises:
        ValueError: the folder holds no codec, or one that cannot give such codes.
    """
    return _as_codec(read_network(path), device, codebooks, channels)


def read_network(path: Path) -> CodecNetwork:
    """The codec of a local folder, on the CPU: the folder's own, or the one inside a language model's checkpoint.

    Raises:
        ValueError: there is none.
    """
    if (path / CODEC_FILE).is_file() and not (path / CONFIG).is_file():
        return read_audiocraft_codec(path, _elsewhere).network
    try:
        form = form_of(path)
    except ValueError:  # no language model's
        return load_codec_network(path)
    if form == "hf":
        return read_hugging_face_codec(path)
    if form == "audiocraft":
        return read_audiocraft_codec(path, _elsewhere).network
    facts = read_facts(path)
    inside = codec_inside(path, facts)
    if inside is None:
        named = f": it speaks that of {facts.codec.reference}" if facts.codec and facts.codec.reference else ""
        raise ValueError(f"expected a codec in the checkpoint {path}, got none inside{named}")
    return inside


def _elsewhere(reference: WeightsRef) -> LocalWeights:
    raise ValueError(f"expected a codec in the folder, got only its name there: give {reference} itself")


def load_codec_of(codes: Codes, path: Path, device: str, got: str, speaker: str) -> AnyCodec:
    """The codec of a local folder, for codes that must be its own; arguments and errors are those of `network_of`."""
    return _as_codec(network_of(codes, path, got, speaker), device, codes.codebooks, codes.channels)


def network_of(codes: Codes, path: Path, got: str, speaker: str) -> CodecNetwork:
    """The network of a local folder, for codes that must be its own, on the CPU.

    Args:
        got: what named the codec, such as `decode.codec = facebook/encodec_32khz`.
        speaker: what the codes are of, such as `the checkpoint 0123456789abcdef`.

    Raises:
        ValueError: it is another codec than that of the codes.
    """
    network = read_network(path)
    coder = coder_of(network)
    own, levels = coder.channels, coder.codebooks
    sides = encoded_sides(coder, codes.channels)
    fits = codes.codebooks % sides == 0 and codes.codebooks <= sides * levels and codes.channels in (None, sides * own)
    if not fits or (codes.cardinality, codes.frame_rate) != (coder.cardinality, coder.frame_rate):
        channels = "" if codes.channels is None else f" for {codes.channels} channels"
        raise ValueError(
            f"expected a codec of {codes.codebooks} codebooks of {codes.cardinality} codes at {codes.frame_rate:g} "
            f"frames a second{channels}, which {speaker} speaks, got {got} with {sides * levels} of "
            f"{coder.cardinality} at {coder.frame_rate:g} for {sides * own}"
        )
    _check_identity(codes, codebook_identity(network, codes.codebooks // sides), speaker, got)
    return network


def check_codes(expected: Codes, found: Codes, speaker: str, got: str) -> None:
    """Refuse codes that a model does not speak.

    Args:
        speaker: who speaks the expected ones, such as `the checkpoint 0123456789abcdef`.
        got: what the others are, such as `tokens made by facebook/encodec_32khz`.

    Raises:
        ValueError: they are codes of another codec, or of other sizes.
    """
    expected_sizes = (expected.codebooks, expected.cardinality, expected.frame_rate)
    found_sizes = (found.codebooks, found.cardinality, found.frame_rate)
    if expected_sizes != found_sizes:
        raise ValueError(
            f"expected codes of {expected.codebooks} codebooks of {expected.cardinality} at {expected.frame_rate:g} "
            f"frames a second, which {speaker} speaks, got {got} with {found.codebooks} of {found.cardinality} at "
            f"{found.frame_rate:g}"
        )
    if found.identity is not None:
        _check_identity(expected, found.identity, speaker, got)


def _check_identity(expected: Codes, found: str, speaker: str, got: str) -> None:
    if expected.identity is not None and expected.identity != found:
        named = f"the codec {expected.reference}" if expected.reference else "the codec"
        raise ValueError(
            f"expected {named} (identity {expected.identity[:SHORT]}…), which {speaker} speaks, got {got} (identity "
            f"{found[:SHORT]}…)"
        )


def _as_codec(network: CodecNetwork, device: str, codebooks: int | None, channels: int | None) -> AnyCodec:
    coder = coder_of(network)
    sides = encoded_sides(coder, channels)
    if channels not in (None, sides * coder.channels):
        raise ValueError(f"expected a codec of {channels} channels, got one of {coder.channels}")
    if codebooks is not None and codebooks % sides:
        raise ValueError(f"expected an even number of codebooks, left and right by turns, got {codebooks}")
    codec = Codec(network, device, None if codebooks is None else codebooks // sides)
    return StereoCodec(codec) if sides == 2 else codec
