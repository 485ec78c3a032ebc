"""What a run does if a release changed a stage: it says what would be made again and how long that takes, and asks
whether to do it, unless `settings.on_upgrade` says.

If there is nobody to ask, the run ends before any work, and says which settings to give.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from flows.runs.estimates import estimate
from flows.runs.running import RunPlan
from schemas.storage.drafts import Drafts
from stages.pipeline.durations import duration
from stages.pipeline.plans import Plan
from stages.pipeline.upgrades import Upgrade, find_upgrades

WAITS = 3
"""The exit code of a run that ended because nobody decided about upgrades."""

ASK_SECONDS = 60.0
"""Seconds up to which stages are made again without asking: nobody is to be disturbed for a page that is drawn
again."""

ANSWERS = ("remake", "keep")

Ask = Callable[[Sequence[str]], str]
"""Shows lines to a person, and returns the answer: `remake`, `keep`, or anything else for neither."""


class UpgradeWaits(ValueError):
    """A run would make again what a release changed, and nobody has allowed it."""


@dataclass(frozen=True)
class Settled:
    """The plan of a run with decisions about upgrades."""

    plan: RunPlan
    stage_plans: Sequence[Plan]
    lines: Sequence[str] = ()
    """Lines about upgrades for a person."""
    waits: bool = False
    """Whether somebody still has to decide about them."""
    may_keep: bool = True
    """Whether the existing tables can be kept."""


def settle(plan: RunPlan) -> Settled:
    """Return the plan of a run after applying `settings.on_upgrade` to its upgrades; nothing is computed.

    Raises:
        MissingWeights: published weights cannot be found or fetched.
        UpgradeWaits: a table that the run reads, but does not make, can no longer be read.
        ValueError: a table that a stage reads is not there, and no stage of the run makes it.
    """
    policy = plan.settings.on_upgrade
    upgrades = find_upgrades(plan.stages, plan.settings, plan.names)
    if not upgrades:
        return Settled(plan, plan.stage_plans())
    unmade = [each for each in upgrades if each.stage not in plan.names]
    if lost := [_unmade_line(each) for each in unmade if each.outdated]:
        raise UpgradeWaits(f"a release changed {'; '.join(lost)}; nothing was done")
    kept = replace(plan, kept={each.stage: each.before for each in upgrades if not each.outdated})
    kept_plans = kept.stage_plans()
    if unmade and policy != "keep":
        return Settled(kept, kept_plans, [_unmade_line(each) for each in unmade], waits=True)
    chosen, plans = (kept, kept_plans) if policy == "keep" else (plan, plan.stage_plans())
    again = {
        each.stage: _rows_again(each, plan, plans, kept_plans) for each in upgrades if each.stage not in chosen.kept
    }
    working = [each for each in upgrades if again.get(each.stage)]
    lines = [
        f"{each.stage}: kept as it is, though a release changed it ({each.text})"
        for each in upgrades
        if each.stage in chosen.kept
    ]
    if not working:
        return Settled(chosen, plans, lines)
    texts = {each.stage: each.text for each in working}
    plans = [
        replace(planned, reason=texts[planned.stage]) if planned.stage in texts and not planned.reason else planned
        for planned in plans
    ]
    seconds = _seconds_more(plan, plans, kept, kept_plans) if policy != "keep" else None
    lines += _lines(working, again, plans)
    if _all_kept(working):
        lines.append(f"that takes {_duration_text(seconds)} more than keeping what is there")
    waits = policy == "keep" or (policy == "ask" and (seconds is None or seconds > ASK_SECONDS))
    return Settled(chosen, plans, lines, waits, may_keep=_all_kept(working))


def _all_kept(upgrades: Sequence[Upgrade]) -> bool:
    """Return whether a run could keep what all of these stages made."""
    return not any(each.outdated for each in upgrades)


def _unmade_line(upgrade: Upgrade) -> str:
    """Return a line about a table that a release changed, and that the run reads but does not make."""
    makes = f"`segue run {upgrade.stage}` makes it again"
    if upgrade.outdated:
        return f"{upgrade.stage}: {upgrade.text}: what it made can no longer be read ({upgrade.outdated}); {makes}"
    return f"{upgrade.stage}: {upgrade.text}: settings.on_upgrade=keep reads what it made as it is; {makes}"


def _rows_again(upgrade: Upgrade, plan: RunPlan, plans: Sequence[Plan], kept: Sequence[Plan]) -> int:
    """Return how many existing rows a run would make again. Rows for new items, such as new requests, do not count.

    Args:
        plans: the run's plans if all upgrades are made again.
        kept: the run's plans if everything that can be kept is kept.
    """
    make = {planned.stage: planned.make for planned in plans}[upgrade.stage]
    if not upgrade.outdated:
        return max(make - {planned.stage: planned.make for planned in kept}[upgrade.stage], 0)
    pipeline = plan.pipeline()
    table = pipeline.stages[upgrade.stage].module.WRITES
    there = Drafts(pipeline.store, table, upgrade.before).read(columns=list(table.key[:1])).column(0).to_pylist()
    # The keys of its rows have another meaning: rows are recognised by the items that they were made from.
    wanted = {key[0] for planned in plans if planned.stage == upgrade.stage for key in planned.missing}
    return min(make, sum(str(key) in wanted for key in there) if wanted else len(there))


def settled_plan(plan: RunPlan, ask: Ask | None = None) -> Settled:
    """Return the plan of a run as `settle` does, after asking if somebody has to decide.

    Args:
        ask: asks a person; None if there is nobody to ask.

    Raises:
        UpgradeWaits: nobody decided.
    """
    settled = settle(plan)
    if not settled.waits:
        return settled
    answer = ask(settled.lines) if ask else ""
    if answer in ANSWERS:
        settled = settle(replace(plan, settings=plan.settings.model_copy(update={"on_upgrade": answer})))
        if not settled.waits:
            return settled
    raise UpgradeWaits(f"{waiting_line(settled)}; nothing was done")


def waiting_line(settled: Settled) -> str:
    """Return one line that says what a run waits for and how to answer."""
    keep = ", or settings.on_upgrade=keep to continue with what is there"
    return (
        f"a release changed {'; '.join(settled.lines)}: give settings.on_upgrade=remake to make it again"
        f"{keep if settled.may_keep else '; it cannot be kept'}"
    )


def _lines(upgrades: Sequence[Upgrade], again: Mapping[str, int], plans: Sequence[Plan]) -> list[str]:
    after = [plan.stage for plan in plans if plan.jobs and plan.follows]
    lines = []
    for each in upgrades:
        why = f" ({each.outdated}, so it cannot be kept)" if each.outdated else ""
        lines.append(f"{each.stage}: {each.text}{why}, {again[each.stage]:,} rows again")
    return [*lines, f"then also {', '.join(after)}"] if after else lines


def _seconds_more(plan: RunPlan, plans: Sequence[Plan], kept: RunPlan, kept_plans: Sequence[Plan]) -> float | None:
    """Return how many seconds more a run takes that makes all upgrades again than one that keeps what can be kept; None
    if no run of the store shows it."""
    again = [each.seconds for each in estimate(plan.pipeline(), plans)]
    if not any(again):
        return None
    less = [] if kept.kept == {} else [each.seconds for each in estimate(kept.pipeline(), kept_plans)]
    return sum(seconds or 0 for seconds in again) - sum(seconds or 0 for seconds in less)


def _duration_text(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"about {duration(max(seconds, 0))}"
