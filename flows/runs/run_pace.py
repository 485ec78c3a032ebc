"""What is left of a run: of the stage in work by its own pace, of those after it by what runs of the store took."""

import time
from collections.abc import Sequence

from flows.runs.estimates import Estimate
from stages.pipeline.durations import duration

LEAST_SHARE = 0.05
"""How much of a stage must be done before its own pace says more than earlier runs do: the first rows wait for what is
loaded."""


class RunPace:
    """How far a run is, as its stages begin.

    Args:
        estimates: of the stages that have work, in their order.
    """

    def __init__(self, estimates: Sequence[Estimate] = ()) -> None:
        self.stages = len(estimates)
        self._ahead = {each.stage: each.seconds for each in estimates}
        self._known = any(each.seconds is not None for each in estimates)
        self._expected: float | None = None
        self._since = time.monotonic()

    @property
    def done(self) -> int:
        """How many stages are done; the one in work is not."""
        return max(self.stages - len(self._ahead) - 1, 0)

    def begin(self, stage: str) -> None:
        """Begin a stage; those that were to come before it had nothing to do in the end."""
        names = list(self._ahead)
        passed = names[: names.index(stage) + 1] if stage in self._ahead else []
        self._expected, self._since = self._ahead.get(stage), time.monotonic()
        for name in passed:
            del self._ahead[name]

    def left(self, share: float, shards: int) -> str | None:
        """Say how long the run still takes; None where nothing can be said of it, or it has one stage.

        Args:
            share: of the stage in work that is done, 0 to 1.
            shards: of it that are whole.
        """
        current = self._left_of_stage(share, shards)
        if self.stages < 2 or not self._known or current is None:
            return None
        known = [seconds for seconds in self._ahead.values() if seconds is not None]
        unknown = len(self._ahead) - len(known)
        return f"{duration(current + sum(known))} left" + (f" + {unknown} unknown" if unknown else "")

    def _left_of_stage(self, share: float, shards: int) -> float | None:
        elapsed = time.monotonic() - self._since
        # Within a shard there may be works of several kinds, of which only the one at hand is seen.
        if self._expected is not None and elapsed < self._expected and not shards:
            return self._expected - elapsed
        return elapsed * (1 - share) / share if share >= LEAST_SHARE else None if self._expected is None else 0.0
