"""What a training reads of `tracks`: which columns, and which tracks it learns from and is evaluated on.

This module loads no torch, because a plan uses it too.
"""

from collections.abc import Sequence

from model.conditioning.captions import MERGED
from model.conditioning.config import FIELDS
from schemas.identity import hold_out
from stages.train.config import Config

METADATA = tuple(dict.fromkeys(("description", "paraphrases", *MERGED, *FIELDS)))
"""The columns of `tracks` that captions and conditions are made of."""

SPLITS = ("train", "valid", "test")


def split_positions(
    ids: Sequence[str], splits: Sequence[str], seconds: Sequence[float], config: Config
) -> dict[str, list[int]]:
    """Return the positions of the tracks of each split that are long enough. Where `valid` is empty, a share of `train`
    is held out in its place, always the same tracks while they exist.

    Args:
        ids, splits, seconds: the id, the split as `tracks` has it, and the length of each track.
    """
    long_enough = [track for track, length in enumerate(seconds) if length >= config.shortest_seconds]
    positions = {split: [track for track in long_enough if splits[track] == split] for split in SPLITS}
    if not positions["valid"]:
        held_out = hold_out([ids[track] for track in positions["train"]], config.held_out_share)
        positions["valid"] = [track for track in positions["train"] if ids[track] in held_out]
        positions["train"] = [track for track in positions["train"] if ids[track] not in held_out]
    return positions
