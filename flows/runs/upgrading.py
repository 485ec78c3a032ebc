"""What a run does where a release changed a stage: it says what would be made again and how long that takes, and waits
for a word, unless `settings.on_upgrade` has given it.

With nobody to ask, waiting for a word is ending before any work, with the words to give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flows.runs.estimates import estimate
from flows.runs.running import RunPlan
from stages.pipeline.durations import duration
from stages.pipeline.plans import Plan
from stages.pipeline.upgrades import Upgrade, find_upgrades

WAITS = 3
"""The exit code of a run that waits for a word."""

ASK_SECONDS = 60.0
"""What takes less is made again without asking: nobody is to be woken for a page that is drawn anew."""

ANSWERS = ("remake", "keep")

Ask = Callable[[Sequence[str]], str]
"""Shows a person lines, and returns `remake`, `keep`, or anything else for neither."""


class UpgradeWaits(ValueError):
    """A run would make again what a release changed, and nobody has said that it may."""


@dataclass(frozen=True)
class Settled:
    """A run's plan, once it is known what becomes of upgrades."""

    plan: RunPlan
    stage_plans: Sequence[Plan]
    lines: Sequence[str] = ()
    """What a person is to know of upgrades."""
    waits: bool = False
    """Nobody has said yet what is to become of them."""


def settle(plan: RunPlan) -> Settled:
    """Return the plan of a run with what `settings.on_upgrade` makes of its upgrades; nothing is computed.

    Raises:
        MissingWeights: published weights cannot be had.
        ValueError: a table that a stage reads is not there, and no stage of the run makes it.
    """
    policy = plan.settings.on_upgrade
    upgrades = find_upgrades(plan.stages, plan.settings, plan.names)
    if not upgrades:
        return Settled(plan, plan.stage_plans())
    kept = replace(plan, kept={each.stage: each.before for each in upgrades})
    if policy == "keep":
        lines = [f"{each.stage}: kept as it is, though a release changed it ({each.text})" for each in upgrades]
        return Settled(kept, kept.stage_plans(), lines)
    unmade = [each for each in upgrades if each.stage not in plan.names]
    if unmade:
        lines = [
            f"{each.stage}: {each.text}: what it made is read as it is with settings.on_upgrade=keep; "
            f"`segue run {each.stage}` makes it again"
            for each in unmade
        ]
        return Settled(kept, kept.stage_plans(), lines, waits=True)
    plans = plan.stage_plans()
    working = [each for each in upgrades if any(each.stage == planned.stage and planned.jobs for planned in plans)]
    texts = {each.stage: each.text for each in working}
    plans = [
        replace(planned, reason=texts[planned.stage]) if planned.stage in texts and not planned.reason else planned
        for planned in plans
    ]
    seconds = _seconds_more(plan, plans, kept)
    lines = [*_lines(working, plans), f"that takes {_told(seconds)} more than to keep what is there"]
    waits = bool(working) and policy == "ask" and (seconds is None or seconds > ASK_SECONDS)
    return Settled(plan, plans, lines if working else (), waits)


def settled_plan(plan: RunPlan, ask: Ask | None = None) -> Settled:
    """Return the plan of a run as `settle` does, once somebody has given the word that it may wait for.

    Args:
        ask: asks a person; None where there is nobody.

    Raises:
        UpgradeWaits: nobody gave it.
    """
    settled = settle(plan)
    if not settled.waits:
        return settled
    answer = ask(settled.lines) if ask else ""
    if answer in ANSWERS:
        return settle(replace(plan, settings=plan.settings.model_copy(update={"on_upgrade": answer})))
    raise UpgradeWaits(f"{waiting_line(settled)}; nothing was done")


def waiting_line(settled: Settled) -> str:
    """Say in one line what a run waits for, and how the word is given."""
    return (
        f"a release changed {'; '.join(settled.lines)}: say settings.on_upgrade=remake to make it again, or "
        "settings.on_upgrade=keep to go on with what is there"
    )


def _lines(upgrades: Sequence[Upgrade], plans: Sequence[Plan]) -> list[str]:
    makes = {plan.stage: plan.make for plan in plans}
    after = [plan.stage for plan in plans if plan.jobs and plan.follows]
    lines = [f"{each.stage}: {each.text}, {makes[each.stage]:,} rows again" for each in upgrades]
    return [*lines, f"after them {', '.join(after)}"] if after else lines


def _seconds_more(plan: RunPlan, plans: Sequence[Plan], kept: RunPlan) -> float | None:
    """Return how much longer a run takes that makes upgrades again than one that keeps what is there; None where no run
    of the store tells."""
    pipeline = plan.pipeline()
    again = [each.seconds for each in estimate(pipeline, plans)]
    if not any(again):
        return None
    less = [each.seconds for each in estimate(kept.pipeline(), kept.stage_plans())]
    return sum(seconds or 0 for seconds in again) - sum(seconds or 0 for seconds in less)


def _told(seconds: float | None) -> str:
    return "a time that no run of this store tells" if seconds is None else f"about {duration(max(seconds, 0))}"
