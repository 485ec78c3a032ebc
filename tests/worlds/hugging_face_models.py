"""Small random MusicGens of transformers, in the folders that its `save_pretrained` writes, and their results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import (
    EncodecFeatureExtractor,
    GenerationConfig,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyFeatureExtractor,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from model.music_model import MusicModel
from tests.worlds.tiny_codec import HOP, SAMPLE_RATE, codec_configuration
from tests.worlds.tiny_model import WORDS, tokenizer

CHROMA_FRAMES, SEGMENT_FRAMES = 7, 100


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `codebooks` are those of the decoder, twice the codec's for stereo."""

    melody: bool = False
    stereo: bool = False
    width: int = 32
    heads: int = 4
    layers: int = 2
    feedforward: int = 128
    cardinality: int = 16
    codebooks: int = 4
    text_width: int = 16
    activation: str = "gelu"

    @property
    def levels(self) -> int:
        return self.codebooks // 2 if self.stereo else self.codebooks


SHAPES = {
    "mono": Shape(),
    "odd sizes": Shape(width=18, heads=3, layers=1, feedforward=50, cardinality=64, codebooks=3, text_width=20),
    "a text encoder as wide": Shape(width=16, heads=2, layers=3, feedforward=64, codebooks=2, activation="relu"),
    "stereo": Shape(stereo=True, codebooks=8, cardinality=32),
    "melody": Shape(melody=True, width=24, heads=2),
    "stereo melody": Shape(melody=True, stereo=True, codebooks=6, feedforward=96, cardinality=64),
    "as wide as a melody": Shape(melody=True, width=12, heads=2, feedforward=24),
}


def random_musicgen(shape: Shape, seed: int = 0) -> Any:
    """A model in which all parameters matter: transformers initialises norms at one, heads near zero, codebooks at
    zero."""
    torch.manual_seed(seed)
    decoder = {
        "vocab_size": shape.cardinality,
        "num_codebooks": shape.codebooks,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "ffn_dim": shape.feedforward,
        "activation_function": shape.activation,
        "audio_channels": 2 if shape.stereo else 1,
        "pad_token_id": shape.cardinality,
        "bos_token_id": shape.cardinality,
    }
    text = T5Config(
        d_model=shape.text_width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=len(WORDS), pad_token_id=0
    )
    codec = codec_configuration(shape.levels, shape.cardinality)
    parts: dict[str, Any] = {"text_encoder": text.to_dict(), "audio_encoder": codec.to_dict(), "decoder": decoder}
    model: Any
    if shape.melody:
        model = MusicgenMelodyForConditionalGeneration(MusicgenMelodyConfig(**parts, chroma_length=CHROMA_FRAMES))
    else:
        model = MusicgenForConditionalGeneration(MusicgenConfig(**parts))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith(("text_encoder", "audio_encoder")):
                value.normal_(1.0 if "norm" in name else 0.0, 0.3 if value.ndim == 1 else 1.5 * value.shape[-1] ** -0.5)
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
    return model.eval()


def save(model: Any, shape: Shape, folder: Path) -> Path:
    """Write the contents of a published folder."""
    model.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=shape.cardinality,
        decoder_start_token_id=shape.cardinality,
        pad_token_id=shape.cardinality,
        do_sample=True,
        guidance_scale=3.0,
        max_length=SEGMENT_FRAMES,
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if shape.melody:
        MusicgenMelodyFeatureExtractor(chunk_length=4).save_pretrained(folder)
    else:
        EncodecFeatureExtractor(sampling_rate=SAMPLE_RATE, padding_side="left").save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    """Load the model of a folder with transformers, which must find exactly the tensors that it needs."""
    kinds: dict[str, Any] = {
        "musicgen": MusicgenForConditionalGeneration,
        "musicgen_melody": MusicgenMelodyForConditionalGeneration,
    }
    kind = kinds[json.loads((folder / "config.json").read_text())["model_type"]]
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def encoded(descriptions: list[str]) -> dict[str, Tensor]:
    """Token ids and mask as transformers' processor returns them."""
    tokens = tokenizer()(descriptions, padding=True, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


@torch.no_grad()
def logits_of(theirs: Any, ours: MusicModel, codes: Tensor, descriptions: list[str], chroma: Tensor | None) -> Tensor:
    """Transformers' logits [B, K, T, V] of codes [B, K, T], zero where nothing is predicted."""
    batch, codebooks, frames = codes.shape
    pattern = ours.language_model.pattern(frames)
    sequence = pattern.build(codes, ours.language_model.special, "valid")
    melody = {} if chroma is None else {"input_features": chroma}
    found = theirs(**encoded(descriptions), **melody, decoder_input_ids=sequence.flatten(0, 1)).logits
    steps = found[:, -sequence.shape[-1] :].unflatten(0, (batch, codebooks))
    return pattern.revert_outputs(steps, "valid", fill=0.0)[0]


def greedy_codes(
    theirs: Any,
    shape: Shape,
    frames: int,
    descriptions: list[str],
    chroma: Tensor | None = None,
    prompt: Tensor | None = None,
) -> Tensor:
    """Codes [B, K, frames] of transformers' greedy `generate` with guidance 3, as they reach its codec.

    `prompt` is sound [B, C, N] to continue; `frames` includes it.
    """
    seen: list[Tensor] = []
    decode = theirs.audio_encoder.decode

    def record(codes: Tensor, *others: object, **named: object) -> object:
        seen.append(codes[0])
        return decode(codes, *others, **named)

    inputs = encoded(descriptions)
    inputs |= {} if chroma is None else {"input_features": chroma}
    inputs |= {} if prompt is None else {"input_values": prompt}
    known = 0 if prompt is None else prompt.shape[-1] // HOP
    with patch.object(theirs.audio_encoder, "decode", record):
        sound = theirs.generate(
            **inputs, do_sample=False, guidance_scale=3.0, max_new_tokens=frames + shape.levels - 1 - known
        )
    assert sound.shape == (len(descriptions), 2 if shape.stereo else 1, frames * HOP)
    return torch.stack(seen, dim=2).flatten(1, 2) if shape.stereo else seen[0]
