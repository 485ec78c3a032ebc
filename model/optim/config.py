"""The knobs of learning: how weights are updated, and low-rank updates.

They are in a file without torch, so that a plan, which needs every knob, need not load torch.
"""

from typing import Literal

from pydantic import Field

from schemas import Config

TrainingPrecision = Literal["float32", "bfloat16"]
"""Precision of matrix products and convolutions in training; weights and their updates are float32."""


class OptimizationConfig(Config):
    """How the weights are updated. The defaults are MusicGen's for its medium model."""

    steps: int = Field(default=1_000_000, ge=1)
    """Total number of updates (arXiv:2306.05284, 3.1)."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak of the learning rate, reached at the end of the warm-up (AudioCraft's grid for the medium and large
    models)."""
    warmup_steps: int = Field(default=4000, ge=0)
    """Steps of linear warm-up (arXiv:2306.05284, 3.1)."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The learning rate at the last step as a share of the peak (AudioCraft's `lr_min_ratio`)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's two moments a step (arXiv:2306.05284, 3.1)."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to AdamW's denominator (AudioCraft's `optim.adam.eps`)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay, of every parameter (arXiv:2306.05284, 3.1)."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer of the matrices of the language model's hidden layers: AdamW (arXiv:2306.05284, 3.1), or Muon
    (K. Jordan et al., 2024); all other parameters use AdamW. On the miniature preset, with 460 steps and three seeds,
    held-out cross-entropy is 3.77, 3.76 and 3.76 with Muon, and 4.43, 4.32 and 4.31 with AdamW. With 620 steps, which
    take AdamW a sixth longer than 460 take Muon, AdamW reaches 4.19, where Muon has 3.75."""
    matrix_learning_rate: float = Field(default=0.02, gt=0)
    """Muon's learning rate at the peak; its schedule is that of `learning_rate` (K. Jordan et al., 2024)."""
    gradient_norm: float | None = Field(default=1.0, gt=0)
    """Maximum 2-norm of the gradients over all parameters; larger gradients are scaled down to it (arXiv:2306.05284,
    3.1). None does not scale them."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the averaged weights, which are the ones that a checkpoint holds (arXiv:2306.05284, 3.1). The initial
    weights have no share in the average (AudioCraft's `optim/ema.py`)."""
    ema_interval: int = Field(default=10, ge=1)
    """Steps between two updates of the averaged weights (AudioCraft's `optim.ema.updates`). A training with fewer steps
    keeps its last weights, without an average."""
    precision: TrainingPrecision = "bfloat16"
    """Precision of the matrix products; weights and their updates are float32. MusicGen trained its two smaller models
    in float16, whose narrow range needs loss scaling; bfloat16 does not. A CPU without instructions that multiply
    bfloat16 uses float32 instead."""
    max_skipped_steps: int = Field(default=10, ge=1)
    """Updates that may be skipped in a row, because the loss or a gradient was not finite, before training stops."""


class LoraConfig(Config):
    """Fine-tuning through low-rank updates of frozen weights: W + alpha / rank · B A (LoRA, arXiv:2106.09685, 4.1).
    Checkpoints hold the sums, so that they are like those of any other training."""

    rank: int = Field(default=8, ge=1)
    """Rows of A and columns of B (arXiv:2106.09685, 7.2: 4 to 8 are enough for most tasks)."""
    alpha: int = Field(default=16, ge=1)
    """Updates are multiplied by alpha / rank, so that another rank needs no other learning rate (arXiv:2106.09685,
    4.1)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropped share of the inputs of the updates."""
    targets: tuple[Literal["attention", "cross_attention", "feedforward"], ...] = Field(
        default=("attention", "cross_attention"), min_length=1
    )
    """The kinds of decoder layers that get updates; kinds that the decoder does not have are ignored
    (arXiv:2106.09685, 4.2: attention alone)."""
    conditioners: bool = True
    """Whether all weights of the conditioners learn too, as a condition that the checkpoint did not have requires. A
    text encoder learns only if `model.description.finetune` is set as well."""
