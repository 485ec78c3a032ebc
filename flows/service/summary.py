"""What a run leaves on Prefect's page: one artifact of what it made, refused and checked, its time, and pictures.

Pictures are embedded in the Markdown as data URLs. The page shows those; for an image artifact it would also print the
address, which is the whole picture in letters. A run that changed nothing leaves no pictures, so that the database of a
service that runs every hour stays small.
"""

import base64
from collections.abc import Iterator

from prefect.artifacts import create_markdown_artifact

from flows.runs.output import result_rows
from flows.runs.reasons import reason_lines
from flows.runs.running import Run
from schemas import Store
from schemas.sql import literal
from schemas.tables import Row
from stages.pipeline.durations import duration
from stages.pipeline.release import release_text

KEY = "segue-run"
"""The artifact's key on the page, which shows the newest artifact with this key and earlier ones."""

CLIPS = 3
"""How many clips are shown with their spectrograms."""

CHARTS = 2
"""How many charts of a training are shown: its loss, and the cross-entropy of each codebook."""

_CHECKS = """
    SELECT stage, "check" AS name, severity, passed, message FROM checks WHERE run_id = {run}
    ORDER BY passed, severity, stage, name"""

_TRAINED = "SELECT checkpoint_id, kind FROM checkpoints WHERE kind IN ({kinds}) ORDER BY created_at DESC LIMIT 1"

_CLIPS = """
    SELECT coalesce(nullif(requests.title, ''), nullif(requests.description, ''), request_id) AS words, clips.sha256
    FROM clips LEFT JOIN requests USING (request_id) ORDER BY request_id, take"""


def leave_summary(run: Run, problem: BaseException | None) -> None:
    """Create the artifact of a run that has ended.

    Args:
        problem: the error that ended it; None if it did everything.
    """
    create_markdown_artifact(key=KEY, markdown=summary_text(run, problem), description=_heading(run, problem))


def summary_text(run: Run, problem: BaseException | None) -> str:
    """Return what a run made, refused and checked, what it took, and pictures of it, as Markdown."""
    from flows.runs.failures import format_error

    parts = [f"# {_heading(run, problem)}"]
    if problem is not None:
        parts.append(_lines([format_error(problem)]))
    parts += ["\n".join(f"- {fact}" for fact in _facts(run)), _stages(run)]
    store = Store(run.plan.settings.store)
    if reasons := reason_lines(store, [result.stage for result in run.results]):
        parts += ["## Refusals and remarks", _lines(reasons)]
    parts += _checks(store, run)
    parts += _pictures(store, run)
    return "\n\n".join(parts) + "\n"


def _heading(run: Run, problem: BaseException | None) -> str:
    if problem is not None:
        return f"Run {run.run_id} ended with an error"
    return f"Run {run.run_id} is complete" if any(each.changed for each in run.results) else "There was nothing to do"


def _facts(run: Run) -> Iterator[str]:
    settings = run.plan.settings
    store = Store(settings.store)
    seconds = sum(result.seconds for result in run.results)
    took = f"{duration(seconds)} in its stages"
    if settings.cost_per_hour is not None:
        took += f", which cost {seconds / 3600 * settings.cost_per_hour:,.2f}"
    yield f"Store: `{store.url}`"
    yield f"Run: `{run.run_id}`, {release_text()}"
    yield f"It took {took}"
    yield f"To see and hear it: `segue page --store {store.url}`"


def _stages(run: Run) -> str:
    rows = result_rows(run.results)
    if not rows:
        return "No stage ended."
    price = run.plan.settings.cost_per_hour
    if price is not None:
        costs = [f"{result.seconds / 3600 * price:,.2f}" for result in run.results]
        rows = [row | {"cost": cost} for row, cost in zip(rows, costs, strict=True)]
    head = "| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0])
    body = [
        "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
        for row in rows
    ]
    return "\n".join([head, *body])


def _checks(store: Store, run: Run) -> list[str]:
    rows = _answer(store, _CHECKS.format(run=literal(run.run_id)))
    if not rows:
        return []
    failed = [
        f"{row['severity']}: {row['stage']}, {row['name']}: {row['message']}" for row in rows if not row["passed"]
    ]
    count = f"{len(rows) - len(failed)} of {len(rows)} passed."
    return ["## Checks", count, *([_lines(failed)] if failed else [])]


def _pictures(store: Store, run: Run) -> Iterator[str]:
    """Yield the training curves of what the run trained, and, if it made the page, spectrograms of clips."""
    from stages.report.charts import chart_svg
    from stages.report.contents import training_charts
    from stages.report.pictures import FOLDER

    changed = {result.stage for result in run.results if result.changed}
    kinds = [kind for stage in run.plan.stages if stage.name in changed for kind in getattr(stage.module, "KINDS", ())]
    for kind in kinds:
        for row in _answer(store, _TRAINED.format(kinds=literal(kind))):
            steps = _answer(store, f"SELECT * FROM training WHERE checkpoint_id = {literal(row['checkpoint_id'])}")
            for chart in training_charts(steps)[:CHARTS]:
                image = _data_address("image/svg+xml", chart_svg(chart).encode())
                yield f"## {kind}: {chart.title}\n\n![{chart.title}]({image})"
    if "report" not in changed:
        return
    drawn, shown = set(store.files(FOLDER)), 0
    for row in _answer(store, _CLIPS):
        name = f"{row['sha256'][:32]}.png"
        if name in drawn and shown < CLIPS:
            shown += 1
            image = _data_address("image/png", store.read_bytes(f"{FOLDER}/{name}"))
            yield f"## A clip\n\n{_lines([row['words']])}\n\n![spectrogram]({image})"


def _answer(store: Store, query: str) -> list[Row]:
    """Return the rows that a query gives; none if it fails, since a run must not fail because of its summary."""
    from schemas.queries.database import query as answer
    from schemas.queries.errors import QueryError

    try:
        rows: list[Row] = answer(store, query).to_pylist()
        return rows
    except QueryError:
        return []


def _lines(lines: list[str]) -> str:
    """Return lines as an indented block of Markdown, in which text from metadata cannot act as Markdown."""
    return "\n".join("    " + " ".join(line.split()) if not line.startswith(" ") else "    " + line for line in lines)


def _data_address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
