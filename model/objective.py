"""What training a language model minimises and reports: cross-entropy over many batches, as if they were one.

A codebook's cross-entropy is the mean over all of its predicted codes, and the model's is the mean of its codebooks
(AudioCraft's `_compute_cross_entropy`). Micro-batches hold unequal numbers of codes (padding), so a mean of their means
would be another number; here each weighs what it holds.

A model may learn another's guided predictions instead of the codes themselves, and then needs no guidance: the first
stage of "On distillation of guided diffusion models" (C. Meng et al., arXiv:2210.03142), for a language model. On music
G. Cideron et al. (arXiv:2410.06084) do so with sequences that the student generates; here, as in the former, it sees
the data.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from model.guidance import apply_guidance
from model.lm.language_model import LanguageModel, Prediction
from model.music_model import Attributes, MusicModel, Prepared
from model.optim.config import TrainingPrecision
from model.optim.precision import in_precision


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples of one length, the shorter ones padded at the end."""

    codes: Int[Tensor, "B K T"]
    lengths: Int[Tensor, " B"]
    """Frames of each that are codes of its track; what follows is padding."""
    attributes: Sequence[Attributes] | Prepared
    branches: Prepared | None = None
    """The conditions of all items, then as many nulls: what a guided teacher reads; None where there is none."""

    def prepared(self, model: MusicModel, with_branches: bool = False) -> "Batch":
        """Return the batch with its conditions as the model's device takes them, in pinned memory for a GPU: a reader
        thread may do this while the device works.

        Args:
            with_branches: a guided teacher is to read them too.
        """
        if isinstance(self.attributes, Prepared):
            return self
        items = self.attributes
        prepared = model.prepare(items)
        branches = model.prepare([*items, *(Attributes() for _ in items)]) if with_branches else None
        if model.device.type == "cuda":
            prepared, branches = prepared.pinned(), branches and branches.pinned()
        return replace(self, attributes=prepared, branches=branches)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Examples of one step that are worked on at once."""

    batch: Batch
    loss_weights: Float[Tensor, " K"]
    """Which share of each codebook's predicted codes of the whole step they hold, on the host."""
    seed: int
    """What dropout is drawn from. Each micro-batch has its own, so that it is drawn alike in whichever process."""


def predicted(model: LanguageModel, frames: int, lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B K T"]:
    """Mark the codes that are predicted: those inside the recording, but for the tail that the pattern leaves."""
    pattern = model.pattern(frames)
    reached = pattern.frame_placement(pattern.steps("valid"), outputs=True, mode="valid").mask
    inside = torch.arange(frames) < lengths.cpu()[:, None]
    return reached & inside[:, None]


def loss_weights(
    model: LanguageModel, frames: int, lengths: Int[Tensor, " B"], items: Sequence[range]
) -> list[Float[Tensor, " K"]]:
    """Return which share of each codebook's predicted codes every micro-batch of a step holds; they add up to 1.

    Args:
        lengths: frames that are codes, of all examples of the step.
        items: numbers of the examples that each micro-batch has.
    """
    counts = predicted(model, frames, lengths).sum(2)
    return [counts[list(numbers)].sum(0) / counts.sum(0) for numbers in items]


@dataclass(frozen=True, eq=False)
class GuidedTeacher:
    """A model in evaluation mode whose guided predictions another one learns. It is no module of the student's: it has
    no gradient and no place in its state."""

    model: MusicModel
    coefficient: float
    """Of classifier-free guidance (`model.guidance`); both branches share a pass."""

    @torch.no_grad()
    def logits(self, batch: Batch) -> Float[Tensor, "B K T V"]:
        """Return what the model says of every code with guidance.

        Args:
            batch: with its `branches`; its codes may be on the host.
        """
        assert batch.branches is not None
        codes, lengths = batch.codes.repeat(2, 1, 1), batch.lengths.repeat(2)
        logits = self.model(codes, batch.branches, lengths).logits.float()
        branches = logits.unflatten(0, (2, -1)).permute(1, 3, 0, 2, 4)  # B T W K V
        guidance = torch.full((branches.shape[0] * branches.shape[1],), self.coefficient, device=logits.device)
        guided = apply_guidance(branches.flatten(0, 1), guidance, torch.ones_like(guidance))
        of_codes: Tensor = guided.unflatten(0, branches.shape[:2]).transpose(1, 2)
        return of_codes


def divergence(prediction: Prediction, target: Float[Tensor, "B K T V"]) -> Float[Tensor, " K"]:
    """Return the Kullback-Leibler divergence, nats, of a prediction from the distribution of other logits: of each
    codebook the mean over the codes that are predicted. Its gradient is that of the cross-entropy with those
    probabilities, and it is 0 where the two agree."""
    expected = F.log_softmax(target.float(), dim=-1)
    given = F.log_softmax(prediction.logits.float(), dim=-1)
    each = F.kl_div(given, expected, reduction="none", log_target=True).sum(-1)
    return (each * prediction.mask).sum((0, 2)) / prediction.mask.sum((0, 2))


class LossModule(nn.Module):
    """A model and its loss in one module, as `DistributedDataParallel` wants it.

    Args:
        teacher: a model of the same conditions and codes to learn from, in place of the codes.
    """

    def __init__(self, model: MusicModel, precision: TrainingPrecision, teacher: GuidedTeacher | None = None) -> None:
        super().__init__()
        self.model, self.precision, self.teacher = model, precision, teacher

    def forward(self, batch: Batch) -> Float[Tensor, " K"]:
        """Return each codebook's cross-entropy with the codes, or divergence from the teacher, nats."""
        with in_precision(self.model.device, self.precision):
            if self.teacher is None:
                return self.model.loss(batch.codes, batch.attributes, batch.lengths).codebooks
            target = self.teacher.logits(batch)
            prediction = self.model(batch.codes, batch.attributes, batch.lengths)
        return divergence(prediction, target)


def accumulate_gradients(
    loss_module: LossModule | DistributedDataParallel, micro_batches: Sequence[MicroBatch]
) -> Float[Tensor, " K"]:
    """Add the gradient of a step's loss to the parameters', one micro-batch after another.

    The gradient is that of the whole step in one piece, but for rounding; with several processes, each of which has
    some of the micro-batches, all of them have it. Returns what these micro-batches add to each codebook's
    loss, nats, on the model's device: reading it is what waits for the device, and nothing here does.
    """
    is_shared = isinstance(loss_module, DistributedDataParallel) or isinstance(loss_module.model, FSDPModule)
    processes = dist.get_world_size() if is_shared else 1
    sums = []
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(micro_batch.seed)
        # Gradients are added up in this process first: they meet those of the others with the last micro-batch. Of a
        # sharded model no process has room for all, so they meet with each.
        apart = number < len(micro_batches)
        with loss_module.no_sync() if apart and isinstance(loss_module, DistributedDataParallel) else nullcontext():
            losses = loss_module(micro_batch.batch)
            weighted = losses * micro_batch.loss_weights.to(losses.device, non_blocking=True)
            # Both ways of sharing a training average over the processes, where a sum is wanted.
            (weighted.mean() * processes).backward()
        sums.append(weighted.detach())
    return torch.stack(sums).sum(0)


@torch.no_grad()
def held_out_cross_entropy(
    model: MusicModel, batches: Iterable[Batch], precision: TrainingPrecision
) -> Float[Tensor, " K"]:
    """Return each codebook's cross-entropy over all batches together, nats, without dropout; NaN for no batches."""
    training = model.training
    model.eval()
    books = model.config.language_model.codebooks
    sums, counts = torch.zeros(books, dtype=torch.float64), torch.zeros(books, dtype=torch.float64)
    try:
        for batch in batches:
            held = predicted(model.language_model, batch.codes.shape[-1], batch.lengths).sum((0, 2))
            with in_precision(model.device, precision):
                loss = model.loss(batch.codes, batch.attributes, batch.lengths)
            sums += loss.codebooks.cpu().double() * held
            counts += held
    finally:
        model.train(training)
    return sums / counts


def unigram_cross_entropy(
    model: LanguageModel, frequencies: Int[Tensor, "K V"], batches: Iterable[Batch]
) -> Float[Tensor, " K"]:
    """Return each codebook's cross-entropy, nats, under a model that knows only how often a code occurs, over the very
    codes that the language model is evaluated by.

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
