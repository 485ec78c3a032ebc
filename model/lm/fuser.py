"""How conditions join the decoder (MusicGen, arXiv:2306.05284, 2.3 and 2.4; AudioCraft's `ConditionFuser`).

A condition joins in one of four ways: as keys of cross-attention, as a prefix, added to the steps, or stretched over
the steps and added. Conditions are taken in the order of the mapping that holds them, not in that of the configuration.
Each prefix is put in front of the prefixes before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.patterns import Mode, Pattern
from model.lm.positions import position_table

CROSS_POSITION_PERIOD = 10_000.0
"""Longest period of the positions in cross-attention, independent of the decoder's `position_period` (AudioCraft)."""


@dataclass(frozen=True, eq=False)
class Condition:
    """An embedded condition: vectors [B, L, D], and a mask of those that are not padding (padding is zeros)."""

    embedding: Float[Tensor, "B L D"]
    mask: Bool[Tensor, "B L"]


@dataclass(frozen=True, eq=False)
class FusedConditions:
    """Conditions in the form that the decoder reads; None for a way in which no condition joins."""

    prefix: Float[Tensor, "B P D"] | None
    """Vectors put before the steps."""
    added: Float[Tensor, "B S D"] | None
    """Vectors added to the steps."""
    cross: Float[Tensor, "B L D"] | None
    """Vectors that cross-attention reads."""
    cross_mask: Bool[Tensor, "B L"] | None
    """Which vectors of `cross` are keys; None where `cross` is None."""


def fuse(
    config: LanguageModelConfig, conditions: Mapping[str, Condition], pattern: Pattern, mode: Mode = "full"
) -> FusedConditions:
    """Bring conditions into the form that the decoder reads for the sequence of a pattern.

    What is added in `valid` mode is the beginning of what is added in `full` mode. A summed condition of one vector
    is added to every step. A longer one is frame-wise: each step gets the vector of the frame that is predicted next;
    it may have more frames than the pattern, for a clip shorter than its melody. A stretched condition ends with the
    valid steps; later steps get its last vector.

    Raises:
        ValueError: a condition is missing or unknown, has the wrong width or length, or has not as many rows as the
            first.
    """
    _check_conditions(config, conditions)
    steps = pattern.steps(mode)
    prefixes: list[Tensor] = []
    cross_parts: list[Tensor] = []
    masks: list[Tensor] = []
    added: list[Tensor] = []
    for name, condition in conditions.items():
        embedding = condition.embedding
        if name in config.prepend:
            prefixes.insert(0, embedding)
        if name in config.cross:
            cross_parts.append(embedding)
            masks.append(_keys(condition.mask, config))
        if name in config.sum:
            added.append(_along_frames(name, embedding, pattern, steps))
        if name in config.interpolate:
            frames = torch.arange(steps, device=embedding.device) * embedding.shape[1]
            frames = frames // (config.interpolate_steps or pattern.steps("valid"))
            added.append(embedding[:, frames.clamp(max=embedding.shape[1] - 1)])
    cross = torch.cat(cross_parts, dim=1) if cross_parts else None
    keys = torch.cat(masks, dim=1) if masks else None
    if cross is not None and keys is not None and config.cross_positions:
        table = position_table(cross.shape[1], config.width, CROSS_POSITION_PERIOD, cross.device)
        # Padding that is not read is not counted in the positions either.
        positions = (keys.cumsum(1) - 1).clamp(min=0)
        cross = cross + (config.cross_position_scale * table).to(cross.dtype)[positions]
    return FusedConditions(
        torch.cat(prefixes, dim=1) if prefixes else None,
        torch.stack(added).sum(0) if added else None,
        cross,
        keys,
    )


def _check_conditions(config: LanguageModelConfig, conditions: Mapping[str, Condition]) -> None:
    if frozenset(conditions) != config.conditions:
        raise ValueError(f"expected conditions {sorted(config.conditions)}, got {sorted(conditions)}")
    rows = next((len(condition.embedding) for condition in conditions.values()), 0)
    for name, condition in conditions.items():
        shape = list(condition.embedding.shape)
        if len(shape) != 3 or shape[0] != rows or not shape[1] or shape[2] != config.width:
            raise ValueError(f"expected {name} of [{rows}, 1 or more, {config.width}], got {shape}")
        if list(condition.mask.shape) != shape[:2]:
            raise ValueError(f"expected a mask of {name} of {shape[:2]}, got {list(condition.mask.shape)}")


def _keys(mask: Bool[Tensor, "B L"], config: LanguageModelConfig) -> Bool[Tensor, "B L"]:
    """Return which vectors of a condition cross-attention reads.

    A null condition, whose mask is all false, has one key: its first vector, which is zeros.
    """
    if config.padding == "attended":
        return torch.ones_like(mask)
    null = ~mask.any(dim=1, keepdim=True)
    return mask | (null & (torch.arange(mask.shape[1], device=mask.device) == 0))


def _along_frames(name: str, embedding: Float[Tensor, "B L D"], pattern: Pattern, steps: int) -> Float[Tensor, "B S D"]:
    """Return the vectors of a summed condition, one for each step."""
    length = embedding.shape[1]
    if length == 1:
        return embedding.expand(-1, steps, -1)
    if length < pattern.frames:
        raise ValueError(
            f"expected {name} of length 1 or at least {pattern.frames} (one vector a frame) to be summed, got {length}"
        )
    return embedding[:, pattern.upcoming_frames[:steps].to(embedding.device)]
