"""Tiny stages for tests of the runner and of planning: a source of names, a mapping, a training."""

from types import ModuleType

from schemas import Config, Settings
from schemas.tables import CHROMA, CLAP, TRACKS
from stages.pipeline.contract import ReduceResult, Reject, Shard, ShardUpdate, SourcePlan
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage

SHARD_SIZE = 3


class Knobs(Config):
    level: float = 1.0


class Training(Config):
    NOT_IDENTITY = ("refresh",)

    refresh: str = "missing"


def make_source(names: list[str]) -> ModuleType:
    """A stage that ingests `names`; names that start with `bad` are refused."""
    module = ModuleType("source")
    module.READS, module.WRITES, module.VERSION = (), TRACKS, 1

    def plan_source(config, context, known, refused):
        there = set(known.column("track_id").to_pylist()) | set(refused.column("key").to_pylist())
        return SourcePlan(len(set(names) - there), len(there & set(names)), len(there - set(names)))

    def read_source(config, context, known, refused):
        rows = {row["track_id"]: row for row in known.to_pylist()}
        rejects = [Reject(name, name, "bad", "a bad name", "stamp") for name in names if name.startswith("bad")]
        shards = {row["shard"] for row in rows.values()}
        last = max(shards, default=0)
        for name in [name for name in names if name not in rows and not name.startswith("bad")]:
            last += sum(row["shard"] == last for row in rows.values()) >= SHARD_SIZE
            rows[name] = {"track_id": name, "shard": last}
            shards.add(last)
        for shard in sorted(shards):
            content = [row for row in rows.values() if row["shard"] == shard and row["track_id"] in names]
            yield ShardUpdate(shard, content, made=len(content), rejects=rejects)

    module.plan_source, module.read_source = plan_source, read_source
    return module


def make_mapping(calls: list[str], refuse: tuple[str, ...] = (), fail: tuple[str, ...] = ()) -> ModuleType:
    """A stage that maps tracks to CHROMA and appends each computed track to `calls`."""
    module = ModuleType("mapping")
    module.READS, module.WRITES, module.VERSION = (TRACKS,), CHROMA, 1

    def shard(config, context, tracks):
        for name in tracks.column("track_id").to_pylist():
            context.check_stopped()
            calls.append(name)
            if name in fail:
                raise RuntimeError(f"cannot do {name}")
            if name in refuse:
                yield Shard([], [Reject(name, name, "refused", "as asked")])
            else:
                yield Shard([{"track_id": name, "frame_rate": config.level, "chroma": [[float(len(name))] * 12]}])

    module.shard = shard
    return module


def make_pipeline(tmp_path, names, mapping=None, level=1.0, **settings) -> Pipeline:
    stages = [ConfiguredStage("source", make_source(names), Knobs())]
    if mapping is not None:
        stages.append(ConfiguredStage("mapping", mapping, Knobs(level=level)))
    return Pipeline(stages, Settings(store=str(tmp_path), **settings))


def run(pipeline: Pipeline, run_id: str = "r1"):
    return [run_stage(stage, pipeline.context(stage.name, run_id)).counts for stage in pipeline.stages.values()]


def contents(pipeline: Pipeline) -> list:
    found = []
    for stage in pipeline.stages.values():
        table, version = stage.module.WRITES, pipeline.fingerprint(stage.name)
        for shard in pipeline.store.shards(table, version):
            found.append((table.name, shard, pipeline.store.read(table, version, [shard]).to_pylist()))
    return found


def make_training(calls: list[str]) -> ModuleType:
    module = ModuleType("training")
    module.READS, module.CONSULTS, module.WRITES, module.VERSION = (CHROMA,), (), CLAP, 1

    def reduce(config, context, chroma):
        calls.append(context.identity)
        return ReduceResult([{"track_id": context.identity, "starts": [float(chroma.num_rows)]}])

    module.reduce = reduce
    return module
