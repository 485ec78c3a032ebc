"""Plans: what each stage of a run has to do, worked out before anything is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from schemas import Config
from schemas.storage.shards import Rows
from stages.pipeline.contract import CheckResult, Reject
from stages.pipeline.remarks import Remark

EVERYTHING = "all"
"""The name of the only job of a stage that is not made shard by shard."""

AFTER = "after "
"""How the `reason` of a plan begins if the plan depends on work that another stage is still to do."""

Content = Mapping[str, Rows]
"""Rows of a table by shard, with at least the columns that other stages derive their keys from."""


@dataclass(frozen=True)
class ConfiguredStage:
    """A stage with its configuration, as part of a run."""

    name: str
    module: ModuleType
    config: Config
    after: str | None = None
    """The stage that makes the files that this stage reads, if a stage of the recipe makes them."""


@dataclass(frozen=True)
class Plan:
    """What a stage has to do."""

    stage: str
    jobs: tuple[str, ...] = ()
    """The shards to make, or `all`; empty if there is nothing to do."""
    gone: tuple[str, ...] = ()
    """Shards whose input no longer exists."""
    make: int = 0
    reuse: int = 0
    drop: int = 0
    refused: int = 0
    """How many rejects of earlier runs still stand."""
    reason: str = ""
    """Why the stage has work, or why the counts are estimates."""
    remarks: tuple[Remark, ...] = ()
    """What the stage notices about its source, if that is known when planning."""
    rejects: tuple[Reject, ...] = ()
    """What the stage would refuse of its source, if that is known when planning."""
    checks: tuple[CheckResult, ...] = ()
    """The checks of the stage's source, with what they found."""
    notices: tuple[str, ...] = ()
    """Sentences that a person should read before the work is done."""
    content: Content | None = field(default=None, compare=False, repr=False)
    """What the stage's table will hold; None if it stays as it is, or cannot be known yet."""
    missing: tuple[tuple[str, ...], ...] = field(default=(), compare=False, repr=False)
    """The keys of the rows to make, if the stage makes several from one input row: which takes of a request."""
    exact: bool = False
    """The counts are not estimates, although the plan depends on work that another stage is still to do."""

    @property
    def follows(self) -> bool:
        """Whether the plan depends on work that another stage is still to do."""
        return self.reason.startswith(AFTER)

    @property
    def estimated(self) -> bool:
        return self.follows and not self.exact
