"""AudioCraft's codecs: read exactly, written as they were read, and refused with the name of what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import EncodecModel

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.audiocraft.codec import (
    codec_config_from_audiocraft,
    codec_from_audiocraft,
    read_audiocraft_codec,
    write_audiocraft_codec,
    write_codec_reference,
)
from stages.checkpoints.audiocraft.package import CODEC_FILE, Package, Section, write_package
from tests.worlds.oracles import Pack, read_pack
from tests.worlds.tiny_codec import codec_folder

CASES = ["noncausal_constant", "causal_reflect", "stereo_renorm", "causal_trim05_noskip"]


def nowhere(reference: WeightsRef) -> LocalWeights:
    raise AssertionError(f"asked for {reference}")


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    """A case of the pack as the configuration from which AudioCraft builds its network."""
    channels, rate = case["seanet"]["channels"], case["sample_rate"]
    return {
        "sample_rate": rate,
        "channels": channels,
        "compression_model": "encodec",
        "encodec": {"autoencoder": "seanet", "quantizer": "rvq", "sample_rate": "${sample_rate}"}
        | {"channels": "${channels}", "causal": case["seanet"]["causal"], "renormalize": case["renormalize"]},
        "seanet": case["seanet"]
        | {"causal": "${encodec.causal}", "encoder": {}, "decoder": {"trim_right_ratio": case["trim_right_ratio"]}},
        "rvq": case["rvq"],
        "optim": {"lr": 3e-4},
    }


def state_of(pack: Pack, name: str) -> dict[str, Tensor]:
    """The weights of a case, with the codebooks that made its codes.

    The pack holds the codebooks after its training pass, which began with the codes that it states. Undoing one step of
    the moving average (decay 0.99, sums that start at the codebooks, counts that start at 0) restores the codebooks
    before it.
    """
    prefix = f"{name}.weights."
    state = {key.removeprefix(prefix): value for key, value in pack.tensors.items() if key.startswith(prefix)}
    residual = pack.tensors[f"{name}.latent"].double().transpose(1, 2).flatten(0, 1)
    for level, codes in enumerate(pack.tensors[f"{name}.codes"].transpose(0, 1).flatten(1)):
        book = f"quantizer.vq.layers.{level}._codebook."
        counted = torch.bincount(codes, minlength=len(state[f"{book}cluster_size"]))
        assert torch.allclose(state[f"{book}cluster_size"], 0.01 * counted)
        sums = torch.zeros_like(state[f"{book}embed_avg"], dtype=torch.float64).index_add_(0, codes, residual)
        before = (state[f"{book}embed_avg"].double() - 0.01 * sums) / 0.99
        residual = residual - before[codes]
        state[f"{book}embed"] = state[f"{book}embed_avg"] = before.float()
        state[f"{book}cluster_size"] = torch.zeros(len(before))
    return state


def case_of(pack: Pack, name: str) -> dict[str, Any]:
    return next(case for case in pack.cases if case["name"] == name)


def largest_difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_codec_read_from_audiocraft_encodes_and_decodes_like_the_oracle(
    oracles: Path, tmp_path: Path, name: str
) -> None:
    pack = read_pack(oracles, "codec")
    write_package(tmp_path / CODEC_FILE, state_of(pack, name), settings_of(case_of(pack, name)))
    read = read_audiocraft_codec(tmp_path, nowhere)
    expected = {key.removeprefix(f"{name}."): value for key, value in pack.tensors.items() if key.startswith(name)}
    encoded: Any = read.network.encode(expected["wav"])
    assert read.reference is None
    assert torch.equal(encoded.audio_codes[0], expected["codes"])
    sound = expected["wav"]
    if "scale" in expected:
        assert largest_difference(encoded.audio_scales[0], expected["scale"]) < 1e-4
        sound = sound / encoded.audio_scales[0][..., None]
    assert largest_difference(read.network.encoder(sound), expected["latent"]) < 1e-4
    decoded: Any = read.network.decode(encoded.audio_codes, encoded.audio_scales)
    assert largest_difference(decoded.audio_values, expected["decoded"]) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_codec_of_the_oracle_is_written_as_it_was_read(oracles: Path, tmp_path: Path, name: str) -> None:
    pack = read_pack(oracles, "codec")
    settings, state = settings_of(case_of(pack, name)), state_of(pack, name)
    write_package(tmp_path / CODEC_FILE, state, settings)
    read = read_audiocraft_codec(tmp_path, nowhere)
    write_audiocraft_codec(read.network, tmp_path)
    content = torch.load(tmp_path / CODEC_FILE, weights_only=True)
    assert set(content["best_state"]) == set(state)
    assert all(torch.equal(content["best_state"][key], value) for key, value in state.items())
    again = read_audiocraft_codec(tmp_path, nowhere)
    assert again.network.config.to_dict() == read.network.config.to_dict()


def random_codec(folder: Path) -> EncodecModel:
    return EncodecModel.from_pretrained(codec_folder(folder / "codec")).eval()


def test_a_codec_trained_here_survives_audiocrafts_form_bit_for_bit(tmp_path: Path) -> None:
    network = random_codec(tmp_path)
    write_audiocraft_codec(network, tmp_path)
    read = read_audiocraft_codec(tmp_path, nowhere).network
    state = read.state_dict()
    assert set(state) == set(network.state_dict())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    for field in ("sampling_rate", "hop_length", "num_quantizers", "codebook_size", "use_causal_conv", "pad_mode"):
        assert getattr(read.config, field) == getattr(network.config, field)
    sound = torch.randn(1, 1, 4_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(read.encode(sound).audio_codes, network.encode(sound).audio_codes)


def test_a_codec_given_only_by_name_is_found_by_its_name(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "codec")
    write_codec_reference("facebook/encodec_32khz", tmp_path)
    asked: list[str] = []

    def find(reference: WeightsRef) -> LocalWeights:
        asked.append(str(reference))
        return LocalWeights(str(reference), folder, "0" * 64)

    read = read_audiocraft_codec(tmp_path, find)
    assert (read.reference, asked) == ("facebook/encodec_32khz", ["facebook/encodec_32khz"])
    assert torch.equal(
        read.network.quantizer.layers[0].codebook.embed, random_codec(tmp_path).quantizer.layers[0].codebook.embed
    )
    write_codec_reference("dac_44khz", tmp_path)
    with pytest.raises(ValueError, match=r"expected an EnCodec of the hub under 'pretrained' .* got 'dac_44khz'"):
        read_audiocraft_codec(tmp_path, find)


def small_package() -> Package:
    """A codec's package with settings that a test may change."""
    seanet = {"channels": 1, "dimension": 4, "n_filters": 2, "n_residual_layers": 1, "ratios": [2, 2], "lstm": 1}
    settings = {
        "compression_model": "encodec",
        "encodec": {"autoencoder": "seanet", "quantizer": "rvq", "sample_rate": 8_000, "channels": 1},
        "seanet": seanet | {"norm": "weight_norm", "encoder": {}, "decoder": {}},
        "rvq": {"n_q": 2, "bins": 8},
    }
    return Package({}, Section("", settings))


REFUSED: list[tuple[str, str, Any, str]] = [
    ("seanet", "lstm", 0, "expected seanet.lstm of at least one layer, got 0"),
    ("seanet", "norm", "spectral_norm", "expected seanet.norm to be 'weight_norm' or .*, got 'spectral_norm'"),
    ("seanet", "activation", "ReLU", "expected seanet.activation to be 'ELU', got 'ReLU'"),
    ("seanet", "decoder", {"final_activation": "Tanh"}, "expected seanet.final_activation to be None, got 'Tanh'"),
    ("seanet", "decoder", {"n_filters": 4}, "expected the same seanet.n_filters for encoder and decoder, got 2 and 4"),
    ("seanet", "disable_norm_outer_blocks", 1, "expected seanet.disable_norm_outer_blocks to be 0, got 1"),
    ("seanet", "attention", True, r"expected settings of seanet among .*, got \['attention'\]"),
    ("seanet", "n_filters", "2", "expected seanet.n_filters to be like 32, got '2'"),
    ("seanet", "ratios", [2, 0], r"expected whole numbers above 0 for seanet.ratios, got \[2, 0\]"),
    ("seanet", "compress", 0, "expected seanet.compress of at least 1, got 0"),
    ("rvq", "n_q", 0, "expected at least one codebook for rvq.n_q, got 0"),
    ("rvq", "bins", 1, "expected a power of two for rvq.bins, got 1"),
    ("encodec", "sample_rate", "8 kHz", "expected a number above 0 for encodec.sample_rate, got '8 kHz'"),
    ("rvq", "n_q", None, "expected rvq.n_q to be like 8, got None"),
    ("rvq", "bins", 12, "expected a power of two for rvq.bins, got 12"),
    ("rvq", "codebook_dim", 8, r"expected settings of rvq among .*, got \['codebook_dim'\]"),
    ("encodec", "quantizer", "no_quant", "expected encodec.quantizer to be 'rvq', got 'no_quant'"),
    ("encodec", "channels", 2, "expected encodec.channels = seanet.channels = 1, got 2"),
    ("encodec", "sample_rate", None, "expected encodec.sample_rate in the configuration, got none"),
]


@pytest.mark.parametrize(("section", "key", "value", "message"), REFUSED, ids=[f"{one[0]}.{one[1]}" for one in REFUSED])
def test_an_option_that_transformers_lacks_is_refused_by_name(section: str, key: str, value: Any, message: str) -> None:
    package = small_package()
    values: Any = package.config.values
    values[section][key] = value
    with pytest.raises(ValueError, match=message):
        codec_from_audiocraft(package)


def test_a_codec_has_the_configured_number_of_codebooks_at_any_rate() -> None:
    package = small_package()
    values: Any = package.config.values
    values["encodec"]["sample_rate"] = 13 * 4  # 7 codebooks of 11 bits at 13 Hz are 1001 bits a second, a bad fraction
    values["rvq"] = {"n_q": 7, "bins": 2048}
    assert codec_config_from_audiocraft(package.config).num_quantizers == 7


def test_another_kind_of_codec_is_refused_by_name() -> None:
    package = small_package()
    values: Any = package.config.values
    values["compression_model"] = "dac"
    with pytest.raises(ValueError, match="expected compression_model to be 'encodec', got 'dac'"):
        codec_from_audiocraft(package)


CHANGES: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (
        lambda state: state.pop("quantizer.vq.layers.1._codebook.embed"),
        r"weights of the codec, got \['.*layers.1._codebook.embed'\] missing",
    ),
    (
        lambda state: state.update(extra=torch.zeros(1)),
        r"weights of the codec, got \[\] missing and \['extra'\] unknown",
    ),
    (
        lambda state: state.update({"encoder.model.0.conv.conv.bias": torch.zeros(3)}),
        r"expected encoder.model.0.conv.conv.bias of shape \[2\], got \[3\]",
    ),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=["missing", "unknown", "another shape"])
def test_weights_that_do_not_fit_their_configuration_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    write_audiocraft_codec(random_codec(tmp_path), tmp_path)
    content = torch.load(tmp_path / CODEC_FILE, weights_only=True)
    change(content["best_state"])
    torch.save(content, tmp_path / CODEC_FILE)
    with pytest.raises(ValueError, match=message):
        read_audiocraft_codec(tmp_path, nowhere)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_length_s": 1.0, "overlap": 0.0}, "expected a codec without chunks, as AudioCraft's are"),
        ({"codebook_dim": 4}, "expected codebooks as wide as the latents, .* got 4 and 8"),
        ({"normalize": True, "use_causal_conv": True}, "expected a codec that is causal or scales its input"),
    ],
)
def test_a_codec_that_audiocraft_cannot_represent_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    network = random_codec(tmp_path)
    for field, value in changes.items():
        setattr(network.config, field, value)
    with pytest.raises(ValueError, match=message):
        write_audiocraft_codec(network, tmp_path)
