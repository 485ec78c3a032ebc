"""Writes what the documentation takes from the code: `make docs`, or `python -m docs.generate [STORE]`.

`docs/reference.md` and `tests/benchmarks/RESULTS.md` are written whole. In other pages, sections between marks are
replaced. If a store is given, README's table of the demo and the answers to the queries of `docs/queries.md` are
written from that store.
"""

import ast
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs import scaling
from docs.figures import goals_list, loops_table, results_page, short_table
from flows.cli import run_command
from flows.commands.words import embed_words
from flows.recipes.presets import OVERLAYS, PRESETS
from flows.recipes.recipe import STAGES
from schemas import Settings, Store
from schemas.config import field_docstrings
from schemas.queries.columns import COLUMNS, type_name
from schemas.queries.database import query
from schemas.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

FIGURES = {
    "delay": ("Delay: each codebook one step later than the one before", "delay"),
    "parallel": ("Parallel: no delay", "delay --delays 0,0,0,0"),
    "unroll": ("Unroll: one code a step", "unroll --frames 3"),
    "coarse-first": ("Coarse first: the whole first codebook, then the others", "coarse_first"),
    "grouped": ("Grouped: groups of codebooks one after another, flattened", "grouped --frames 4"),
    "stereo": (
        "Stereo: left and right alternate, a delay for each pair",
        "delay --codebooks 8 --delays 0,0,1,1,2,2,3,3",
    ),
}
"""The figures of `docs/model.md`, each with a title and the arguments for `segue pattern`."""

QUERIES = {
    "What did the last run do, and what did it cost?": """
SELECT stage, rows_made, rows_reused, rows_refused, round(seconds, 1) AS seconds
FROM runs WHERE run_id = (SELECT max(run_id) FROM runs) ORDER BY started_at""",
    "What is in the training set?": """
SELECT genre, split, count(*) AS tracks, round(sum(seconds)) AS seconds, round(avg(loudness), 1) AS lufs
FROM tracks GROUP BY ALL ORDER BY tracks DESC, genre, split LIMIT 5""",
    "How is the language model doing on recordings that it has not seen?": """
SELECT step, split, round(loss, 3) AS loss FROM training JOIN checkpoints USING (checkpoint_id)
WHERE kind = 'language_model' ORDER BY step DESC, split LIMIT 4""",
    "Which clips follow their melody best, and from which track did it come?": """
SELECT left(r.description, 40) AS description, r.melody, round(s.chroma_similarity, 2) AS trained,
       round(s.chroma_similarity_chance, 2) AS chance, c.path
FROM scores s JOIN requests r USING (request_id) JOIN clips c USING (request_id, take)
WHERE s.chroma_similarity IS NOT NULL ORDER BY s.chroma_similarity DESC LIMIT 3""",
    "From a clip back to its model and that model's data.": """
SELECT c.request_id[:8] AS request, c.checkpoint_id[:8] AS checkpoint, k.data_digest, k.rows_seen, k.steps
FROM clips c JOIN checkpoints k USING (checkpoint_id) ORDER BY c.request_id LIMIT 2""",
}

FOLLOWED = {
    "chroma_similarity": "melody, frames",
    "bpm_correct": "tempo within 4 %",
    "beat_f_measure": "beats, F-measure",
    "key_correct": "key, exact of 24",
    "chord_accuracy": "chords by bar",
    "instrument_recall": "instruments, of those named",
}
"""The measures in README's table of the demo, and their names there."""

GOAL = 0.8
"""The share of the codec's ceiling that clips of the demo should reach."""

WORDS = ("calm ambient music with bells", "fast drum and bass")
"""The words for the queries by likeness."""

LIKENESS = {
    "Which recordings are nearest to these words?": """
SELECT words, t.title, t.genre,
       round(list_max([list_cosine_similarity(e, w.embedding) FOR e IN c.embeddings])::DOUBLE, 2) AS likeness
FROM words w, clap c JOIN tracks t USING (track_id)
QUALIFY row_number() OVER (PARTITION BY words ORDER BY likeness DESC, title) <= 3
ORDER BY words, likeness DESC, title""",
    "Which clips are nearest to these words?": """
SELECT words, left(r.description, 40) AS description,
       round(list_max([list_cosine_similarity(e, w.embedding) FOR e IN s.embeddings])::DOUBLE, 2) AS likeness
FROM words w, clips JOIN scores s USING (request_id, take) JOIN requests r USING (request_id)
QUALIFY row_number() OVER (PARTITION BY words ORDER BY likeness DESC, request_id) <= 3
ORDER BY words, likeness DESC, request_id""",
    "Which of these words fit each genre better?": """
SELECT genre, arg_max(words, likeness) AS words, round(max(likeness), 2) AS likeness
FROM (SELECT genre, words, avg(list_max([list_cosine_similarity(e, w.embedding) FOR e IN c.embeddings])) AS likeness
      FROM words w, clap c JOIN tracks USING (track_id) GROUP BY ALL) GROUP BY genre ORDER BY likeness DESC LIMIT 5""",
    "Which recordings sound most like the description of another one?": """
SELECT d.description, t.title, t.genre,
       round(list_max([list_cosine_similarity(e, description_embedding) FOR e IN c.embeddings])::DOUBLE, 2) AS likeness
FROM descriptions d, clap c JOIN tracks t USING (track_id)
WHERE description_embedding IS NOT NULL AND c.track_id != d.track_id
  AND d.track_id = (SELECT min(track_id) FROM descriptions WHERE description_embedding IS NOT NULL)
ORDER BY likeness DESC, title LIMIT 3""",
    "Which recordings are nearest to what a request asks for?": """
SELECT left(r.description, 40) AS description, t.title,
       round(list_cosine_similarity(s.description_embedding, c.embeddings[1])::DOUBLE, 2) AS likeness
FROM scores s JOIN requests r USING (request_id), clap c JOIN tracks t USING (track_id)
WHERE s.take = 1 AND s.description_embedding IS NOT NULL
  AND s.request_id = (SELECT min(request_id) FROM scores WHERE description_embedding IS NOT NULL)
ORDER BY likeness DESC, title LIMIT 3""",
    "Which recordings does a clip sound like?": """
SELECT left(r.description, 40) AS description, t.title,
       round(list_cosine_similarity(s.embeddings[1], c.embeddings[1])::DOUBLE, 2) AS likeness
FROM scores s JOIN requests r USING (request_id), clap c JOIN tracks t USING (track_id)
WHERE s.request_id = (SELECT min(request_id) FROM scores) AND s.take = 1 ORDER BY likeness DESC, title LIMIT 3""",
    "Which recordings is no clip of the catalog like?": """
SELECT t.title, t.genre,
       round(max(list_cosine_similarity(s.embeddings[1], c.embeddings[1]))::DOUBLE, 2) AS nearest_clip
FROM scores s, clap c JOIN tracks t USING (track_id) GROUP BY ALL ORDER BY nearest_clip, title LIMIT 3""",
}
"""Queries by likeness to words (`segue sql --words`), clips and recordings."""


def write_reference() -> str:
    """Return `docs/reference.md`: every stage, table, knob, setting and preset."""
    parts = ["# Reference", "Written from the code by `make docs`. Tables first, then every knob that `--set` takes."]
    parts += ["## Tables", "A table lies at `<store>/<table>/version=<fingerprint>/shard=<n>.parquet`."]
    for table in TABLES.values():
        parts += [f"### `{table.name}`", f"One row is {table.about}. Key: `{', '.join(table.key)}`."]
        rows = [[f"`{field.name}`", type_name(field.type), COLUMNS[field.name]] for field in table.schema]
        parts.append(markdown_table(["column", "type", "what it holds"], rows))
    parts += [
        "## Knobs",
        "`--set stage.field=value`; defaults are the published values, from which presets differ.",
    ]
    for name, module in STAGES.items():
        parts.append(f"### Stage `{name}`")
        rows = list(knobs(module.Config, name))
        parts.append(markdown_table(["knob", "values", "default", "meaning"], rows) if rows else "No knobs.")
    parts += ["## Settings", "Where and how a run runs; nothing here changes a result."]
    parts.append(markdown_table(["setting", "values", "default", "meaning"], list(knobs(Settings, "settings"))))
    parts += ["## Presets", "`segue presets` prints what each sets differently."]
    presets = [[f"`{name}`", " ".join((make.__doc__ or "").split())] for name, make in {**PRESETS, **OVERLAYS}.items()]
    parts.append(markdown_table(["preset", "what it is"], presets))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown, with bars in cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def knobs(model: type[BaseModel], path: str, values: BaseModel | None = None) -> Iterator[list[str]]:
    """Yield a row for each knob of a configuration, including the configurations inside it.

    Args:
        model: the configuration.
        path: the path before a knob's name.
        values: the default configuration; None means `model()`.
    """
    docstrings = field_docstrings(model)
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        inner = inner_models(field.annotation)
        meaning = " ".join(docstrings.get(name, "").split())
        shown = "required" if field.is_required() and values is None else shown_default(default)
        yield [f"`{path}.{name}`", values_of(field), shown, meaning]
        for kind in inner:
            below = f"{path}.{name}.<name>" if is_mapping(field.annotation) else f"{path}.{name}"
            yield from knobs(kind, below, default if type(default) is kind else None)


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the configurations that a field may hold: directly, in a union or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in inner_models(part)]


def is_mapping(annotation: Any) -> bool:
    """Return whether a field is or may be a mapping."""
    origin = get_origin(annotation)
    return origin in (Mapping, dict) or any(is_mapping(part) for part in get_args(annotation))


LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def values_of(field: FieldInfo) -> str:
    """Return the values that a field accepts, as text."""
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in LIMITS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([annotation_name(field.annotation), *limits])


def annotation_name(annotation: Any) -> str:
    """Return the name of a type for readers."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (None, type(None)):
        return "null"
    if origin is Annotated:
        return annotation_name(inside[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(annotation_name(part) for part in inside))
    if is_mapping(annotation):
        return f"map to {annotation_name(inside[-1])}"
    if inside:
        return f"list of {annotation_name(inside[0])}"
    names = {"str": "text", "WeightsRef": "weights", "bool": "true or false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "object" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else name)


def shown_default(value: Any) -> str:
    """Return a default in the form that `--set` takes; empty for a configuration with knobs of its own, or if empty."""
    if value is None:
        return "null"
    if isinstance(value, BaseModel) or value in ({}, (), []):
        return ""
    if isinstance(value, list | tuple):
        return f"`{','.join(map(str, value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def stages_table() -> str:
    """Return the table of stages, with a row for each stage."""
    rows = []
    for name, module in STAGES.items():
        reads = ", ".join(f"`{table.name}`" for table in module.READS) or "—"
        rows.append([f"`{name}`", reads, f"`{module.WRITES.name}`", first_sentence(Path(str(module.__file__)))])
    return markdown_table(["stage", "reads", "writes", "what it does"], rows)


def first_sentence(module: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".").split())


def source_tree() -> str:
    """Return the source tree, with a line for each module or package and the first sentence of its docstring."""
    lines = [f"{'segue.py':<22} {first_sentence(ROOT / 'segue.py')}"]
    for layer in ("flows", "stages", "model", "schemas"):
        lines.append(f"{layer}/")
        for path in sorted((ROOT / layer).iterdir()):
            module = path / "__init__.py" if path.is_dir() else path
            if module.suffix == ".py" and module.exists() and path.name != "__init__.py":
                name = f"{path.name}/" if path.is_dir() else path.name
                lines.append(f"    {name:<18} {first_sentence(module)}".rstrip())
    return "\n".join(["```", *lines, "```"])


def followed_table(measures: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of how well clips do what was asked of them, from rows of the table `measures`; values below
    `GOAL` are bold."""
    measured = {(row["measure"], row["sounds"]): row for row in measures}
    lines = []
    for measure, name in FOLLOWED.items():
        clips, chance, codec = (measured[measure, sounds] for sounds in ("clips", "chance", "codec"))
        value, low, high = (f"{100 * clips[each]:.1f}" for each in ("value", "low", "high"))
        share = f"{clips['value'] / codec['value']:.0%}".replace("%", " %")
        bold = share if clips["value"] >= GOAL * codec["value"] else f"**{share}**"
        by_chance, ceiling = f"{100 * chance['value']:.0f} %", f"{100 * codec['value']:.1f} %"
        lines.append([name, f"{value} % ({low}–{high})", str(clips["n"]), by_chance, ceiling, bold])
    return markdown_table(["asked for", "clips", "n", "by chance", "codec's ceiling", "of the ceiling"], lines)


def answered_queries(store: Store, queries: Mapping[str, str], words: Mapping[str, Sequence[float]]) -> str:
    """Return queries with their answers from a store."""
    parts = []
    for title, sql in queries.items():
        answer = query(store, sql, words=words)
        rows = [[str(value) for value in row.values()] for row in answer.to_pylist()]
        parts.append(f"**{title}**\n\n```sql{sql}\n```\n\n{markdown_table(answer.schema.names, rows)}")
    return "\n\n".join(parts)


def draw_figure(name: str, path: Path) -> None:
    """Draw one of the figures of patterns to a file."""
    title, words = FIGURES[name]
    assert run_command(["pattern", *words.split(), "--title", title, "--svg", str(path)]) == 0


def read_section(name: str, text: str) -> str:
    """Return the text between the marks of a section."""
    section = re.search(rf"<!-- {name}: begin[^>]*-->\n(.*?)<!-- {name}: end -->", text, re.DOTALL)
    assert section, name
    return section.group(1).strip()


def replace_section(page: Path, name: str, new: str) -> None:
    """Replace a section of a page."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    text = re.sub(pattern, lambda marks: f"{marks[1]}{new}\n{marks[2]}", page.read_text(), flags=re.DOTALL)
    page.write_text(text)


SECTIONS = {
    "speed": (ROOT / "README.md", short_table),
    "tree": (DOCS / "architecture.md", source_tree),
    "stages": (DOCS / "architecture.md", stages_table),
    "loops": (DOCS / "performance.md", loops_table),
    "goals": (DOCS / "performance.md", goals_list),
    **{f"scaling-{name}": (DOCS / "scaling.md", make) for name, make in scaling.PARTS.items()},
}
"""The sections that depend only on the code, the stored results of benchmarks and the stored rates of a store: the page
of each, and the function that makes it."""

RESULTS = ROOT / "tests" / "benchmarks" / "RESULTS.md"

if __name__ == "__main__":
    (DOCS / "reference.md").write_text(write_reference())
    RESULTS.write_text(results_page())
    for section, (page, make) in SECTIONS.items():
        replace_section(page, section, make())
    for figure in FIGURES:
        draw_figure(figure, DOCS / "patterns" / f"{figure}.svg")
    if len(sys.argv) > 1:
        asked = Store(sys.argv[1])
        replace_section(ROOT / "README.md", "demo", followed_table(query(asked, "SELECT * FROM measures").to_pylist()))
        for section, queries, words in (("queries", QUERIES, {}), ("likeness", LIKENESS, embed_words(asked, WORDS))):
            replace_section(DOCS / "queries.md", section, answered_queries(asked, queries, words))
