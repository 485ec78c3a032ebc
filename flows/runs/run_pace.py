"""How long a run still takes: the current stage by its own pace, later stages by what the store's earlier runs took."""

import time
from collections.abc import Sequence

from flows.runs.estimates import Estimate
from stages.pipeline.durations import duration

LEAST_SHARE = 0.05
"""Share of a stage that must be done before its own pace is a better measure than earlier runs: its first rows include
the time for loading models and data."""


class RunPace:
    """How far a run is, updated as its stages begin.

    Args:
        estimates: estimates of the stages that have work, in their order.
    """

    def __init__(self, estimates: Sequence[Estimate] = ()) -> None:
        self.stages = len(estimates)
        self._ahead = {each.stage: each.seconds for each in estimates}
        self._known = any(each.seconds is not None for each in estimates)
        self._expected: float | None = None
        self._since = time.monotonic()

    @property
    def done(self) -> int:
        """How many stages are done, without the current one."""
        return max(self.stages - len(self._ahead) - 1, 0)

    def begin(self, stage: str) -> None:
        """Begin a stage. Stages expected before it that did not begin had nothing to do."""
        names = list(self._ahead)
        passed = names[: names.index(stage) + 1] if stage in self._ahead else []
        self._expected, self._since = self._ahead.get(stage), time.monotonic()
        for name in passed:
            del self._ahead[name]

    def left(self, share: float, shards: int) -> str | None:
        """Return how long the run still takes, as text; None if that is not known or the run has only one stage.

        Args:
            share: how much of the current stage is done, 0 to 1.
            shards: how many shards of it are complete.
        """
        current = self._left_of_stage(share, shards)
        if self.stages < 2 or not self._known or current is None:
            return None
        known = [seconds for seconds in self._ahead.values() if seconds is not None]
        unknown = len(self._ahead) - len(known)
        return f"{duration(current + sum(known))} left" + (f" + {unknown} unknown" if unknown else "")

    def _left_of_stage(self, share: float, shards: int) -> float | None:
        elapsed = time.monotonic() - self._since
        # A shard may consist of several kinds of work, of which only the current one is seen.
        if self._expected is not None and elapsed < self._expected and not shards:
            return self._expected - elapsed
        return elapsed * (1 - share) / share if share >= LEAST_SHARE else None if self._expected is None else 0.0
