"""The conditioners: what each kind of condition is before the decoder (MusicGen, arXiv:2306.05284, 2.3 and 2.4;
AudioCraft's `audiocraft/modules/conditioners.py`).

Each works in two parts: `prepare` on the host (tokenising, stacking) and `forward` on the device, to a `Condition` of
the decoder's width D. What is absent (a null, or what pads a short row) is vectors of zeros outside the mask. A batch
goes to the device without waiting for it; from page-locked (`pinned`) memory the device copies it by itself.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import EncodecConfig, PreTrainedTokenizerBase, T5EncoderModel
from transformers.models.encodec.modeling_encodec import EncodecResidualVectorQuantizer

from model.chroma import PITCH_CLASSES, one_hot
from model.codec.quantizer import codebooks_of, start_codebooks, train_quantizer
from model.conditioning.config import (
    ClapConfig,
    JointQuantizerConfig,
    LabelConfig,
    MelodyConfig,
    NumberConfig,
    TextConfig,
    WordsConfig,
)
from model.lm.fuser import Condition

PADDING = 0
"""Row of a table for what is absent. The hash gives it to some text as well: only the mask tells them apart."""

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""A run of letters and digits, with the apostrophes inside it. (AudioCraft parts words by spaCy's English model, and
spells digits out: both agree on plain words.)"""

START_VECTORS_AN_ENTRY = 10
"""Embeddings for each entry of a codebook that its start looks at; more would only take longer."""


@dataclass(frozen=True, eq=False)
class PreparedTokens:
    """Token ids, and which of them belong to a text."""

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedTokens":
        return PreparedTokens(self.tokens.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedTokens":
        return PreparedTokens(self.tokens.pin_memory(), self.mask.pin_memory())


@dataclass(frozen=True, eq=False)
class PreparedVectors:
    """Stacked vectors, and which of them are there; the others are zeros."""

    vectors: Float[Tensor, "B L E"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedVectors":
        return PreparedVectors(self.vectors.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedVectors":
        return PreparedVectors(self.vectors.pin_memory(), self.mask.pin_memory())


def project(projection: nn.Linear, vectors: Float[Tensor, "B L E"], mask: Bool[Tensor, "B L"]) -> Condition:
    """Bring vectors to the decoder's width, and make those outside the mask zeros (the bias would show there)."""
    embedding = projection(vectors.to(projection.weight.dtype))
    return Condition(embedding.masked_fill(~mask[..., None], 0.0), mask)


class TextConditioner(nn.Module):
    """Descriptions through a T5 encoder (arXiv:1910.10683) and a projection. The encoder is frozen, or learns too, as
    configured.

    Raises:
        ValueError: the encoder has another width than the configuration's.
    """

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
        """Set the mode, but keep a frozen encoder in evaluation mode: it must not drop anything."""
        super().train(mode)
        if not self.config.finetune:
            self.encoder.eval()
        return self

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Tokenise texts; None and '' become the empty text, none of whose tokens counts."""
        encoded = self.tokenizer(
            [text or "" for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.config.max_tokens,
        )
        present = torch.tensor([bool(text) for text in texts])
        return PreparedTokens(encoded["input_ids"], encoded["attention_mask"].bool() & present[:, None])

    def forward(self, prepared: PreparedTokens) -> Condition:
        """Return vectors [B, L, D] of the tokens. The mask enters the encoder, so padding changes no token's vector."""
        with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
            # Added to the scores. A mask of [B, L] transformers looks at, to leave it out where there is no padding,
            # and so waits for the device; half of the lowest number, as bfloat16 would round that to infinity.
            added = torch.zeros_like(prepared.mask, dtype=self.encoder.dtype)
            added.masked_fill_(~prepared.mask, torch.finfo(added.dtype).min / 2)
            hidden = self.encoder(input_ids=prepared.tokens, attention_mask=added[:, None, None]).last_hidden_state
        return project(self.projection, hidden, prepared.mask)


def table_row(text: str, rows: int) -> int:
    """Return the row of a text: the SHA-256 of its UTF-8 bytes as an integer, modulo the table's size. Case counts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % rows


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, in order, without punctuation."""
    return WORD.findall(text.lower())


class TableConditioner(nn.Module):
    """Labels or words through a table and a projection: [B, 1, D] for labels, [B, most words, D] for words (AudioCraft:
    `LUTConditioner`).

    A row is found by hashing, so no vocabulary has to be kept, and a text that training never saw has its row as well
    (K. Weinberger et al., "Feature hashing for large scale multitask learning", arXiv:0902.2206).
    """

    def __init__(self, config: LabelConfig | WordsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.rows, config.width)
        self.projection = nn.Linear(config.width, width)

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Find the rows. None is a null, as is a text without a word where words count; '' is a label like others."""
        split = [self._split(text) for text in texts]
        tokens = torch.full((len(texts), max([1, *map(len, split)])), PADDING)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for item, parts in enumerate(split):
            tokens[item, : len(parts)] = torch.tensor([table_row(part, self.config.rows) for part in parts])
            mask[item, : len(parts)] = True
        return PreparedTokens(tokens, mask)

    def forward(self, prepared: PreparedTokens) -> Condition:
        """Return vectors [B, L, D] of the rows."""
        return project(self.projection, self.table(prepared.tokens), prepared.mask)

    def _split(self, text: str | None) -> list[str]:
        if text is None:
            return []
        return [text] if self.config.kind == "label" else words(text)


def waves(numbers: Float[Tensor, "B"], config: NumberConfig) -> Float[Tensor, "B E"]:
    """Return sin and cos of 2^k π u for k = 0 … `waves` - 1, E = 2 * `waves`, where u is where a number lies in the
    range, 0 to 1; one outside the range counts as its nearer end. In double precision: the fastest wave multiplies
    errors.
    """
    share = (numbers.double().clamp(config.lowest, config.highest) - config.lowest) / (config.highest - config.lowest)
    angles = share[:, None] * math.pi * 2.0 ** torch.arange(config.waves, dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class NumberConditioner(nn.Module):
    """Numbers (tempo, length) through sines and cosines of growing pace (NeRF, arXiv:2003.08934, 5.1) and a projection,
    one vector each.

    A projection alone could only be linear in the number; waves let neighbours share what is learned and still differ.
    AudioCraft has no such condition; Stable Audio times music by a learned relative of it (arXiv:2402.04825, 2.2).
    """

    def __init__(self, config: NumberConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(2 * config.waves, width)

    def prepare(self, numbers: Sequence[float | int | None]) -> PreparedVectors:
        """Compute the waves of numbers in the field's unit; None is a null.

        Raises:
            ValueError: a number is not finite.
        """
        for number in numbers:
            if number is not None and not math.isfinite(number):
                raise ValueError(f"expected a finite number or None, got {number}")
        mask = torch.tensor([number is not None for number in numbers])
        values = torch.tensor(
            [self.config.lowest if number is None else number for number in numbers], dtype=torch.float64
        )
        vectors = waves(values, self.config).masked_fill(~mask[:, None], 0.0)
        return PreparedVectors(vectors[:, None], mask[:, None])

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Return vectors [B, 1, D]."""
        return project(self.projection, prepared.vectors, prepared.mask)


class ChromaConditioner(nn.Module):
    """Melodies, the chroma of each frame, through a projection: [B, frames, D] where they are brought to one length,
    else [B, longest, D] (MusicGen, 2.2; AudioCraft: `ChromaStemConditioner`)."""

    def __init__(self, config: MelodyConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(PITCH_CLASSES, width)

    def prepare(self, melodies: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack melodies [F, 12] of `config.frame_rate` frames a second, repeated, cut or padded as configured; None is
        a null.

        Raises:
            ValueError: a melody is empty or not [F, 12].
        """
        for melody in melodies:
            if melody is not None and (melody.ndim != 2 or melody.shape[1] != PITCH_CLASSES or not len(melody)):
                raise ValueError(f"expected a chroma [F, {PITCH_CLASSES}], got {list(melody.shape)}")
        most = self.config.frames
        if self.config.match_length:
            lengths = [0 if melody is None else most for melody in melodies]
        else:
            lengths = [0 if melody is None else min(most, len(melody)) for melody in melodies]
        longest = most if self.config.match_length else max([1, *lengths])
        vectors = torch.zeros(len(melodies), longest, PITCH_CLASSES)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        for item, (melody, length) in enumerate(zip(melodies, lengths, strict=True)):
            if melody is not None:
                seen = one_hot(melody) if self.config.one_hot else melody
                vectors[item, :length] = seen[torch.arange(length) % len(melody)]
            elif self.config.null == "first_bin":
                vectors[item, :, 0], mask[item] = 1.0, True
        return PreparedVectors(vectors, mask)

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Return vectors [B, L, D] of the frames."""
        return project(self.projection, prepared.vectors, prepared.mask)


class ClapConditioner(nn.Module):
    """Joint embeddings of text and audio (LAION-CLAP, arXiv:2211.06687) through residual codebooks, if there are any,
    and a projection: one vector each (AudioCraft: `JointEmbeddingConditioner`).

    A model learns from embeddings of audio and is asked with embeddings of text, which lie apart in the joint space.
    Codebooks bring both to the same few vectors. They learn from the embeddings that pass in training mode: a start by
    k-means, then moving averages (`model.codec.quantizer`), the same as those of a codec.
    """

    def __init__(self, config: ClapConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)
        self.quantizer = None if config.quantizer is None else _new_quantizer(config.quantizer, config.width)

    @property
    def started(self) -> bool:
        """Whether the codebooks hold something; True where there are none."""
        if self.quantizer is None:
            return True
        return bool(torch.cat([codebook.inited for codebook in codebooks_of(self.quantizer)]).all())

    def start(self, embeddings: Float[Tensor, "M E"], generator: torch.Generator) -> None:
        """Set the codebooks by k-means, before training: the gist of the embeddings that it will see.

        Does nothing where there are no codebooks, or where they have started (a model that is trained further).

        Args:
            embeddings: of the training data; at most `START_VECTORS_AN_ENTRY` an entry are drawn from them.
            generator: where the draws come from, on the CPU.

        Raises:
            ValueError: there are fewer embeddings than entries of a codebook, or they have another width.
        """
        if self.quantizer is None or self.config.quantizer is None or self.started:
            return
        entries, (count, width) = self.config.quantizer.cardinality, embeddings.shape
        if count < entries or width != self.config.width:
            raise ValueError(
                f"expected at least {entries} joint embeddings of width {self.config.width} to start codebooks of "
                f"{entries} entries, got {count} of width {width}"
            )
        drawn = torch.randperm(count, generator=generator)[: START_VECTORS_AN_ENTRY * entries]
        vectors = embeddings[drawn.to(embeddings.device)].to(self.projection.weight.device, torch.float32)
        start_codebooks(self.quantizer, vectors.T[None], self.config.quantizer.learning, generator)

    def prepare(self, embeddings: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack embeddings [E]; None is a null.

        Raises:
            ValueError: an embedding has another shape.
        """
        vectors = torch.zeros(len(embeddings), 1, self.config.width)
        for row, embedding in zip(vectors, embeddings, strict=True):
            if embedding is not None:
                if embedding.shape != (self.config.width,):
                    raise ValueError(f"expected a CLAP embedding [{self.config.width}], got {list(embedding.shape)}")
                row[0] = embedding
        return PreparedVectors(vectors, torch.tensor([[embedding is not None] for embedding in embeddings]))

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Return vectors [B, 1, D]. In training mode the codebooks move, drawing from torch's own generator; those of a
        frozen conditioner stay.

        Raises:
            ValueError: there is an embedding, and the codebooks have not started.
        """
        vectors = prepared.vectors
        if self.quantizer is not None:
            if not self.started and prepared.mask.any():
                raise ValueError("expected codebooks that hold joint embeddings, got empty ones: `start` fills them")
            # Whatever precision the decoder runs in: distances are differences of large squares.
            with torch.autocast(vectors.device.type, enabled=False):
                vectors = self._quantized(prepared)
        return project(self.projection, vectors, prepared.mask)

    def _quantized(self, prepared: PreparedVectors) -> Float[Tensor, "B 1 E"]:
        assert self.quantizer is not None
        assert self.config.quantizer is not None
        latents = prepared.vectors.transpose(1, 2)
        if not (self.training and self.projection.weight.requires_grad):
            return self.quantizer.decode(self.quantizer.encode(latents)).transpose(1, 2)
        # Only what is there: nulls, were they to count as in AudioCraft, would draw entries to the zero vector.
        present = prepared.mask[:, 0]
        chosen = train_quantizer(
            self.quantizer, latents[present], self.config.quantizer.learning, torch.default_generator
        )
        return latents.masked_scatter(present[:, None, None], chosen.latents).transpose(1, 2)


def _new_quantizer(config: JointQuantizerConfig, width: int) -> EncodecResidualVectorQuantizer:
    """Make empty codebooks that know that they are empty."""
    frame_rate, bits = 50, (config.cardinality - 1).bit_length()
    # transformers knows the number of codebooks only through kilobits a second, rounded down.
    settings = EncodecConfig(
        sampling_rate=frame_rate * 320,
        upsampling_ratios=[8, 5, 4, 2],
        hidden_size=width,
        codebook_size=config.cardinality,
        target_bandwidths=[(config.codebooks + 0.5) * bits * frame_rate / 1000],
    )
    quantizer = EncodecResidualVectorQuantizer(settings)
    assert len(quantizer.layers) == config.codebooks
    for codebook in codebooks_of(quantizer):
        codebook.inited.zero_()
    return quantizer
