"""What training a language model minimises and reports: cross-entropy over many batches, as if they were one.

A codebook's cross-entropy is the mean over all of its predicted codes, and the model's is the mean over its codebooks
(AudioCraft's `_compute_cross_entropy`). Micro-batches hold unequal numbers of codes, because of padding, so the mean of
their means would be a different number. Here each micro-batch is weighted by its number of codes.

A model can also learn the guided predictions of a teacher model instead of the codes themselves; it then needs no
guidance. This is the first stage of "On distillation of guided diffusion models" (C. Meng et al., arXiv:2210.03142),
applied to a language model. G. Cideron et al. (arXiv:2410.06084) do this for music on sequences that the student
generates. Here the student sees the data, as in Meng et al.
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
    """Examples of one length; shorter examples are padded at the end."""

    codes: Int[Tensor, "B K T"]
    lengths: Int[Tensor, " B"]
    """Frames of each example that hold codes of its track; the frames after them are padding."""
    attributes: Sequence[Attributes] | Prepared
    branches: Prepared | None = None
    """What a guided teacher reads: the conditions of all items, then as many null conditions; None without teacher."""

    def prepared(self, model: MusicModel, with_branches: bool = False) -> "Batch":
        """Return the batch with its conditions prepared for the model's device, in pinned memory if that is a GPU.

        A reader thread can do this while the device computes.

        Args:
            with_branches: whether to make `branches` too, for a guided teacher.
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
    """Examples of one optimiser step that are computed at once."""

    batch: Batch
    loss_weights: Float[Tensor, " K"]
    """The micro-batch's share of each codebook's predicted codes in the whole step; on the host."""
    seed: int
    """Seed of dropout. Each micro-batch has its own, so that dropout is the same whichever process computes it."""


def predicted(model: LanguageModel, frames: int, lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B K T"]:
    """Mark the codes that are predicted: those inside the recording, without the tail that the pattern cuts off."""
    pattern = model.pattern(frames)
    reached = pattern.frame_placement(pattern.steps("valid"), outputs=True, mode="valid").mask
    inside = torch.arange(frames) < lengths.cpu()[:, None]
    return reached & inside[:, None]


def loss_weights(
    model: LanguageModel, frames: int, lengths: Int[Tensor, " B"], items: Sequence[range]
) -> list[Float[Tensor, " K"]]:
    """Return each micro-batch's share of the step's predicted codes, one share a codebook; the shares add up to 1.

    Args:
        lengths: frames that hold codes, for all examples of the step.
        items: for each micro-batch, the indexes of its examples.
    """
    counts = predicted(model, frames, lengths).sum(2)
    return [counts[list(numbers)].sum(0) / counts.sum(0) for numbers in items]


@dataclass(frozen=True, eq=False)
class GuidedTeacher:
    """A model in evaluation mode whose guided predictions a student model learns.

    It is not a submodule of the student: it has no gradient and is not part of the student's state.
    """

    model: MusicModel
    coefficient: float
    """Coefficient of classifier-free guidance (`model.guidance`); both branches share a pass."""

    @torch.no_grad()
    def logits(self, batch: Batch) -> Float[Tensor, "B K T V"]:
        """Return the guided logits of every code.

        Args:
            batch: a batch with `branches`; its codes may be on the host.
        """
        assert batch.branches is not None
        codes, lengths = batch.codes.repeat(2, 1, 1), batch.lengths.repeat(2)
        logits = self.model(codes, batch.branches, lengths).logits.float()
        branches = logits.unflatten(0, (2, -1)).permute(1, 3, 0, 2, 4)  # B T W K V
        guidance = torch.full((branches.shape[0] * branches.shape[1],), self.coefficient, device=logits.device)
        guided = apply_guidance(branches.flatten(0, 1), guidance, torch.ones_like(guidance))
        guided_logits: Tensor = guided.unflatten(0, branches.shape[:2]).transpose(1, 2)
        return guided_logits


def divergence(prediction: Prediction, target: Float[Tensor, "B K T V"]) -> Float[Tensor, " K"]:
    """Return the Kullback-Leibler divergence of a prediction from the distribution of the target logits, nats.

    For each codebook it is the mean over the predicted codes. It has the same gradient as the cross-entropy with the
    target's probabilities, but is 0 where the two distributions agree.
    """
    target_log_probabilities = F.log_softmax(target.float(), dim=-1)
    log_probabilities = F.log_softmax(prediction.logits.float(), dim=-1)
    divergences = F.kl_div(log_probabilities, target_log_probabilities, reduction="none", log_target=True).sum(-1)
    return (divergences * prediction.mask).sum((0, 2)) / prediction.mask.sum((0, 2))


class LossModule(nn.Module):
    """A model and its loss in one module, as `DistributedDataParallel` requires.

    Args:
        teacher: a model with the same conditions and codebooks whose predictions are learned instead of the codes.
    """

    def __init__(self, model: MusicModel, precision: TrainingPrecision, teacher: GuidedTeacher | None = None) -> None:
        super().__init__()
        self.model, self.precision, self.teacher = model, precision, teacher

    def forward(self, batch: Batch) -> Float[Tensor, " K"]:
        """Return each codebook's cross-entropy with the codes or, with a teacher, divergence from it; nats."""
        with in_precision(self.model.device, self.precision):
            if self.teacher is None:
                return self.model.loss(batch.codes, batch.attributes, batch.lengths).codebooks
            target = self.teacher.logits(batch)
            prediction = self.model(batch.codes, batch.attributes, batch.lengths)
        return divergence(prediction, target)


def accumulate_gradients(
    loss_module: LossModule | DistributedDataParallel, micro_batches: Sequence[MicroBatch]
) -> Float[Tensor, " K"]:
    """Add the gradient of a step's loss to the parameters' gradients, one micro-batch after another.

    The result equals the gradient of the whole step computed at once, up to rounding. With several processes, each
    computes some of the micro-batches, and all end with the whole gradient.

    Returns what these micro-batches add to each codebook's loss, nats, on the model's device. Nothing here waits for
    the device; reading the result does.
    """
    is_shared = isinstance(loss_module, DistributedDataParallel) or isinstance(loss_module.model, FSDPModule)
    processes = dist.get_world_size() if is_shared else 1
    sums = []
    for number, micro_batch in enumerate(micro_batches, start=1):
        torch.manual_seed(micro_batch.seed)
        # Gradients are summed within this process first and reduced across processes with the last micro-batch. For a
        # sharded model (FSDP) no process has room for all gradients, so they are reduced after every micro-batch.
        more_follow = number < len(micro_batches)
        with (
            loss_module.no_sync() if more_follow and isinstance(loss_module, DistributedDataParallel) else nullcontext()
        ):
            losses = loss_module(micro_batch.batch)
            weighted = losses * micro_batch.loss_weights.to(losses.device, non_blocking=True)
            # DDP and FSDP average over the processes, but a sum is needed.
            (weighted.mean() * processes).backward()
        sums.append(weighted.detach())
    return torch.stack(sums).sum(0)


@torch.no_grad()
def held_out_cross_entropy(
    model: MusicModel, batches: Iterable[Batch], precision: TrainingPrecision
) -> Float[Tensor, " K"]:
    """Return each codebook's cross-entropy over all batches together, in nats, without dropout; NaN if there are no
    batches."""
    training = model.training
    model.eval()
    books = model.config.language_model.codebooks
    sums, counts = torch.zeros(books, dtype=torch.float64), torch.zeros(books, dtype=torch.float64)
    try:
        for batch in batches:
            counted_codes = predicted(model.language_model, batch.codes.shape[-1], batch.lengths).sum((0, 2))
            with in_precision(model.device, precision):
                loss = model.loss(batch.codes, batch.attributes, batch.lengths)
            sums += loss.codebooks.cpu().double() * counted_codes
            counts += counted_codes
    finally:
        model.train(training)
    return sums / counts


def unigram_cross_entropy(
    model: LanguageModel, frequencies: Int[Tensor, "K V"], batches: Iterable[Batch]
) -> Float[Tensor, " K"]:
    """Return each codebook's cross-entropy, in nats, under a model that knows only how often each code occurs.

    It is computed over the same codes that the language model is evaluated on.

    Args:
        frequencies: how often each code occurs in the training tracks. One is added to each (Laplace smoothing), so
            that a code that does not occur there is not impossible.
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
