"""A stage that reads text files, two a shard: a track for each file, by name."""

from pathlib import Path

from schemas import Config as BaseConfig
from schemas.tables import TRACKS
from stages.pipeline.contract import ShardUpdate, SourcePlan

READS, WRITES, VERSION = (), TRACKS, 1
SHARD_SIZE = 2


class Config(BaseConfig):
    pass


def plan_source(config, context, known, refused):
    there, wanted = set(known.column("track_id").to_pylist()), set(_names(context))
    return SourcePlan(len(wanted - there), len(wanted & there), len(there - wanted))


def read_source(config, context, known, refused):
    names = _names(context)
    there = set(known.column("track_id").to_pylist())
    for start in range(0, len(names), SHARD_SIZE):
        some = names[start : start + SHARD_SIZE]
        uris = [str(Path(context.settings.source) / name) for name in some]
        rows = [{"track_id": name, "uri": uri, "shard": start} for name, uri in zip(some, uris, strict=True)]
        yield ShardUpdate(start // SHARD_SIZE, rows, made=len(set(some) - there))


def _names(context):
    return sorted(path.name for path in Path(context.settings.source).glob("*.txt"))
