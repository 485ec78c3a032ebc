"""Contrastive training: it learns to match pairs, repeatably, and the measures have their stated meaning."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from stages.demo.clap import (
    ClapTrainingConfig,
    Embedded,
    Pairs,
    accuracy,
    contrastive_loss,
    ranks,
    train_joint_embedding,
)

PIECES, SENTENCES, BINS = 12, 3, 12


class Towers(nn.Module):
    """A linear map of the mean spectrum, and a mean of word vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.sound, self.words = nn.Linear(BINS, 8), nn.Embedding(40, 8)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def embed(self, heard: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> Embedded:
        words = (self.words(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        audio = functional.normalize(self.sound(heard.mean((1, 2))), dim=-1)
        return Embedded(audio, functional.normalize(words, dim=-1), self.scale.exp())


def pairs() -> Pairs:
    heard = 5 * torch.eye(BINS)[:PIECES, None, None].expand(-1, 1, 6, -1).contiguous()
    tokens = torch.stack(
        [torch.tensor([[piece, 20 + variant] for variant in range(SENTENCES)]) for piece in range(PIECES)]
    )
    return Pairs(heard, tokens, torch.ones_like(tokens))


def trained(seed: int, losses: list[float] | None = None) -> Towers:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = Towers()
    optimization = {"steps": 60, "learning_rate": 0.05, "warmup_steps": 2, "precision": "float32", "ema_decay": 0.5}
    config = ClapTrainingConfig.model_validate(
        {"batch_size": 6, "gain": 0.5, "optimization": optimization | {"ema_interval": 1}}
    )
    keep = losses if losses is not None else []
    train_joint_embedding(towers, towers.embed, pairs(), config, seed, lambda step, loss: keep.append(loss))
    return towers


def test_sounds_find_their_own_sentences_after_training():
    losses: list[float] = []
    towers = trained(0, losses)
    given = pairs()
    with torch.no_grad():
        found = towers.embed(given.spectrograms, given.tokens[:, 0], given.mask[:, 0])
    assert losses[0] > 1.0 > losses[-1]
    assert (ranks(found.audio, found.text) == 0).float().mean() > 0.8
    assert accuracy(found.audio, found.text, range(PIECES)) > 0.8
    assert not towers.training


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones():
    assert torch.equal(trained(1).sound.weight, trained(1).sound.weight)
    assert not torch.equal(trained(1).sound.weight, trained(2).sound.weight)


def test_the_loss_of_equal_vectors_is_that_of_guessing():
    alike = functional.normalize(torch.ones(5, 3), dim=-1)
    assert float(contrastive_loss(Embedded(alike, alike, torch.tensor(10.0)))) == pytest.approx(math.log(5), abs=1e-5)


def test_the_loss_of_perfect_pairs_is_nearly_zero_even_with_a_huge_scale():
    apart = torch.eye(4)
    assert float(contrastive_loss(Embedded(apart, apart, torch.tensor(1e9)))) < 1e-6


def test_ranks_count_the_sentences_that_are_nearer():
    audio = torch.eye(3)
    text = torch.tensor([[0.5, 0.0, 0.9], [0.9, 0.6, 0.0], [0.0, 0.9, 0.1]])
    assert ranks(audio, text).tolist() == [1, 1, 1]


def test_fewer_pieces_than_a_batch_are_refused():
    towers = Towers()
    with pytest.raises(ValueError, match="at least 32 pieces for a batch, got 12"):
        train_joint_embedding(towers, towers.embed, pairs(), ClapTrainingConfig(), 0, lambda step, loss: None)
