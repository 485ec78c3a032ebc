"""Every tensor of an EnCodec has exactly one name in AudioCraft."""

import pytest
from transformers import EncodecConfig, EncodecModel

from model.codec.network import fold_weight_norm
from stages.checkpoints.audiocraft.codec import audiocraft_codec_names


def network(norm: str) -> EncodecModel:
    return EncodecModel(
        EncodecConfig(num_filters=2, hidden_size=4, upsampling_ratios=[2, 2], norm_type=norm, codebook_size=8)
    )


@pytest.mark.parametrize("norm", ["weight_norm", "time_group_norm"])
def test_every_tensor_has_a_unique_name(norm: str) -> None:
    codec = network(norm)
    names = audiocraft_codec_names(codec)
    assert set(names) == set(codec.state_dict())
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("encoder.layers.0.conv.parametrizations.weight.original0", "encoder.model.0.conv.conv.weight_g"),
        ("encoder.layers.1.shortcut.conv.bias", "encoder.model.1.shortcut.conv.conv.bias"),
        ("encoder.layers.1.block.1.conv.bias", "encoder.model.1.block.1.conv.conv.bias"),
        ("encoder.layers.7.lstm.weight_ih_l1", "encoder.model.7.lstm.weight_ih_l1"),
        ("decoder.layers.3.conv.parametrizations.weight.original1", "decoder.model.3.convtr.convtr.weight_v"),
        ("quantizer.layers.0.codebook.embed_avg", "quantizer.vq.layers.0._codebook.embed_avg"),
    ],
)
def test_names_match_those_of_published_files(here: str, there: str) -> None:
    assert audiocraft_codec_names(network("weight_norm"))[here] == there


def test_a_codec_without_weight_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a codec with its weight normalisation, got one with plain weights"):
        audiocraft_codec_names(fold_weight_norm(network("weight_norm")))
