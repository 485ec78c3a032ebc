"""What a plan says about an order: its clips, what making them takes by this store's earlier runs, and what stops
it."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flows.recipes.presets import NO_WATERMARK
from flows.runs.estimates import Estimate, amount, makes_clips, planned_requests, planned_takes
from schemas.tables import Row
from stages.checkpoints.generation_config import GenerationConfig
from stages.pipeline.contract import Reject
from stages.pipeline.durations import duration
from stages.pipeline.plans import Plan
from stages.requests import REFERENCES

if TYPE_CHECKING:
    from flows.recipes.recipe import Recipe
    from stages.pipeline.pipeline import Pipeline


def order_lines(pipeline: "Pipeline", plans: Sequence[Plan], estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield what the order of a plan contains and what making its clips takes; nothing if the plan reads no order."""
    rows = planned_requests(pipeline, plans)
    if rows is None:
        return
    clips = sum(row["takes"] for row in rows.values())
    seconds = sum(row["takes"] * row["seconds"] for row in rows.values())
    yield f"order: {_counted(len(rows), 'request')}, {_counted(clips, 'clip')}, {_minutes(seconds)} of sound"
    takes = planned_takes(pipeline, plans)
    if not takes:
        return
    sound = sum(row["seconds"] for row in takes)
    frames = _frames(pipeline, takes)
    to_make = [_counted(len(takes), "clip"), _counted(frames, "frame") if frames is not None else "frames unknown"]
    yield f"to make: {', '.join(to_make)}, {_minutes(sound)} of sound; {_cost(pipeline, estimates)}"


def notice_lines(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield what stages report before they work: what they refuse, each with its full reason, and what would be
    dropped."""
    for plan in plans:
        certain, waiting = _refused(plan)
        if certain:
            yield f"{plan.stage}: refused {_counted(len(certain), 'line')}:"
            yield from (f"  {reject.message} ({reject.kind})" for reject in certain)
        if waiting:
            lines = _counted(len(waiting), "line")
            yield f"{plan.stage}: {lines} with recordings that may exist {plan.reason}"
        yield from (f"{plan.stage}: {line}" for line in plan.notices)


def advice_lines(recipe: "Recipe") -> Iterator[str]:
    """Yield what a preset's overlay is meant for but the recipe lacks."""
    if "eu" in recipe.preset.split("+") and recipe.decode.watermark is None:
        yield NO_WATERMARK


def stopping_lines(plans: Sequence[Plan]) -> Iterator[str]:
    """Yield why a run would stop before it has done what is planned: checks of a source that fail."""
    for plan in plans:
        _, waiting = _refused(plan)
        for check in plan.checks:
            value = check.value - (len(waiting) if check.check == "refused" else 0)
            if value > check.threshold and check.severity == "error":
                yield f"{plan.stage}: {check.message}"


def _refused(plan: Plan) -> tuple[list[Reject], list[Reject]]:
    """Return what a stage refuses for certain, and what refers to recordings that are still to be ingested."""
    waiting = [reject for reject in plan.rejects if plan.estimated and reject.kind in REFERENCES]
    return [reject for reject in plan.rejects if reject not in waiting], waiting


def _frames(pipeline: "Pipeline", takes: Sequence[Row]) -> int | None:
    """Return how many frames of codes are generated for the takes; None if the frame rate is not known yet."""
    rate = _frame_rate(pipeline)
    if rate is None:
        return None
    frames = sum(math.ceil(float(row["seconds"]) * rate - 1e-6) for row in takes)
    return frames - sum(max(1, round(float(row["prompt_seconds"]) * rate)) for row in takes if row["prompt"])


def _frame_rate(pipeline: "Pipeline") -> float | None:
    """Return the frame rate, Hz, of the model that generates; None if it is still to be trained or does not say."""
    from schemas.weights import NotTrainedYet
    from stages.checkpoints.loading import read_frame_rate

    config = pipeline.stages["generate"].config
    assert isinstance(config, GenerationConfig)
    try:
        pipeline.fingerprint("generate")  # finds the model that this very recipe trains
        return read_frame_rate(pipeline.library.get(config.checkpoint).path)
    except NotTrainedYet:
        return None


def _cost(pipeline: "Pipeline", estimates: Sequence[Estimate]) -> str:
    """Return how long making the clips takes, stage by stage, and how large their rows and files are, as text."""
    of_clips = [each for each in estimates if makes_clips(pipeline.stages[each.stage].module)]
    times = {each.stage: each.seconds for each in of_clips if each.seconds is not None}
    if not times:
        return "time and bytes unknown: no run of this store has made clips yet"
    each_time = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in times.items())
    size = amount(sum(each.bytes or 0 for each in of_clips))
    return f"about {duration(sum(times.values()))} ({each_time}) and {size}, judging by earlier runs of this store"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.3g} seconds" if seconds < 60 else f"{seconds / 60:,.1f} minutes"
