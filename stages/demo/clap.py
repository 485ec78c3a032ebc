"""A small CLAP (arXiv:2211.06687) that learns captions of synthesised pieces, as a folder of transformers'
ClapModel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

from model.optim.train_state import step_seed
from stages.demo.config import ClapStandInConfig
from stages.demo.contrastive import Embedded, Pairs, accuracy, ranks, train_joint_embedding
from stages.demo.music import TrainingMusic
from stages.demo.synthesis import Piece, caption
from stages.demo.synthesis.captions import TEMPLATES
from stages.demo.synthesis.genres import GENRES
from stages.demo.vocabulary import LONGEST_TEXT, ROBERTA, captions_of, learn_vocabulary
from stages.networks.clap import load_joint_embedder

MEL_BINS = 64
"""Of the spectrogram; as LAION's."""

IMAGE = 128
"""The spectrogram of a window, 256 frames of 64 bins, is folded into a square of this size."""

INITIAL_WEIGHTS, INITIAL_SCALE = 2.5, 5.0
"""Times the usual spread of the initial weights, and the first scale of the similarities (usually 14). In a training as
short as this the usual values hold it up: with them the genre is named right half as often after the same steps."""

NAMED = {"genre": "this {} song", "lead": "led by {}", "accompaniment": "over {}"}
"""What a piece is asked about, and a sentence that names one answer."""


@dataclass(frozen=True, eq=False)
class ClapStandIn:
    """The model with what prepares its input."""

    model: ClapModel
    extractor: ClapFeatureExtractor
    tokenizer: PreTrainedTokenizerFast


def train(
    config: ClapStandInConfig, music: TrainingMusic, seed: int, device: str, on_step: Callable[[int, float], None]
) -> ClapStandIn:
    """A model that learned from the music's training part."""
    found = new_clap(config, music.sample_rate, seed)
    spectrograms = torch.stack([_spectrogram(found.extractor, stems) for stems in music.stems[music.learned]])
    pairs = _pairs(found.tokenizer, spectrograms, music.pieces[music.learned])
    model = found.model.to(device)  # type: ignore[arg-type]

    def network(heard: Tensor, tokens: Tensor, mask: Tensor) -> Embedded:
        audio = model.audio_projection(model.audio_model(input_features=heard).pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens, attention_mask=mask).pooler_output)
        return Embedded(
            functional.normalize(audio, dim=-1), functional.normalize(text, dim=-1), model.logit_scale_a.exp()
        )

    train_joint_embedding(model, network, pairs, config.training, step_seed(seed, 1), on_step)
    model.cpu()
    return found


def new_clap(config: ClapStandInConfig, sample_rate: int, seed: int) -> ClapStandIn:
    """The model with its initial weights, its feature extractor and a vocabulary learned from captions."""
    tokenizer = learn_vocabulary(captions_of(seed), config.vocabulary, ROBERTA)
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
        # RoBERTa counts positions from behind the padding id.
        "max_position_embeddings": LONGEST_TEXT + 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, 0))
        sizes = ClapConfig(
            text_config=text | still,
            audio_config=audio | still,
            projection_dim=config.embedding,
            logit_scale_init_value=INITIAL_SCALE,
            initializer_factor=INITIAL_WEIGHTS,
        )
        return ClapStandIn(ClapModel(sizes), extractor, tokenizer)


def save(found: ClapStandIn, folder: Path) -> None:
    """Write a folder that transformers' `from_pretrained` reads."""
    found.model.save_pretrained(folder)
    found.extractor.save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)


def evaluate_clap(folder: Path, music: TrainingMusic, device: str) -> dict[str, float]:
    """How the saved model finds the caption of held-out pieces among those of all held-out pieces, and names genre and
    instruments, next to chance."""
    embedder = load_joint_embedder(folder, device)
    pieces = music.pieces[music.evaluated]
    sounds = [stems.sum(0, keepdim=True).numpy() for stems in music.stems[music.evaluated]]
    heard = [embedder.embed_audio(sound, music.sample_rate, 10.0).embeddings[0] for sound in sounds]
    audio = torch.from_numpy(np.stack(heard))
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
    """Of the first window of a piece, in dB."""
    sound = stems.sum(0)[: extractor.nb_max_samples].numpy()
    features = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    return features[0].float()


def _pairs(
    tokenizer: PreTrainedTokenizerFast, spectrograms: Float[Tensor, "P 1 T F"], pieces: Sequence[Piece]
) -> Pairs:
    sentences = [caption(piece, variant) for piece in pieces for variant in range(len(TEMPLATES))]
    encoded = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    tokens, mask = (encoded[name].view(len(pieces), len(TEMPLATES), -1) for name in ("input_ids", "attention_mask"))
    return Pairs(spectrograms, tokens, mask)
