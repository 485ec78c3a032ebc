"""The conditioners: how each kind of condition becomes vectors of the decoder (MusicGen, arXiv:2306.05284, 2.3 and 2.4;
AudioCraft's `audiocraft/modules/conditioners.py`).

Each works in two parts: `prepare` tokenises and stacks on the host, and `forward` makes a `Condition` of the decoder's
width D on the device. Null conditions and the padding of short rows are vectors of zeros outside the mask. A batch is
copied to the device without waiting for it; from page-locked (`pinned`) memory the copy is asynchronous.
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
"""Row of a table for padding and nulls. Some texts hash to the same row; only the mask tells the difference."""

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""A run of letters and digits, with the apostrophes inside it. (AudioCraft splits words with spaCy's English model and
spells digits out; plain words are the same in both.)"""

START_VECTORS_AN_ENTRY = 10
"""Embeddings for each entry of a codebook that k-means is given; more would only take longer."""


@dataclass(frozen=True, eq=False)
class PreparedTokens:
    """Token ids, and a mask of those that belong to a text."""

    tokens: Int[Tensor, "B L"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedTokens":
        return PreparedTokens(self.tokens.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedTokens":
        return PreparedTokens(self.tokens.pin_memory(), self.mask.pin_memory())


@dataclass(frozen=True, eq=False)
class PreparedVectors:
    """Stacked vectors, and a mask of those that are present; the others are zeros."""

    vectors: Float[Tensor, "B L E"]
    mask: Bool[Tensor, "B L"]

    def to(self, device: torch.device) -> "PreparedVectors":
        return PreparedVectors(self.vectors.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pinned(self) -> "PreparedVectors":
        return PreparedVectors(self.vectors.pin_memory(), self.mask.pin_memory())


def project(projection: nn.Linear, vectors: Float[Tensor, "B L E"], mask: Bool[Tensor, "B L"]) -> Condition:
    """Project vectors to the decoder's width, and set those outside the mask to zero (the bias is not zero there)."""
    embedding = projection(vectors.to(projection.weight.dtype))
    return Condition(embedding.masked_fill(~mask[..., None], 0.0), mask)


class TextConditioner(nn.Module):
    """Embeds descriptions with a T5 encoder (arXiv:1910.10683) and a projection. The encoder is frozen unless
    `config.finetune` is set.

    Raises:
        ValueError: the width of the encoder is not that of the configuration.
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
        """Set the mode, but keep a frozen encoder in evaluation mode, without dropout."""
        super().train(mode)
        if not self.config.finetune:
            self.encoder.eval()
        return self

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Tokenise texts. None and '' become the empty text, with all of its tokens outside the mask."""
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
        """Return vectors [B, L, D] of the tokens. The encoder masks padding, so padding does not change the vectors."""
        with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
            # The mask is passed as added scores: transformers reads a mask of [B, L] on the host, to skip it if there
            # is no padding, which waits for the device. The value is half of the lowest number, because bfloat16 would
            # round the lowest to infinity.
            added = torch.zeros_like(prepared.mask, dtype=self.encoder.dtype)
            added.masked_fill_(~prepared.mask, torch.finfo(added.dtype).min / 2)
            hidden = self.encoder(input_ids=prepared.tokens, attention_mask=added[:, None, None]).last_hidden_state
        return project(self.projection, hidden, prepared.mask)


def table_row(text: str, rows: int) -> int:
    """Return the row of a text: the SHA-256 of its UTF-8 bytes as an integer, modulo the size of the table. Upper and
    lower case differ."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % rows


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, in order, without punctuation."""
    return WORD.findall(text.lower())


class TableConditioner(nn.Module):
    """Embeds labels or words with a table and a projection: [B, 1, D] for labels, [B, most words, D] for words
    (AudioCraft: `LUTConditioner`).

    Rows are found by hashing, so that no vocabulary has to be stored and texts that are not in the training data have a
    row too (K. Weinberger et al., "Feature hashing for large scale multitask learning", arXiv:0902.2206).
    """

    def __init__(self, config: LabelConfig | WordsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.rows, config.width)
        self.projection = nn.Linear(config.width, width)

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Find the rows of texts. None is a null condition, and so is a text without words where the field is words. An
        empty label is a label like others."""
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
    """Return sin and cos of 2^k π u for k = 0 … `waves` - 1, so that E = 2 * `waves`.

    u is the position of a number in the range, from 0 to 1; numbers outside the range are clamped. The angles are
    computed in double precision, because the fastest wave multiplies errors.
    """
    share = (numbers.double().clamp(config.lowest, config.highest) - config.lowest) / (config.highest - config.lowest)
    angles = share[:, None] * math.pi * 2.0 ** torch.arange(config.waves, dtype=torch.float64)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class NumberConditioner(nn.Module):
    """Embeds numbers (tempo, length) with sines and cosines of growing frequency (NeRF, arXiv:2003.08934, 5.1) and a
    projection: one vector each.

    A projection alone would be linear in the number. Waves let similar numbers share what is learned and still differ.
    AudioCraft has no such condition; Stable Audio uses a learned variant for the timing of music (arXiv:2402.04825,
    2.2).
    """

    def __init__(self, config: NumberConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(2 * config.waves, width)

    def prepare(self, numbers: Sequence[float | int | None]) -> PreparedVectors:
        """Compute the waves of numbers in the field's unit; None is a null condition.

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
    """Embeds melodies, the chroma of each frame, by a projection (MusicGen, 2.2; AudioCraft: `ChromaStemConditioner`).

    The result is [B, `config.frames`, D] with `config.match_length`, else [B, longest, D].
    """

    def __init__(self, config: MelodyConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(PITCH_CLASSES, width)

    def prepare(self, melodies: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack melodies [F, 12] of `config.frame_rate` frames a second, repeated, cut or padded as configured. None is
        a null condition.

        Raises:
            ValueError: a melody is empty or not [F, 12].
        """
        for melody in melodies:
            if melody is not None and (melody.ndim != 2 or melody.shape[1] != PITCH_CLASSES or not len(melody)):
                raise ValueError(f"expected a chroma [F, {PITCH_CLASSES}], got {list(melody.shape)}")
        max_frames = self.config.frames
        if self.config.match_length:
            lengths = [0 if melody is None else max_frames for melody in melodies]
        else:
            lengths = [0 if melody is None else min(max_frames, len(melody)) for melody in melodies]
        longest = max_frames if self.config.match_length else max([1, *lengths])
        vectors = torch.zeros(len(melodies), longest, PITCH_CLASSES)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        for item, (melody, length) in enumerate(zip(melodies, lengths, strict=True)):
            if melody is not None:
                frames = one_hot(melody) if self.config.one_hot else melody
                vectors[item, :length] = frames[torch.arange(length) % len(melody)]
            elif self.config.null == "first_bin":
                vectors[item, :, 0], mask[item] = 1.0, True
        return PreparedVectors(vectors, mask)

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Return vectors [B, L, D] of the frames."""
        return project(self.projection, prepared.vectors, prepared.mask)


class ClapConditioner(nn.Module):
    """Turns joint embeddings of text and audio (LAION-CLAP, arXiv:2211.06687) into conditions of one vector each, by
    residual codebooks, if configured, and a projection (AudioCraft: `JointEmbeddingConditioner`).

    A model learns from embeddings of audio, but requests have embeddings of text, which lie elsewhere in the joint
    space. Codebooks map both to the same few vectors. As in a codec, they are set by k-means and then learn by moving
    averages from the embeddings that pass in training mode (`model.codec.quantizer`).
    """

    def __init__(self, config: ClapConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.width, width)
        self.quantizer = None if config.quantizer is None else _new_quantizer(config.quantizer, config.width)

    @property
    def started(self) -> bool:
        """Whether the codebooks have been set; true if there are none."""
        if self.quantizer is None:
            return True
        return bool(torch.cat([codebook.inited for codebook in codebooks_of(self.quantizer)]).all())

    def start(self, embeddings: Float[Tensor, "M E"], generator: torch.Generator) -> None:
        """Set the codebooks by k-means over embeddings of the training data, before training.

        Does nothing if there are no codebooks, or if they are set already (in a model that is trained further).

        Args:
            embeddings: embeddings of the training data; at most `START_VECTORS_AN_ENTRY` for each entry are drawn.
            generator: the random generator, on the CPU.

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
        """Stack embeddings [E]; None is a null condition.

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
        """Return vectors [B, 1, D].

        In training mode the codebooks learn, with random numbers from torch's global generator, unless the conditioner
        is frozen.

        Raises:
            ValueError: there is an embedding, but the codebooks have not been set.
        """
        vectors = prepared.vectors
        if self.quantizer is not None:
            if not self.started and prepared.mask.any():
                raise ValueError(
                    "expected codebooks that were set from joint embeddings, got empty ones: call `start` first"
                )
            # Always in float32: distances are differences of large squares.
            with torch.autocast(vectors.device.type, enabled=False):
                vectors = self._quantized(prepared)
        return project(self.projection, vectors, prepared.mask)

    def _quantized(self, prepared: PreparedVectors) -> Float[Tensor, "B 1 E"]:
        assert self.quantizer is not None
        assert self.config.quantizer is not None
        latents = prepared.vectors.transpose(1, 2)
        if not (self.training and self.projection.weight.requires_grad):
            return self.quantizer.decode(self.quantizer.encode(latents)).transpose(1, 2)
        # Nulls are left out: if they counted, as in AudioCraft, they would pull entries towards the zero vector.
        present = prepared.mask[:, 0]
        quantized = train_quantizer(
            self.quantizer, latents[present], self.config.quantizer.learning, torch.default_generator
        )
        return latents.masked_scatter(present[:, None, None], quantized.latents).transpose(1, 2)


def _new_quantizer(config: JointQuantizerConfig, width: int) -> EncodecResidualVectorQuantizer:
    """Return a quantizer whose codebooks are empty and marked as not set."""
    frame_rate, bits = 50, (config.cardinality - 1).bit_length()
    # transformers derives the number of codebooks from kilobits a second, rounding down.
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
