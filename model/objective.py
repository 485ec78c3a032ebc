"""What a language model's training minimises and is judged by: cross-entropy over many batches, as if they were one.

A codebook's cross-entropy is the mean over all of its predicted codes, and the model's is the mean of its codebooks
(AudioCraft's `_compute_cross_entropy`). Parts of a batch hold unequal numbers of codes (padding), so a mean of their
means would be another number; here each part weighs what it holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.language_model import LanguageModel
from model.music_model import Attributes, MusicModel

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples of one length, the shorter ones padded at the end."""

    codes: Int[Tensor, "B K T"]
    lengths: Int[Tensor, " B"]
    """Frames of each that are codes of its track; what follows is padding."""
    attributes: Sequence[Attributes]

    def parts(self, items: int) -> Iterator["Batch"]:
        """The batch in pieces of at most `items` examples, in order."""
        for start in range(0, len(self.attributes), items):
            piece = slice(start, start + items)
            yield Batch(self.codes[piece], self.lengths[piece], self.attributes[piece])


def predicted(model: LanguageModel, frames: int, lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B K T"]:
    """Which codes of a batch are predicted: those inside the recording, but for the tail that the pattern leaves."""
    pattern = model.pattern(frames)
    reached = pattern.frame_placement(pattern.steps("valid"), outputs=True, mode="valid").mask
    inside = torch.arange(frames) < lengths.cpu()[:, None]
    return reached & inside[:, None]


def accumulate_gradients(model: MusicModel, batch: Batch, items: int, precision: Precision) -> Float[Tensor, " K"]:
    """Add the gradient of a batch's cross-entropy to the parameters', working on `items` examples at once.

    The gradient is that of the whole batch in one piece, but for rounding. Returns each codebook's cross-entropy, nats,
    on the model's device: reading it is what waits for the device, and nothing here does.
    """
    frames = batch.codes.shape[-1]
    totals = predicted(model.language_model, frames, batch.lengths).sum((0, 2)).to(model.device)
    codebooks = torch.zeros(len(totals), device=model.device)
    for part in batch.parts(items):
        shares = predicted(model.language_model, frames, part.lengths).sum((0, 2)).to(model.device) / totals
        with _precision(model, precision):
            loss = model.loss(part.codes, part.attributes, part.lengths)
        (loss.codebooks * shares).mean().backward()
        codebooks += loss.codebooks.detach() * shares
    return codebooks


@torch.no_grad()
def held_out_cross_entropy(model: MusicModel, batches: Iterable[Batch], precision: Precision) -> Float[Tensor, " K"]:
    """Each codebook's cross-entropy over all batches together, nats, with nothing dropped out; NaN for no batches."""
    training = model.training
    model.eval()
    books = model.config.language_model.codebooks
    sums, counts = torch.zeros(books, dtype=torch.float64), torch.zeros(books, dtype=torch.float64)
    try:
        for batch in batches:
            held = predicted(model.language_model, batch.codes.shape[-1], batch.lengths).sum((0, 2))
            with _precision(model, precision):
                loss = model.loss(batch.codes, batch.attributes, batch.lengths)
            sums += loss.codebooks.cpu().double() * held
            counts += held
    finally:
        model.train(training)
    return sums / counts


def unigram_cross_entropy(
    model: LanguageModel, frequencies: Int[Tensor, "K V"], batches: Iterable[Batch]
) -> Float[Tensor, " K"]:
    """Each codebook's cross-entropy under a model that knows only how often a code occurs, over the very codes that the
    language model is judged by.

    Args:
        frequencies: how often each code occurs in the training tracks; one is added to each (Laplace), so that a code
            that never occurred there is not impossible.
    """
    smoothed = frequencies.double() + 1
    surprise = -(smoothed / smoothed.sum(1, keepdim=True)).log()
    sums, counts = torch.zeros(len(surprise)).double(), torch.zeros(len(surprise)).double()
    for batch in batches:
        frames = batch.codes.shape[-1]
        mask = predicted(model, frames, batch.lengths)
        values = surprise.gather(1, batch.codes.transpose(0, 1).flatten(1)).unflatten(1, (-1, frames)).transpose(0, 1)
        sums += (values * mask).sum((0, 2))
        counts += mask.sum((0, 2))
    return sums / counts


def _precision(model: MusicModel, precision: Precision) -> AbstractContextManager:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)
