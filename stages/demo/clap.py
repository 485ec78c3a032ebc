"""A small CLAP (Wu et al., arXiv:2211.06687) that learns captions of synthesised pieces, saved as a folder of
transformers' ClapModel: a stand-in for the published weights.

It learns to embed a sound and a sentence about it close to each other (arXiv:2211.06687, 2.1; the loss is CLIP's,
arXiv:2103.00020)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from model.optim.train_state import step_seed
from stages.checkpoints.disk_errors import disk_errors
from stages.demo.config import ClapStandInConfig, ClapTrainingConfig
from stages.demo.synthesis import Piece, caption
from stages.demo.synthesis.captions import TEMPLATES
from stages.demo.synthesis.composition import GENRES
from stages.demo.text_encoder import ROBERTA_TOKENS, compose_captions, learn_vocabulary
from stages.demo.training import OnStep, TrainingMusic, seeded, train_network
from stages.networks.clap import LONGEST_TEXT, load_joint_embedder
from stages.networks.loading import save_network

MEL_BINS = 64
"""Mel bins of the spectrogram, as many as LAION's models have."""

IMAGE = 128
"""The spectrogram of a window, 256 frames of 64 bins, is folded into a square of this size."""

INITIAL_WEIGHTS, INITIAL_SCALE = 2.5, 5.0
"""Initial weights have this many times the usual spread, and similarities this initial scale (usually 14). In such a
short training the usual values slow learning down: after the same number of steps, the genre is named right half as
often."""

NAMED = {"genre": "this {} song", "lead": "led by {}", "accompaniment": "over {}"}
"""The aspects of a piece that the evaluation asks for, with the sentence for one possible answer."""

LARGEST_SCALE = 100.0
"""Largest scale of the similarities (arXiv:2103.00020, 2.5)."""


@dataclass(frozen=True, eq=False)
class ClapStandIn:
    """The model, and what prepares its input."""

    model: ClapModel
    extractor: ClapFeatureExtractor
    tokenizer: PreTrainedTokenizerFast


def new_clap(config: ClapStandInConfig, sample_rate: int, seed: int) -> ClapStandIn:
    """Make the model with its initial weights, its feature extractor and a vocabulary learned from captions."""
    tokenizer = learn_vocabulary(compose_captions(seed), config.vocabulary, ROBERTA_TOKENS)
    extractor = ClapFeatureExtractor(
        feature_size=MEL_BINS,
        sampling_rate=sample_rate,
        hop_length=sample_rate // 25,
        fft_window_size=1024,
        max_length_s=10,
        frequency_min=50,
        frequency_max=sample_rate // 2,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_factor": INITIAL_WEIGHTS}
    audio = {
        "spec_size": IMAGE,
        "num_mel_bins": MEL_BINS,
        "patch_size": config.patch,
        "patch_stride": [config.patch, config.patch],
        "patch_embeds_hidden_size": config.width,
        "hidden_size": config.width * 2 ** (len(config.blocks) - 1),
        "depths": list(config.blocks),
        "num_attention_heads": list(config.heads),
        "drop_path_rate": 0.0,
        "num_classes": 2,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * config.text_width,
        # RoBERTa's positions begin after the padding id.
        "max_position_embeddings": LONGEST_TEXT + 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    with seeded(step_seed(seed, 0)):
        sizes = ClapConfig(
            text_config=text | still,
            audio_config=audio | still,
            projection_dim=config.embedding,
            logit_scale_init_value=INITIAL_SCALE,
            initializer_factor=INITIAL_WEIGHTS,
        )
        return ClapStandIn(ClapModel(sizes), extractor, tokenizer)


def train_clap(config: ClapStandInConfig, music: TrainingMusic, seed: int, device: str, on_step: OnStep) -> ClapStandIn:
    """Train a model on the training part of the music."""
    clap = new_clap(config, music.sample_rate, seed)
    spectrograms = torch.stack([_spectrogram(clap.extractor, stems) for stems in music.stems[music.training]])
    pairs = _pair_with_captions(clap.tokenizer, spectrograms, music.pieces[music.training])
    model = clap.model.to(device)  # type: ignore[arg-type]

    def embed(spectrograms: Tensor, tokens: Tensor, mask: Tensor) -> Embedded:
        audio = model.audio_projection(model.audio_model(input_features=spectrograms).pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens, attention_mask=mask).pooler_output)
        return Embedded(
            functional.normalize(audio, dim=-1), functional.normalize(text, dim=-1), model.logit_scale_a.exp()
        )

    train_joint_embedding(model, embed, pairs, config.training, step_seed(seed, 1), on_step)
    model.cpu()
    return clap


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training data: for each piece a spectrogram (dB), and several sentences as padded tokens."""

    spectrograms: Float[Tensor, "P 1 T F"]
    tokens: Int[Tensor, "P sentences L"]
    mask: Int[Tensor, "P sentences L"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """A batch in the joint space: unit vectors, and the factor of their similarities."""

    audio: Float[Tensor, "B E"]
    text: Float[Tensor, "B E"]
    scale: Float[Tensor, ""]


EmbedPairs = Callable[[Tensor, Tensor, Tensor], Embedded]
"""Embeds spectrograms [B, 1, T, F] and their sentences, given as tokens [B, L] and mask [B, L]."""


def contrastive_loss(embedded: Embedded) -> Float[Tensor, ""]:
    """Return the cross-entropy of finding each sound's sentence in the batch, averaged with that of finding each
    sentence's sound."""
    similarities = embedded.scale.clamp(max=LARGEST_SCALE) * embedded.audio @ embedded.text.T
    own = torch.arange(len(similarities), device=similarities.device)
    return (functional.cross_entropy(similarities, own) + functional.cross_entropy(similarities.T, own)) / 2


def train_joint_embedding(
    weights: nn.Module,
    embed: EmbedPairs,
    pairs: Pairs,
    config: ClapTrainingConfig,
    seed: int,
    on_step: OnStep,
) -> None:
    """Train `weights` in place so that `embed` brings the two sides of each pair together.

    Args:
        weights: the module whose parameters `embed` uses.
        embed: the forward pass.

    Raises:
        ValueError: there are fewer pieces than a batch has.
    """
    count, sentences, _ = pairs.tokens.shape
    if count < config.batch_size:
        raise ValueError(f"expected at least {config.batch_size} pieces for a batch, got {count}")
    device = next(weights.parameters()).device

    def draw_loss(generator: torch.Generator) -> Float[Tensor, ""]:
        pieces = torch.randperm(count, generator=generator)[: config.batch_size]
        sentence = torch.randint(sentences, (config.batch_size,), generator=generator)
        spectrograms = _augment(pairs.spectrograms[pieces], config.gain, generator)
        batch = (spectrograms, pairs.tokens[pieces, sentence], pairs.mask[pieces, sentence])
        return contrastive_loss(embed(*(tensor.to(device) for tensor in batch)))

    train_network(weights, draw_loss, config.optimization, seed, on_step)


def _augment(
    spectrograms: Float[Tensor, "B 1 T F"], gain: float, generator: torch.Generator
) -> Float[Tensor, "B 1 T F"]:
    """Return the spectrograms at another loudness and rotated in time. This varies the few pieces there are, and
    changes nothing that a caption says of them.

    Args:
        gain: largest change of loudness, dB.
    """
    level = (2 * torch.rand(len(spectrograms), generator=generator) - 1) * gain
    starts = torch.randint(spectrograms.shape[2], (len(spectrograms),), generator=generator).tolist()
    turned = torch.stack([piece.roll(start, dims=1) for piece, start in zip(spectrograms, starts, strict=True)])
    return turned + level[:, None, None, None]


def ranks(audio: Float[Tensor, "B E"], text: Float[Tensor, "B E"]) -> Int[Tensor, " B"]:
    """Return the rank, from 0, of each sound's own sentence among all sentences."""
    similarities = audio @ text.T
    return (similarities > similarities.diagonal()[:, None]).sum(1)


def accuracy(audio: Float[Tensor, "B E"], choices: Float[Tensor, "M E"], right: Sequence[int]) -> float:
    """Return the share of sounds whose nearest of M sentences is the right one."""
    return float(((audio @ choices.T).argmax(1) == torch.tensor(list(right))).float().mean())


@disk_errors()
def save_clap(clap: ClapStandIn, folder: Path) -> None:
    """Write a folder that transformers' `from_pretrained` reads."""
    save_network(clap.model, folder)
    clap.extractor.save_pretrained(folder)
    clap.tokenizer.save_pretrained(folder)


def evaluate_clap(folder: Path, music: TrainingMusic, device: str) -> dict[str, float]:
    """Measure how well the saved model finds a held-out piece's caption among those of all held-out pieces, and how
    well it names genre and instruments, each next to chance."""
    embedder = load_joint_embedder(folder, device)
    pieces = music.pieces[music.held_out]
    sounds = [stems.sum(0, keepdim=True).numpy() for stems in music.stems[music.held_out]]
    windows = [embedder.embed_audio(sound, music.sample_rate, 10.0).embeddings[0] for sound in sounds]
    audio = torch.from_numpy(np.stack(windows))
    own = ranks(audio, torch.from_numpy(embedder.embed_text([caption(piece) for piece in pieces])))
    metrics = {"own_caption_first": float((own == 0).float().mean()), "own_caption_first_chance": 1 / len(pieces)}
    metrics["own_caption_rank"] = float(own.float().median()) + 1
    for aspect, sentence in NAMED.items():
        answers = sorted(GENRES) if aspect == "genre" else sorted({getattr(piece, aspect) for piece in pieces})
        choices = torch.from_numpy(embedder.embed_text([sentence.format(answer) for answer in answers]))
        right = [answers.index(getattr(piece, aspect)) for piece in pieces]
        metrics[f"{aspect}_accuracy"] = accuracy(audio, choices, right)
        metrics[f"{aspect}_chance"] = 1 / len(answers)
    return metrics


def _spectrogram(extractor: ClapFeatureExtractor, stems: Float[Tensor, "stems N"]) -> Float[Tensor, "1 T F"]:
    """Return the spectrogram of the first window of a piece, in dB."""
    sound = stems.sum(0)[: extractor.nb_max_samples].numpy()
    features = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    spectrogram: Tensor = features[0].float()
    return spectrogram


def _pair_with_captions(
    tokenizer: PreTrainedTokenizerFast, spectrograms: Float[Tensor, "P 1 T F"], pieces: Sequence[Piece]
) -> Pairs:
    sentences = [caption(piece, variant) for piece in pieces for variant in range(len(TEMPLATES))]
    encoded = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    tokens, mask = (encoded[name].view(len(pieces), len(TEMPLATES), -1) for name in ("input_ids", "attention_mask"))
    return Pairs(spectrograms, tokens, mask)
