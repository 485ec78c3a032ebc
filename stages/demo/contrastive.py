"""Teaching a small model that sound and words which belong together lie together: contrastive training as in CLAP (Wu
et al., arXiv:2211.06687, 2.1; the loss is CLIP's, arXiv:2103.00020), as a stand-in for the published weights.

The network is handed in as a function from spectrograms and tokens to two sets of unit vectors and the scale of their
similarities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from model.optim.config import ContrastiveConfig
from model.optim.train_state import TrainState, step_seed

LARGEST_SCALE = 100.0
"""Of the similarities (arXiv:2103.00020, 2.5)."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """What is learned from: a spectrogram for each piece (dB) and, for each piece, sentences as padded tokens."""

    spectrograms: Float[Tensor, "P 1 T F"]
    tokens: Int[Tensor, "P sentences L"]
    mask: Int[Tensor, "P sentences L"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A batch in the joint space: unit vectors, and what similarities are multiplied with."""

    audio: Float[Tensor, "B E"]
    text: Float[Tensor, "B E"]
    scale: Float[Tensor, ""]


Network = Callable[[Tensor, Tensor, Tensor], Embedded]
"""(spectrograms [B, 1, T, F], tokens [B, L], mask [B, L]) to their embeddings."""


def contrastive_loss(embedded: Embedded) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of finding the sentence of each sound, and the sound of each sentence, in the batch."""
    similarities = embedded.scale.clamp(max=LARGEST_SCALE) * embedded.audio @ embedded.text.T
    own = torch.arange(len(similarities), device=similarities.device)
    return (functional.cross_entropy(similarities, own) + functional.cross_entropy(similarities.T, own)) / 2


def train_joint_embedding(
    weights: nn.Module,
    network: Network,
    pairs: Pairs,
    config: ContrastiveConfig,
    seed: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Train `weights` in place and leave them averaged, in evaluation mode.

    Args:
        weights: the module whose parameters `network` uses.
        network: the forward pass.
        pairs: pieces and their sentences.
        seed: the draws of a step are a function of seed and step.
        on_step: told of each step and its loss; may raise to stop.

    Raises:
        ValueError: there are fewer pieces than a batch has.
    """
    count, sentences, _ = pairs.tokens.shape
    if count < config.batch_size:
        raise ValueError(f"expected at least {config.batch_size} pieces for a batch, got {count}")
    train_state = TrainState(weights, config.optimization)
    device = next(weights.parameters()).device
    weights.train()
    for step in range(config.optimization.steps):
        generator = torch.Generator().manual_seed(step_seed(seed, step))
        chosen = torch.randperm(count, generator=generator)[: config.batch_size]
        said = torch.randint(sentences, (config.batch_size,), generator=generator)
        heard = _varied(pairs.spectrograms[chosen], config.gain, generator)
        batch = (heard, pairs.tokens[chosen, said], pairs.mask[chosen, said])
        loss = contrastive_loss(network(*(one.to(device) for one in batch)))
        loss.backward()
        train_state.step_and_check()
        on_step(step, float(loss.detach()))
    train_state.keep_averaged()
    weights.eval()


def _varied(
    spectrograms: Float[Tensor, "B 1 T F"], gain: float, generator: torch.Generator
) -> Float[Tensor, "B 1 T F"]:
    """The same pieces at another loudness and begun at another moment: there are few of them, and neither changes what
    can be said of a piece."""
    level = (2 * torch.rand(len(spectrograms), generator=generator) - 1) * gain
    starts = torch.randint(spectrograms.shape[2], (len(spectrograms),), generator=generator).tolist()
    turned = torch.stack([one.roll(start, dims=1) for one, start in zip(spectrograms, starts, strict=True)])
    return turned + level[:, None, None, None]


def ranks(audio: Float[Tensor, "B E"], text: Float[Tensor, "B E"]) -> Int[Tensor, " B"]:
    """The place, from 0, of each sound's own sentence among all sentences."""
    similarities = audio @ text.T
    return (similarities > similarities.diagonal()[:, None]).sum(1)


def accuracy(audio: Float[Tensor, "B E"], choices: Float[Tensor, "M E"], right: Sequence[int]) -> float:
    """The share of sounds whose nearest of M sentences is the right one."""
    return float(((audio @ choices.T).argmax(1) == torch.tensor(list(right))).float().mean())
