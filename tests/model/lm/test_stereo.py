"""Stereo surgery: with the same sound on both sides, a stereo model predicts what the mono model it was made from
predicts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from model.conditioning.config import MusicModelConfig
from model.lm.config import LanguageModelConfig
from model.lm.language_model import stereo_configuration, stereo_weights
from model.music_model import Attributes, MusicModel
from tests.worlds.tiny_model import CLAP_WIDTH, config, melody, music_model, random_codes, text_encoder, tokenizer

EVERYTHING = Attributes("calm piano", melody(0, 4, 7), torch.linspace(-1, 1, CLAP_WIDTH))


def stereo_of(mono: MusicModel) -> MusicModel:
    wide = mono.config.model_copy(update={"language_model": stereo_configuration(mono.config.language_model)})
    stereo = MusicModel(MusicModelConfig.model_validate(wide.model_dump()), text_encoder(), tokenizer()).eval()
    stereo.to(mono.language_model.out_norm.weight.dtype).load_weights(stereo_weights(mono.weights()))
    return stereo


@settings(max_examples=12, deadline=None)
@given(some.integers(1, 4), some.integers(6, 9), some.integers(0, 2**16), some.booleans())
def test_with_equal_sides_both_heads_of_a_codebook_predict_what_the_mono_model_predicts(
    codebooks: int, frames: int, seed: int, biased: bool
) -> None:
    mono = music_model(config(codebooks=codebooks, head_bias=biased), seed=seed).double()
    codes = random_codes(2, frames, seed, codebooks)
    attributes = [EVERYTHING, Attributes()]
    expected = mono(codes, attributes)
    got = stereo_of(mono)(codes.repeat_interleave(2, dim=1), attributes)
    assert torch.equal(got.mask, expected.mask.repeat_interleave(2, dim=1))
    torch.testing.assert_close(got.logits, expected.logits.repeat_interleave(2, dim=1), atol=1e-12, rtol=0)


def test_channels_that_differ_change_the_logits() -> None:
    stereo = stereo_of(music_model())
    codes = random_codes(1, 8).repeat_interleave(2, dim=1)
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % 24
    assert not torch.allclose(stereo(codes, [EVERYTHING]).logits, stereo(other, [EVERYTHING]).logits, atol=1e-3)


def test_delays_are_doubled_and_nothing_else_changes() -> None:
    stereo = stereo_configuration(LanguageModelConfig())
    assert (stereo.codebooks, stereo.codebook_delays) == (8, (0, 0, 1, 1, 2, 2, 3, 3))
    late = stereo_configuration(LanguageModelConfig(codebooks=2, delays=(0, 3)))
    assert late.codebook_delays == (0, 0, 3, 3)
    assert stereo.model_copy(update={"codebooks": 4, "delays": None}) == LanguageModelConfig()


def test_the_copied_weights_do_not_share_memory() -> None:
    weights = stereo_weights(music_model().weights())
    left, right = (weights[f"language_model.heads.{codebook}.weight"] for codebook in (4, 5))
    assert torch.equal(left, right)
    assert left.data_ptr() != right.data_ptr()


@pytest.mark.parametrize("pattern", ["unroll", "coarse_first", "grouped"])
def test_patterns_without_a_stereo_form_are_refused(pattern: str) -> None:
    with pytest.raises(
        ValueError, match=f"expected a mono model with the pattern delay to make stereo of, got {pattern}"
    ):
        stereo_configuration(LanguageModelConfig.model_validate({"pattern": pattern}))


def test_flatten_first_has_no_stereo_form() -> None:
    with pytest.raises(ValueError, match="expected a mono model without flatten_first to make stereo of, got 2"):
        stereo_configuration(LanguageModelConfig(flatten_first=2))
    assert stereo_configuration(LanguageModelConfig(empty_initial=2)).empty_initial == 2
