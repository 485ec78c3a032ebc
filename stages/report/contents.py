"""What the store holds, as the page shows it: trained checkpoints with their metrics and curves, and tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas import Store
from schemas.tables import RUNS, TABLES, Row
from stages.report.charts import Chart, Series, line_chart
from stages.report.clips import relative_address


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint as the page shows it, with how it was trained."""

    checkpoint_id: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    made_clips: bool
    samples: tuple["SampleRow", ...] = ()
    """What the model made of fixed texts during training, one row for each text."""


@dataclass(frozen=True)
class SampleRow:
    """What a model made of one text during training."""

    description: str
    sounds: tuple[tuple[str, str], ...]
    """For each sound: the training step in words, and the address relative to the page."""


def checkpoint_views(
    checkpoints: Sequence[Row], training: Sequence[Row], used: Iterable[str], samples: Sequence[Row] = ()
) -> list[CheckpointView]:
    """Return views of the store's models: first those that made the clips, then the newest of every other kind.

    Args:
        checkpoints: rows of `checkpoints`.
        training: rows of `training`.
        used: ids of the checkpoints that made clips.
        samples: rows of `samples`.
    """
    used = set(used)
    newest: dict[str, Row] = {}
    for row in sorted(checkpoints, key=lambda row: (row["created_at"], row["checkpoint_id"])):
        newest[row["kind"]] = row
    shown = [row for row in checkpoints if row["checkpoint_id"] in used]
    shown += [row for _, row in sorted(newest.items()) if row["checkpoint_id"] not in used]
    steps: dict[str, list[Row]] = {}
    for row in training:
        steps.setdefault(row["checkpoint_id"], []).append(row)
    heard: dict[str, list[Row]] = {}
    for row in samples:
        heard.setdefault(row["checkpoint_id"], []).append(row)
    return [
        _checkpoint_view(row, steps.get(name, []), name in used, heard.get(name, []))
        for row in shown
        for name in [row["checkpoint_id"]]
    ]


def sample_rows(samples: Sequence[Row], kept_step: int | None) -> tuple[SampleRow, ...]:
    """Return the samples of one model, one row for each text, with the sounds in the order of the steps.

    Args:
        kept_step: how many training steps the saved weights have taken.
    """
    texts: dict[tuple[int, str], list[Row]] = {}
    for row in sorted(samples, key=lambda row: (row["number"], row["step"])):
        texts.setdefault((row["number"], row["description"]), []).append(row)

    def after(step: int) -> str:
        name = "before" if step == 0 else f"step {step:,}"
        return f"{name}, kept" if step and step == kept_step else name

    return tuple(
        SampleRow(text, tuple((after(row["step"]), relative_address(row["path"])) for row in rows))
        for (_, text), rows in texts.items()
    )


def _checkpoint_view(row: Row, training: Sequence[Row], made_clips: bool, samples: Sequence[Row]) -> CheckpointView:
    facts = (
        ("Parameters", _count(row["parameters"])),
        ("Steps", steps_text(row)),
        ("Tracks seen", _count(row["rows_seen"])),
        ("Made at", f"{row['created_at']:%Y-%m-%d %H:%M} UTC"),
        ("Data digest", row["data_digest"] or "–"),
        ("Recipe", row["recipe"] or "–"),
        ("Parents", ", ".join(row["parents"] or []) or "–"),
        ("Weights", f"SHA-256 {row['digest']}"),
        ("Folder", row["path"] or "–"),
    )
    metrics = tuple((name, f"{value:,.4g}") for name, value in sorted(known_metrics(row).items()))
    charts = tuple(training_charts(training))
    clip_rows = sample_rows(samples, row["steps"])
    return CheckpointView(row["checkpoint_id"], row["kind"], facts, metrics, charts, made_clips, clip_rows)


def steps_text(row: Row) -> str:
    """Return how many steps the weights have taken. If those of the best validation were saved, add how far the
    training went."""
    metrics, steps = known_metrics(row), _count(row["steps"])
    last, loss = metrics.get("last_step"), metrics.get("valid_cross_entropy")
    if last is None or last == row["steps"]:
        return steps
    of = "" if loss is None else f" ({loss:.4g} nats on held-out tracks)"
    return f"{steps}, the best of the validations{of}; the training went on to step {last:,.0f}"


def known_metrics(row: Row) -> dict[str, float]:
    """Return the metrics of a row of `checkpoints` or `training`, without those that have no value."""
    return {name: value for name, value in (row["metrics"] or []) if value is not None}


def training_charts(training: Sequence[Row]) -> list[Chart]:
    """Draw the loss of training and validation; each codebook's cross-entropy, on validation data if there is any; the
    learning rate and gradient norm; then every other metric that was logged at two or more steps."""
    splits: dict[str, list[Row]] = {}
    for row in sorted(training, key=lambda row: row["step"]):
        splits.setdefault(row["split"], []).append(row)
    drawn = [line_chart("Loss", "steps", [_series(split, rows, "loss") for split, rows in sorted(splits.items())])]
    by_codebook = {name: [row for row in rows if row["codebook_loss"]] for name, rows in splits.items()}
    split = next((name for name in ("valid", "train") if by_codebook.get(name)), None)
    if split:
        rows = by_codebook[split]
        books = [
            Series(f"codebook {k + 1}", [row["step"] for row in rows], [row["codebook_loss"][k] for row in rows])
            for k in range(min(len(row["codebook_loss"]) for row in rows))
        ]
        drawn.append(line_chart(f"Cross-entropy by codebook, {split}, nats", "steps", books))
    for column, title in (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm")):
        drawn.append(line_chart(title, "steps", [_series("train", splits.get("train", []), column)]))
    names = sorted({name for row in training for name, _ in row["metrics"] or []})
    for name in names:
        lines = []
        for split, rows in sorted(splits.items()):
            known = [(row["step"], known_metrics(row)) for row in rows]
            points = [(step, metrics[name]) for step, metrics in known if name in metrics]
            lines.append(Series(split, [step for step, _ in points], [value for _, value in points]))
        drawn.append(line_chart(name.replace("_", " "), "steps", lines))
    return [chart for chart in drawn if chart is not None]


def _series(name: str, rows: Sequence[Row], column: str) -> Series:
    known = [row for row in rows if row[column] is not None]
    return Series(name, [row["step"] for row in known], [row[column] for row in known])


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


@dataclass(frozen=True)
class TableSize:
    """A table of the store, with all of its versions counted together."""

    name: str
    about: str
    versions: int
    shards: int
    rows: int
    bytes: int


def table_sizes(store: Store) -> list[TableSize]:
    """Count the tables that have at least one shard, in the order of the flow of data. Only footers are read."""
    sizes = []
    for table in TABLES.values():
        versions = store.versions(table)
        shards = rows = size = 0
        for version in versions:
            listed = store.filesystem.ls(store.path(store.folder(table, version)), detail=True)
            bytes_of = {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in listed}
            names = store.shards(table, version)
            shards, size = shards + len(names), size + sum(bytes_of.get(f"shard={name}.parquet", 0) for name in names)
            # Each shard of `runs` is one row. A store has thousands of them, and each footer would be a request.
            footers = store.footers(table, version).values() if table != RUNS else ()
            rows += sum(footer.rows for footer in footers) if table != RUNS else len(names)
        if shards:
            sizes.append(TableSize(table.name, table.about, len(versions), shards, rows, size))
    return sizes
