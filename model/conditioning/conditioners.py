"""Conditioners: from what a person asks to vectors the decoder reads (MusicGen, arXiv:2306.05284, 2.3 and 2.4).

Each works in two parts: `prepare` on the host (tokenising, stacking) and `forward` on the device. A condition that is
absent is a null: vectors of zeros with an empty mask, which the decoder sees all the same, as AudioCraft's does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from model.chroma import one_hot
from model.conditioning.configuration import ChromaConfig, ClapConfig, TextConfig
from model.language_model import Condition

SEMITONES = 12


@dataclass(frozen=True, eq=False)
class PreparedText:
    """Token ids, and which of them belong to a description."""

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedText":
        return PreparedText(self.tokens.to(device), self.mask.to(device))


@dataclass(frozen=True, eq=False)
class PreparedVectors:
    """Stacked vectors, zeros where a row has none, and which rows have one."""

    vectors: Float[Tensor, "B L E"]
    present: Bool[Tensor, "B"]

    def to(self, device: torch.device) -> "PreparedVectors":
        return PreparedVectors(self.vectors.to(device), self.present.to(device))


class TextConditioner(nn.Module):
    """Descriptions through a T5 encoder and a projection. The encoder is frozen, or learns too, as configured."""

    def __init__(
        self, config: TextConfig, width: int, encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        if encoder.config.d_model != config.width:
            raise ValueError(f"expected a text encoder of width {config.width}, got {encoder.config.d_model}")
        self.config, self.encoder, self.tokenizer = config, encoder, tokenizer
        self.projection = nn.Linear(config.width, width)
        if not config.finetune:
            self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TextConditioner":
        """A frozen encoder stays in evaluation mode: it must not drop anything."""
        super().train(mode)
        if not self.config.finetune:
            self.encoder.eval()
        return self

    def prepare(self, texts: Sequence[str | None]) -> PreparedText:
        """Tokenise; None and '' become the empty text, none of whose tokens counts."""
        encoded = self.tokenizer(
            [text or "" for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
        )
        present = torch.tensor([bool(text) for text in texts])
        return PreparedText(encoded["input_ids"], encoded["attention_mask"].bool() & present[:, None])

    def forward(self, prepared: PreparedText) -> Condition:
        with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
            hidden = self.encoder(input_ids=prepared.tokens, attention_mask=prepared.mask.long()).last_hidden_state
        embedding = self.projection(hidden.to(self.projection.weight.dtype))
        return Condition(embedding.masked_fill(~prepared.mask[..., None], 0.0), prepared.mask)


class ChromaConditioner(nn.Module):
    """Melodies through a projection, all brought to one length."""

    def __init__(self, config: ChromaConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(SEMITONES, width)

    def prepare(self, melodies: Sequence[Float[Tensor, "_ 12"] | None]) -> PreparedVectors:
        """Repeat each melody from its start, or cut it; ValueError for a melody that is empty or not [F, 12]."""
        vectors = torch.zeros(len(melodies), self.config.frames, SEMITONES)
        for row, melody in zip(vectors, melodies, strict=True):
            if melody is None:
                if self.config.null == "first_bin":
                    row[:, 0] = 1.0
            elif melody.ndim != 2 or melody.shape[1] != SEMITONES or not len(melody):
                raise ValueError(f"expected a chroma [F, {SEMITONES}], got {list(melody.shape)}")
            else:
                seen = one_hot(melody) if self.config.one_hot else melody
                row.copy_(seen[torch.arange(self.config.frames) % len(melody)])
        with_null = self.config.null == "first_bin"
        return PreparedVectors(vectors, torch.tensor([with_null or melody is not None for melody in melodies]))

    def forward(self, prepared: PreparedVectors) -> Condition:
        return _project(self.projection, prepared)


class ClapConditioner(nn.Module):
    """Joint embeddings through a projection, one vector each."""

    def __init__(self, config: ClapConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)

    def prepare(self, embeddings: Sequence[Float[Tensor, "_"] | None]) -> PreparedVectors:
        """Stack; ValueError for an embedding that is not [E]."""
        vectors = torch.zeros(len(embeddings), 1, self.config.width)
        for row, embedding in zip(vectors, embeddings, strict=True):
            if embedding is not None:
                if embedding.shape != (self.config.width,):
                    raise ValueError(f"expected a CLAP embedding [{self.config.width}], got {list(embedding.shape)}")
                row[0] = embedding
        return PreparedVectors(vectors, torch.tensor([embedding is not None for embedding in embeddings]))

    def forward(self, prepared: PreparedVectors) -> Condition:
        return _project(self.projection, prepared)


def _project(projection: nn.Linear, prepared: PreparedVectors) -> Condition:
    """Project, and make rows without a vector zeros."""
    mask = prepared.present[:, None].expand(prepared.vectors.shape[:2])
    embedding = projection(prepared.vectors.to(projection.weight.dtype))
    return Condition(embedding.masked_fill(~mask[..., None], 0.0), mask)
