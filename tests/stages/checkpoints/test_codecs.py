"""Codecs by folder, and codes that only their own codec may decode."""

from pathlib import Path

import pytest
import torch

from model.codec.codec import Codec
from model.codec.stereo import StereoCodec
from stages.checkpoints.codecs import CodesFormat, check_codes_format, load_codec, load_matching_codec
from stages.checkpoints.native import describe_codec, load_encodec
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, SAMPLE_RATE, codec_folder

GOT, SPEAKER = "decode.codec = Y", "the checkpoint X"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return codec_folder(tmp_path_factory.mktemp("codec"))


def codes(folder: Path, **changes: object) -> CodesFormat:
    values = {"codebooks": CODEBOOKS, "cardinality": CARDINALITY, "frame_rate": FRAME_RATE, "channels": 1}
    return CodesFormat(**values | {"identity": load_codec(folder).identity} | changes)  # type: ignore[arg-type]


def test_a_mono_codec_encodes_one_channel_or_two(folder: Path) -> None:
    assert isinstance(load_codec(folder), Codec)
    stereo = load_codec(folder, channels=2)
    assert isinstance(stereo, StereoCodec)
    assert (stereo.codebooks, load_codec(folder, codebooks=2, channels=2).codebooks) == (2 * CODEBOOKS, 2)
    with pytest.raises(ValueError, match="expected an even number of codebooks, left and right interleaved, got 3"):
        load_codec(folder, codebooks=3, channels=2)
    with pytest.raises(ValueError, match="expected a codec of 3 channels, got one of 1"):
        load_codec(folder, channels=3)


def test_the_facts_of_a_codec_describe_its_codes(folder: Path) -> None:
    network = load_encodec(folder)
    mono, stereo = describe_codec(network, 2, 1, "where"), describe_codec(network, 4, 2)
    assert mono.identity == stereo.identity == load_codec(folder).identity
    assert (mono.codebooks, mono.channels, stereo.codebooks, stereo.channels) == (2, 1, 4, 2)
    assert (mono.sample_rate, mono.frame_rate, mono.cardinality) == (SAMPLE_RATE, FRAME_RATE, CARDINALITY)
    assert (mono.reference, stereo.reference) == ("where", None)
    assert describe_codec(network, 1, 1).identity != mono.identity
    with pytest.raises(ValueError, match="expected 1 to 2 codebooks, got 3"):
        describe_codec(network, 3, 1)


def test_codes_get_their_own_codec_with_their_levels_and_channels(folder: Path) -> None:
    fewer = load_codec(folder, codebooks=1).identity
    assert load_matching_codec(codes(folder), folder, "cpu", GOT, SPEAKER).codebooks == CODEBOOKS
    assert load_matching_codec(codes(folder, codebooks=1, identity=fewer), folder, "cpu", GOT, SPEAKER).codebooks == 1
    stereo = load_matching_codec(codes(folder, codebooks=4, channels=2), folder, "cpu", GOT, SPEAKER)
    assert (stereo.codebooks, stereo.channels) == (4, 2)
    unwritten = codes(folder, identity=None, channels=None)
    assert load_matching_codec(unwritten, folder, "cpu", GOT, SPEAKER).channels == 1


def test_another_codec_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    network = load_encodec(folder)
    with torch.no_grad():
        network.quantizer.layers[0].codebook.embed.add_(1)
    network.save_pretrained(tmp_path)
    ours, theirs = load_codec(folder).identity[:12], load_codec(tmp_path).identity[:12]
    expected = (
        rf"expected the codec Z \(identity {ours}…\), which the checkpoint X uses, got decode.codec = Y "
        rf"\(identity {theirs}…\)"
    )
    with pytest.raises(ValueError, match=expected):
        load_matching_codec(codes(folder, reference="Z"), tmp_path, "cpu", GOT, SPEAKER)


@pytest.mark.parametrize(
    "change", [{"codebooks": 3}, {"cardinality": 32}, {"frame_rate": 50.0}, {"channels": 2}, {"channels": 4}]
)
def test_a_codec_of_other_sizes_is_refused_naming_both_sizes(folder: Path, change: dict) -> None:
    change = {"codebooks": 3} | change if change.get("channels") == 2 else change
    with pytest.raises(ValueError, match=r"expected a codec of \d+ codebooks of .* the checkpoint X uses, got decode"):
        load_matching_codec(codes(folder, **change), folder, "cpu", GOT, SPEAKER)


def test_codes_of_another_codec_or_size_do_not_fit_a_model(folder: Path) -> None:
    model = codes(folder, reference="Z")
    check_codes_format(model, codes(folder), SPEAKER, "tokens")
    check_codes_format(model, codes(folder, identity=None), SPEAKER, "tokens")
    with pytest.raises(ValueError, match=r"expected the codec Z .* uses, got tokens \(identity 000000000000…\)"):
        check_codes_format(model, codes(folder, identity="0" * 64), SPEAKER, "tokens")
    with pytest.raises(
        ValueError, match=r"expected codes of 2 codebooks of 16 codes at 25 .* with 4 codebooks of 16 codes at 25"
    ):
        check_codes_format(model, codes(folder, codebooks=4), SPEAKER, "tokens")


def test_the_format_of_codes_is_read_from_a_row(folder: Path) -> None:
    row = {"codes": [[1, 2], [3, 4]], "cardinality": CARDINALITY, "frame_rate": FRAME_RATE, "channels": 1}
    row |= {"codec_identity": load_codec(folder).identity}
    assert CodesFormat.from_row(row) == CodesFormat.from_row(row | {"codec_reference": "anywhere"}) == codes(folder)


def test_a_folder_without_a_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a codec's folder"):
        load_codec(tmp_path)
