"""The parts that a mapping stage yields, combined."""

from collections.abc import Iterable

from stages.pipeline.contract import Shard


def put_together(parts: Iterable[Shard]) -> Shard:
    """All rows and rejects of the parts of a shard, in their order."""
    parts = list(parts)
    return Shard([row for part in parts for row in part.rows], [reject for part in parts for reject in part.rejects])
