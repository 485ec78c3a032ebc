"""A network prepared for inference computes the same as the network, and leaves it unchanged."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from model.codec.network import fold_weight_norm
from model.kernels.codec.inference import InferenceHalf, prepare_codec_for_inference
from tests.worlds.small_codecs import HOPS, small_codec, sound


def halves(kind: str, network: Any) -> tuple[nn.Module, nn.Module]:
    """The parts of the encoder and the decoder that are chains of convolutions."""
    if kind == "mimi":
        return network.encoder.encoder_seanet, network.decoder.decoder_seanet
    return network.encoder, network.decoder


def check(plain: nn.Module, prepared: nn.Module, inputs: Tensor) -> None:
    assert isinstance(prepared, InferenceHalf)
    with torch.no_grad():
        expected = plain(inputs)
    found = prepared(inputs)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", list(HOPS))
@pytest.mark.parametrize("samples", [1, 79, 81, 1_601, 50_003])
def test_prepared_halves_compute_the_same_as_the_halves_of_the_network(kind: str, samples: int) -> None:
    network: Any = small_codec(kind)
    encoder, decoder = halves(kind, network)
    prepared_encoder, prepared_decoder = halves(kind, prepare_codec_for_inference(network))
    wav = sound(max(samples, HOPS["dac"]) if kind == "dac" else samples)[None]  # DAC is given whole frames
    check(encoder, prepared_encoder, wav)
    with torch.no_grad():
        check(decoder, prepared_decoder, encoder(wav))


@given(
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["reflect", "constant", "replicate"]),
    st.integers(1, 700),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_an_encodec_of_any_shape_computes_the_same_when_it_is_prepared(
    channels: int, causal: bool, shortcut: bool, ratios: list[int], residuals: int, recurrent: int, padding: str,
    samples: int, batch: int,
) -> None:  # fmt: skip
    config = EncodecConfig(
        audio_channels=channels, use_causal_conv=causal, use_conv_shortcut=shortcut, upsampling_ratios=ratios,
        num_residual_layers=residuals, num_lstm_layers=recurrent, pad_mode=padding, num_filters=4, hidden_size=8,
        codebook_size=4, codebook_dim=8, normalize=False, chunk_length_s=None,
    )  # fmt: skip
    torch.manual_seed(0)
    network: Any = EncodecModel(config).eval()
    prepared: Any = prepare_codec_for_inference(network)
    wav = torch.stack([sound(samples, channels, seed) for seed in range(batch)])
    check(network.encoder, prepared.encoder, wav)
    with torch.no_grad():
        check(network.decoder, prepared.decoder, network.encoder(wav))


def test_a_prepared_network_computes_the_same_with_the_weight_norm_folded() -> None:
    config = EncodecConfig(num_filters=4, hidden_size=8, upsampling_ratios=[4, 2], codebook_dim=8, codebook_size=4)
    torch.manual_seed(0)
    network, other = EncodecModel(config).eval(), EncodecModel(config).eval()
    other.load_state_dict(network.state_dict())
    prepared, folded = prepare_codec_for_inference(network), prepare_codec_for_inference(fold_weight_norm(other))
    wav = sound(999)[None]
    torch.testing.assert_close(prepared.encoder(wav), folded.encoder(wav))


@pytest.mark.parametrize("kind", list(HOPS))
def test_preparing_a_network_leaves_it_unchanged_and_copies_no_weights(kind: str) -> None:
    network: Any = small_codec(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepared: Any = prepare_codec_for_inference(network)
    halves(kind, prepared)[0](sound(800)[None])
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert not any(isinstance(module, InferenceHalf) for module in network.modules())
    assert {value.data_ptr() for value in prepared.parameters()} == {value.data_ptr() for value in network.parameters()}


@pytest.mark.parametrize("kind", ["dac", "mimi"])
def test_an_item_of_a_batch_has_the_same_bits_as_the_item_alone(kind: str) -> None:
    prepared: Any = prepare_codec_for_inference(small_codec(kind))
    encoder, decoder = halves(kind, prepared)
    wavs = torch.stack([sound(4_000, seed=seed) for seed in range(3)])
    latents = encoder(wavs)
    for number in range(3):
        assert torch.equal(encoder(wavs[number : number + 1])[0], latents[number])
        assert torch.equal(decoder(latents[number : number + 1])[0], decoder(latents)[number])


def test_a_half_with_a_layer_of_an_unknown_kind_is_not_replaced() -> None:
    network: Any = small_codec("encodec")
    network.encoder.layers[2] = nn.SELU()
    prepared: Any = prepare_codec_for_inference(network)
    assert not isinstance(prepared.encoder, InferenceHalf)
    assert isinstance(prepared.decoder, InferenceHalf)
    wav = sound(800)[None]
    with torch.no_grad():
        assert torch.equal(prepared.encoder(wav), network.encoder(wav))


def test_a_network_in_another_precision_is_not_replaced() -> None:
    network: Any = small_codec("encodec").double()
    assert prepare_codec_for_inference(network) is network
