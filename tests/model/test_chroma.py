"""Chroma equals MusicGen's, follows the played pitch, and needs bounded memory."""

import math
from pathlib import Path

import pytest
import torch

from model import chroma as chroma_module
from model.chroma import chroma, chroma_filters, one_hot
from model.conditioning.config import ChromaConfig
from tests.worlds.oracles import Pack, read_pack


@pytest.fixture(scope="module")
def oracle(oracles: Path) -> Pack:
    return read_pack(oracles, "chroma")


@pytest.mark.parametrize("name", ["chroma", "chroma_short", "chroma_null", "chroma_silence"])
def test_chroma_and_its_argmax_equal_the_oracle(oracle, name):
    settings, tensors = oracle.facts, oracle.tensors
    wav = {
        "chroma": tensors["wav"],
        "chroma_short": tensors["wav_short"],
        "chroma_null": torch.zeros(1, 1),
        "chroma_silence": torch.zeros(1, settings["winlen"]),
    }[name]
    found = chroma(
        wav, ChromaConfig(sample_rate=settings["sample_rate"], window=settings["winlen"], hop=settings["winhop"])
    )
    assert torch.equal(one_hot(found), tensors[f"argmax.{name}"])
    torch.testing.assert_close(found, tensors[f"raw.{name}"], rtol=1e-4, atol=1e-5)


def test_chroma_of_other_windows_hops_and_rates_equals_the_oracle(oracle):
    settings, tensors = oracle.facts, oracle.tensors
    found = chroma(tensors["wav"], ChromaConfig(sample_rate=settings["sample_rate"], window=4096, hop=1024))
    torch.testing.assert_close(found, tensors["raw_r12.chroma"], rtol=1e-4, atol=1e-5)
    found = one_hot(chroma(tensors["wav"], ChromaConfig(sample_rate=16_000, window=4096, hop=1000)))
    assert torch.equal(found, tensors["argmax_sr16k_hop1000.chroma"])


def test_sums_of_the_filter_bank_equal_the_oracle(oracle):
    settings, tensors = oracle.facts, oracle.tensors
    sums = chroma_filters(settings["sample_rate"], settings["nfft"]).sum(1)
    torch.testing.assert_close(sums, tensors["fbanks_nonzero_sum"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pitch", range(55, 79, 3))
def test_a_sine_is_strongest_in_its_own_pitch_class(pitch):
    time = torch.arange(64_000) / 32_000
    wav = torch.sin(2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time)[None]
    assert (chroma(wav).argmax(-1) == pitch % 12).all()


def test_computing_in_groups_of_frames_changes_nothing(monkeypatch):
    wav = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    whole = chroma(wav)
    monkeypatch.setattr(chroma_module, "FRAMES_A_GROUP", 3)
    torch.testing.assert_close(chroma(wav), whole, rtol=1e-6, atol=1e-6)


def test_a_row_does_not_depend_on_the_other_rows():
    wav = torch.randn(3, 50_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(chroma(wav)[1:2], chroma(wav[1:2]), rtol=1e-6, atol=1e-6)


def test_an_empty_signal_and_a_rate_of_zero_are_refused():
    with pytest.raises(ValueError, match="expected"):
        chroma(torch.zeros(1, 0))
    for field in ChromaConfig.model_fields:
        with pytest.raises(ValueError, match=field):
            ChromaConfig.model_validate({field: 0})
