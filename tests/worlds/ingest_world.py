"""A source and a store, and runs of ingest over them by the real runner."""

import os
from pathlib import Path

from schemas import Settings, Store
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.tables import REJECTS, REMARKS, TRACKS
from schemas.weights import WeightsLibrary
from stages import ingest
from stages.ingest import Config
from stages.pipeline.contract import Context, Progress
from stages.pipeline.jobs import Counts, run_job
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.recordings import encoded, tones, write

RATE = 16_000

MEASURES = {
    **{"loudness": -20.0, "true_peak": -1.0, "silence": 0.0, "clipping": 0.0, "clipping_runs": 0.0, "peak": -1.0},
    **{"dc": 0.0, "zeros": 0.0, "bandwidth": 8000.0, "dual_mono": False, "phase": None},
}
"""What a probe measures for an ordinary recording."""


class Counter(Progress):
    """Counts the recordings that a run planned to read, and those it read."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, what, total, unit):
        self.total += total

    def advance(self, count=1, note=""):
        self.done += count


class World:
    """A source and a store, and runs of the stage by the real runner."""

    def __init__(self, folder: Path, **fields) -> None:
        self.music, self.store = folder / "music", Store(str(folder / "store"))
        self.config = Config(**fields)
        self.source = str(self.music)
        self.read = 0
        self.tell = lambda lines: None

    def context(self) -> Context:
        settings = Settings(store=self.store.url, source=self.source, workers=1)
        return Context(self.store, settings, "run", "ingest", "v", {}, WeightsLibrary(self.store), progress=Counter())

    def run(self) -> Counts:
        """Run the stage as the runner does if there is a job; `read` is the number of recordings that it opened."""
        stage, context = ConfiguredStage("ingest", ingest, self.config), self.context()
        context.progress.tell = self.tell
        plan = plan_stage(stage, context, True)
        counts = run_job(stage, context, "all") if plan.jobs else Counts(0, plan.reuse, plan.refused)
        Drafts(self.store, TRACKS, "v").publish()
        self.read = context.progress.done
        assert plan.jobs or not (plan.make or plan.drop)
        again = plan_stage(stage, self.context(), True)
        assert again.jobs == (), again
        return counts

    def rows(self) -> dict[str, dict]:
        """The tracks by the names of their files."""
        rows = self.store.read(TRACKS, "v").to_pylist()
        return {os.path.relpath(row["uri"], self.music): row for row in rows}

    def rejects(self) -> dict[str, dict]:
        return {os.path.relpath(row["uri"], self.music): row for row in self.store.read(REJECTS, "v").to_pylist()}

    def answer(self, sql: str) -> list[dict]:
        """The answer to a query, as users ask it."""
        return query(self.store, sql).to_pylist()

    def remarks(self) -> list[tuple[str, str, int, list[str]]]:
        """Remarks of the last run: what, where, how often, and examples."""
        rows = self.store.read(REMARKS, "v").to_pylist()
        return [(row["what"], row["location"], row["count"], row["examples"]) for row in rows]

    def add(self, name: str, seed: int = 0, seconds: float = 0.6, form: str = "FLAC") -> Path:
        write(self.music / name, encoded(form, tones(seconds, seed, RATE), RATE))
        return self.music / name

    def tables(self) -> list:
        """Everything that the store holds of tracks, rejects and remarks, by shard."""
        return [
            (table.name, shard, self.store.read(table, "v", [shard]).drop_columns(drop).to_pylist())
            for table, drop in ((TRACKS, []), (REJECTS, ["run_id"]), (REMARKS, ["run_id"]))
            for shard in self.store.shards(table, "v")
        ]
