"""Plans: what each stage of a run has to do, as it is worked out before anything is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from schemas import Config
from schemas.storage.shards import Rows
from stages.pipeline.contract import CheckResult, Reject
from stages.pipeline.remarks import Remark

EVERYTHING = "all"
"""The name of the one job of a stage that is not made shard by shard."""

AFTER = "after "
"""How the reason of a plan begins that is of what another stage is still to do."""

Content = Mapping[str, Rows]
"""Rows of a table by shard, at least the columns that others make theirs of."""


@dataclass(frozen=True)
class ConfiguredStage:
    """A stage with its configuration, as part of a run."""

    name: str
    module: ModuleType
    config: Config
    after: str | None = None
    """The stage that makes the files that this one takes in, where one of the recipe does."""


@dataclass(frozen=True)
class Plan:
    """What a stage has to do."""

    stage: str
    jobs: tuple[str, ...] = ()
    """The shards to make, or `all`; none where nothing is to be done."""
    gone: tuple[str, ...] = ()
    """Shards whose input is no longer there."""
    make: int = 0
    reuse: int = 0
    drop: int = 0
    refused: int = 0
    """Rejects that stand from earlier runs."""
    reason: str = ""
    """Why the stage has work, or why the counts are estimates."""
    remarks: tuple[Remark, ...] = ()
    """What the stage notices at its source, where a plan can tell."""
    rejects: tuple[Reject, ...] = ()
    """What it would refuse of its source, where a plan can tell."""
    checks: tuple[CheckResult, ...] = ()
    """What must hold of its source, as it was found."""
    told: tuple[str, ...] = ()
    """What a person is to know before it is done."""
    content: Content | None = field(default=None, compare=False, repr=False)
    """What its table will hold; None where that is what it holds, or cannot be told."""
    missing: tuple[tuple[str, ...], ...] = field(default=(), compare=False, repr=False)
    """The keys of the rows that it makes, where it makes several of one of its inputs: which takes of a request."""
    exact: bool = False
    """Though it follows from what another stage is still to do, its counts are not estimates."""

    @property
    def follows(self) -> bool:
        """Whether it is of what another stage is still to do."""
        return self.reason.startswith(AFTER)

    @property
    def estimated(self) -> bool:
        return self.follows and not self.exact
