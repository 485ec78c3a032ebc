"""Residual vector quantisation in training: equal to AudioCraft's numbers, and its properties."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from model.codec.config import QuantizerConfig
from model.codec.quantizer import codebooks_of, kmeans, nearest, start_codebooks, train_quantizer

BUFFERS = ("cluster_size", "embed", "embed_avg")


def quantizer(codebooks: int, cardinality: int, width: int) -> EncodecResidualVectorQuantizer:
    bits = (cardinality - 1).bit_length()
    config = EncodecConfig(
        sampling_rate=16_000,
        upsampling_ratios=[8, 5, 4, 2],
        hidden_size=width,
        codebook_size=cardinality,
        target_bandwidths=[codebooks * bits * 50 / 1000],
    )
    return EncodecResidualVectorQuantizer(config)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(seed: int = 0, codebooks: int = 3, cardinality: int = 8, width: int = 4) -> EncodecResidualVectorQuantizer:
    made = quantizer(codebooks, cardinality, width)
    start_codebooks(made, torch.randn(4, width, 50, generator=drawn(seed)), QuantizerConfig(), drawn(seed))
    return made


@pytest.mark.parametrize("case", ["thr0", "thr2"])
def test_three_steps_equal_the_oracle(oracles: Path, case: str) -> None:
    # Within a step, the reference's own averaging undoes its replacement of dead codes, so no code is replaced here.
    facts = json.loads((oracles / "rvq_train.json").read_text())
    pack = load_file(oracles / "rvq_train.safetensors")
    size = facts["config"]
    made = quantizer(size["n_q"], size["bins"], size["dimension"])

    def stored(step: int, level: int, buffer: str) -> Tensor:
        return pack[f"{case}.step{step}.vq.layers.{level}._codebook.{buffer}"]

    for level, codebook in enumerate(codebooks_of(made)):
        for buffer in BUFFERS:
            getattr(codebook, buffer).copy_(stored(0, level, buffer))
    config = QuantizerConfig(decay=size["decay"], epsilon=facts["epsilon"], dead_code_share=0.0)
    for step in range(3):
        latents = pack[f"x{step}"].clone().requires_grad_()
        result = train_quantizer(made, latents, config, drawn(0))
        ((result.latents * pack[f"gout{step}"]).sum() + result.commitment * facts["commitment_weight"]).backward()
        torch.testing.assert_close(result.latents.detach(), pack[f"{case}.out{step}"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(result.codes, pack[f"{case}.codes{step}"])
        torch.testing.assert_close(
            result.commitment.detach(), pack[f"{case}.penalty{step}"].squeeze(), rtol=1e-4, atol=0
        )
        torch.testing.assert_close(latents.grad, pack[f"{case}.xgrad{step}"], rtol=1e-4, atol=1e-6)
        for level, codebook in enumerate(codebooks_of(made)):
            for buffer in BUFFERS:
                wanted = stored(step + 1, level, buffer)
                torch.testing.assert_close(getattr(codebook, buffer), wanted, rtol=1e-4, atol=1e-6)


def test_codes_in_training_equal_those_of_transformers() -> None:
    made = started()
    latents = torch.randn(2, 4, 30, generator=drawn(1))
    expected = made.encode(latents).transpose(0, 1)
    result = train_quantizer(made, latents, QuantizerConfig(), drawn(0))
    assert torch.equal(result.codes, expected)


def test_the_gradient_of_the_output_reaches_the_latents_unchanged() -> None:
    made = started()
    latents = torch.randn(2, 4, 30, generator=drawn(1), requires_grad=True)
    upstream = torch.randn(2, 4, 30, generator=drawn(2))
    (train_quantizer(made, latents, QuantizerConfig(), drawn(0)).latents * upstream).sum().backward()
    torch.testing.assert_close(latents.grad, upstream)


def test_a_dead_code_becomes_a_vector_of_the_batch_and_is_used_afterwards() -> None:
    made = started()
    codebook = codebooks_of(made)[0]
    codebook.embed[3], codebook.embed_avg[3], codebook.cluster_size[3] = 1e3, 0.0, 0.0
    latents = torch.randn(2, 4, 30, generator=drawn(1))
    config = QuantizerConfig(dead_code_share=0.1)
    train_quantizer(made, latents, config, drawn(0))
    rows = latents.permute(0, 2, 1).reshape(-1, 4)
    assert (rows == codebook.embed[3]).all(dim=1).any()
    result = train_quantizer(made, latents, config, drawn(0))
    assert (result.codes[:, 0] == 3).any()
    assert codebook.embed[3].abs().max() < 10


def test_without_replacement_a_dead_code_stays_dead() -> None:
    made = started()
    codebook = codebooks_of(made)[0]
    codebook.embed[3], codebook.embed_avg[3], codebook.cluster_size[3] = 1e3, 1e3, 1.0
    latents = torch.randn(2, 4, 30, generator=drawn(1))
    for _ in range(3):
        result = train_quantizer(made, latents, QuantizerConfig(dead_code_share=0.0), drawn(0))
    assert not (result.codes[:, 0] == 3).any()


def test_codebooks_follow_latents_that_move() -> None:
    made = started()
    latents = torch.randn(4, 4, 50, generator=drawn(1)) + 5
    config = QuantizerConfig(decay=0.8)
    first = train_quantizer(made, latents, config, drawn(0)).commitment
    for step in range(40):
        last = train_quantizer(made, latents, config, drawn(step)).commitment
    assert last < first / 20


def test_kmeans_finds_separate_clusters_and_their_counts() -> None:
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    vectors = torch.cat([c + torch.randn(20 * (i + 1), 2, generator=drawn(i)) for i, c in enumerate(centres)])
    found = [kmeans(vectors, 3, 20, drawn(seed)) for seed in range(10)]
    best, counts = min(found, key=lambda made: float((vectors - made[0][nearest(vectors, made[0])]).square().sum()))
    order = (best @ torch.tensor([1.0, 2.0])).argsort()
    torch.testing.assert_close(best[order], centres, atol=1.0, rtol=0)
    assert counts[order].tolist() == [20.0, 40.0, 60.0]


def test_each_further_level_of_started_codebooks_lowers_the_error() -> None:
    made = started(codebooks=3)
    latents = torch.randn(4, 4, 50, generator=drawn(0))
    codes = made.encode(latents)
    errors = [float((latents - made.decode(codes[:level])).square().mean()) for level in (1, 2, 3)]
    assert float(latents.square().mean()) > errors[0] > errors[1] > errors[2]


def test_too_few_latents_to_start_codebooks_from_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 8 frames to start a codebook from, got 5"):
        start_codebooks(quantizer(2, 8, 4), torch.randn(1, 4, 5), QuantizerConfig(), drawn(0))


def test_dropout_leaves_out_whole_levels_for_some_items() -> None:
    made = started()
    latents = torch.randn(64, 4, 5, generator=drawn(1))
    codes = made.encode(latents)
    by_level = torch.stack([made.decode(codes[:level]) for level in (1, 2, 3)])
    result = train_quantizer(made, latents, QuantizerConfig(dropout=0.6), drawn(3))
    matches = torch.isclose(by_level, result.latents, atol=1e-5).flatten(2).all(dim=2)
    assert matches.any(dim=0).all()
    per_level = matches.sum(dim=1).tolist()
    assert min(per_level) > 5
    assert per_level[2] > per_level[0]


def test_levels_that_dropout_leaves_out_do_not_move_their_codebook() -> None:
    made = started()
    latents = torch.randn(1, 4, 5, generator=drawn(1))
    for seed in range(20):
        before = codebooks_of(made)[2].embed_avg.clone()
        result = train_quantizer(made, latents, QuantizerConfig(dropout=1.0), drawn(seed))
        full = torch.isclose(made.decode(made.encode(latents)), result.latents, atol=1e-5).all()
        if torch.equal(before, codebooks_of(made)[2].embed_avg):
            assert not full
            return
    raise AssertionError("in 20 draws no item left out the last level")
