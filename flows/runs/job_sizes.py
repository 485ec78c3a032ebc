"""Jobs by expected work: many short shards go into one job, and the longest jobs begin first.

A job then takes much longer than its bookkeeping, and no job is still running long after the others. A shard's time is
estimated as the seconds of its sound times what this store's runs took for a second of sound. A cluster's scheduler
takes 150 ms for a job, and Prefect's database 27 kB. So a job of decoding may be many shards, and a job of generating,
which takes a hundred times as long, is one.
"""

from collections.abc import Sequence

import pyarrow.compute as pc

from flows.runs.estimates import latest_runs, seconds_a_row
from schemas.tables import REQUESTS, TRACKS
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage

JOB_SECONDS = 60.0
"""Most seconds of expected work in a job of several shards."""

JOBS_EACH = 4
"""Fewest jobs for each place that runs them, if there are enough shards."""

Job = tuple[str, ...]
"""The names of the shards in a job."""


def sized_jobs(stage: ConfiguredStage, context: Context, shards: Sequence[str], places: int) -> list[Job]:
    """Return the jobs for some shards of a stage, in the order in which they begin. Each shard is a job of its own if
    there are few, or if no run of the store shows how long they take.

    Args:
        places: how many jobs run at the same time.
    """
    has_few_shards = len(shards) <= JOBS_EACH * places
    seconds = {} if has_few_shards else expected_seconds(stage, context, shards)
    if not seconds:
        return [(shard,) for shard in shards]
    limit = min(JOB_SECONDS, sum(seconds.values()) / (JOBS_EACH * places))
    jobs: list[Job] = []
    in_last = 0.0
    for shard in shards:
        if jobs and in_last + seconds[shard] <= limit:
            jobs[-1] = (*jobs[-1], shard)
        else:
            jobs.append((shard,))
            in_last = 0.0
        in_last += seconds[shard]
    return sorted(jobs, key=lambda job: -sum(seconds[shard] for shard in job))


def expected_seconds(stage: ConfiguredStage, context: Context, shards: Sequence[str]) -> dict[str, float]:
    """Return the seconds that making each shard as a whole would take; empty if that is not known."""
    module, store, versions = stage.module, context.store, context.versions
    runs = latest_runs(store).get(stage.name)
    if runs is None or not hasattr(module, "shard"):
        return {}
    table = REQUESTS if "request_id" in module.READS[0].key else TRACKS
    if table.name not in versions:
        return {}
    columns = ["seconds", "takes"] if table is REQUESTS else ["seconds"]
    sound, rows = {}, 0
    for shard in shards:
        read = store.read(table, versions[table.name], [shard], columns)
        seconds, takes = read.column("seconds"), read.column("takes") if table is REQUESTS else None
        sound[shard] = float(pc.sum(seconds if takes is None else pc.multiply(seconds, takes)).as_py() or 0.0)
        rows += read.num_rows if takes is None else int(pc.sum(takes).as_py() or 0)
    whole = sum(sound.values())
    rate = seconds_a_row(runs) * rows / whole if whole else 0.0
    return {shard: seconds * rate for shard, seconds in sound.items()}
