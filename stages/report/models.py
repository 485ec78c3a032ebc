"""Checkpoints as the page shows them: what each is, where it comes from, its metrics and its training curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stages.report.charts import Chart, Series, line_chart

Row = dict
"""A row of a table, by column."""


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint and how it was trained."""

    checkpoint_id: str
    kind: str
    created: str
    facts: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    made_clips: bool


def checkpoint_views(checkpoints: Sequence[Row], training: Sequence[Row], used: Iterable[str]) -> list[CheckpointView]:
    """The models of the store: those that made the clips first, then of every kind the newest.

    Args:
        checkpoints: rows of `checkpoints`.
        training: rows of `training`.
        used: ids of the checkpoints that made clips.
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
    return [_view(row, steps.get(row["checkpoint_id"], []), row["checkpoint_id"] in used) for row in shown]


def _view(row: Row, training: Sequence[Row], made_clips: bool) -> CheckpointView:
    facts = (
        ("Parameters", _count(row["parameters"])),
        ("Steps", _count(row["steps"])),
        ("Tracks seen", _count(row["rows_seen"])),
        ("Made at", f"{row['created_at']:%Y-%m-%d %H:%M} UTC"),
        ("Data digest", row["data_digest"] or "–"),
        ("Recipe", row["recipe"] or "–"),
        ("Parents", ", ".join(row["parents"] or []) or "–"),
        ("Weights", f"SHA-256 {row['digest']}"),
        ("Folder", row["path"] or "–"),
    )
    metrics = tuple((name, f"{value:,.4g}") for name, value in sorted(metrics_of(row).items()))
    charts = tuple(_charts(training))
    created = f"{row['created_at']:%Y-%m-%d}"
    return CheckpointView(row["checkpoint_id"], row["kind"], created, facts, metrics, charts, made_clips)


def metrics_of(row: Row) -> dict[str, float]:
    """The metrics of a row of `checkpoints` or `training`, without those that have no value."""
    return {name: value for name, value in (row["metrics"] or []) if value is not None}


def _charts(training: Sequence[Row]) -> list[Chart]:
    """Loss of training and validation; each codebook's cross-entropy, on validation data where there is any; then every
    other metric that was logged at two steps or more."""
    splits: dict[str, list[Row]] = {}
    for row in sorted(training, key=lambda row: row["step"]):
        splits.setdefault(row["split"], []).append(row)
    drawn = [line_chart("Loss", "steps", [_series(split, rows, "loss") for split, rows in sorted(splits.items())])]
    judged = next(
        (name for name in ("valid", "train") if any(row["codebook_loss"] for row in splits.get(name, []))), None
    )
    if judged:
        rows = [row for row in splits[judged] if row["codebook_loss"]]
        books = [
            Series(f"codebook {k + 1}", [r["step"] for r in rows], [r["codebook_loss"][k] for r in rows])
            for k in range(min(len(row["codebook_loss"]) for row in rows))
        ]
        drawn.append(line_chart(f"Cross-entropy by codebook, {judged}, nats", "steps", books))
    for column, title in (("learning_rate", "Learning rate"), ("gradient_norm", "Gradient norm")):
        drawn.append(line_chart(title, "steps", [_series("train", splits.get("train", []), column)]))
    names = sorted({name for row in training for name, _ in row["metrics"] or []})
    for name in names:
        lines = []
        for split, rows in sorted(splits.items()):
            known = [(row["step"], metrics_of(row)) for row in rows]
            points = [(step, metrics[name]) for step, metrics in known if name in metrics]
            lines.append(Series(split, [step for step, _ in points], [value for _, value in points]))
        drawn.append(line_chart(name.replace("_", " "), "steps", lines))
    return [chart for chart in drawn if chart is not None]


def _series(name: str, rows: Sequence[Row], column: str) -> Series:
    known = [row for row in rows if row[column] is not None]
    return Series(name, [row["step"] for row in known], [row[column] for row in known])


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
