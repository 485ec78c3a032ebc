"""README tells the truth: its tables and its tree are those of the code, its commands and queries run.

`python -m tests.test_readme STORE` writes the tables, the tree and the answers of STORE into README.md, and draws its
figures.
"""

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
import yaml

from flows.cli import app, run_command
from flows.options import understand
from flows.recipe import Recipe
from schemas import Store
from schemas.database import query
from schemas.tables import TABLES
from tests.worlds.smallest_run import ROOT, command, environment

README = ROOT / "README.md"

FIGURES = {
    "delay": ("Delay: each codebook one step later than the one before", "delay"),
    "parallel": ("Parallel: no delay", "delay --delays 0,0,0,0"),
    "unroll": ("Unroll: one code a step", "unroll --frames 3"),
    "coarse-first": ("Coarse first: the whole first codebook, then the others", "coarse_first"),
    "grouped": ("Grouped: groups of codebooks one after another, flattened", "grouped --frames 4"),
    "stereo": (
        "Stereo: left and right by turns, a delay for each pair",
        "delay --codebooks 8 --delays 0,0,1,1,2,2,3,3",
    ),
}
"""README's figures of patterns: a title, and what `segue pattern` is asked for."""

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


def tables_section() -> str:
    """The tables of the store, as Markdown."""
    lines = ["| table | one row is | key | columns |", "| --- | --- | --- | --- |"]
    for table in TABLES.values():
        columns = ", ".join(name for name in table.schema.names if name not in table.key)
        lines.append(f"| `{table.name}` | {table.about} | `{', '.join(table.key)}` | {columns} |")
    return "\n".join(lines)


def about(module: Path) -> str:
    """The first sentence of a module's docstring, or of its package's."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".").split())


def tree_section() -> str:
    """The source tree, a line a module with the first sentence of its docstring."""
    lines = []
    for layer in ("flows", "stages", "model", "schemas"):
        lines.append(f"{layer}/")
        for place in sorted((ROOT / layer).iterdir()):
            module = place / "__init__.py" if place.is_dir() else place
            if module.suffix == ".py" and module.exists() and place.name != "__init__.py":
                name = f"{place.name}/" if place.is_dir() else place.name
                lines.append(f"    {name:<26} {about(module)}".rstrip())
    return "\n".join(["```", *lines, "```"])


def queries_section(store: Store) -> str:
    """The five queries with a store's answers."""
    parts = []
    for title, sql in QUERIES.items():
        answer = query(store, sql)
        names = answer.schema.names
        rows = [[str(value) for value in row.values()] for row in answer.to_pylist()]
        table = [names, ["---"] * len(names), *rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table)
        parts.append(f"**{title}**\n\n```sql{sql}\n```\n\n{body}")
    return "\n\n".join(parts)


def draw_figure(name: str, place: Path) -> None:
    """Draw one of README's figures into a file."""
    title, words = FIGURES[name]
    assert run_command(["pattern", *words.split(), "--title", title, "--svg", str(place)]) == 0


def section(name: str, text: str) -> str:
    """What stands between the marks of a section of README."""
    found = re.search(rf"<!-- {name}: begin[^>]*-->\n(.*?)<!-- {name}: end -->", text, re.DOTALL)
    assert found, name
    return found.group(1).strip()


def replaced(name: str, text: str, new: str) -> str:
    """README with a section written anew."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)


@pytest.mark.parametrize(("name", "made"), [("tables", tables_section), ("tree", tree_section)])
def test_a_generated_section_is_what_the_code_says(name, made):
    assert section(name, README.read_text()) == made(), "run: python -m tests.test_readme STORE"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_what_the_code_draws(name, tmp_path):
    draw_figure(name, tmp_path / "figure.svg")
    place = ROOT / "docs" / "patterns" / f"{name}.svg"
    assert place.read_text() == (tmp_path / "figure.svg").read_text(), "run: python -m tests.test_readme STORE"
    assert f"](docs/patterns/{name}.svg)" in README.read_text()


def test_the_queries_run_and_answer_in_the_columns_that_readme_shows(catalog):
    text = section("queries", README.read_text())
    blocks = re.findall(r"```sql(.*?)\n```\n\n\| (.*?) \|\n", text, re.DOTALL)
    assert [sql for sql, _ in blocks] == list(QUERIES.values())
    for sql, header in blocks:
        answer = query(Store(str(catalog)), sql)
        assert " | ".join(answer.schema.names) == header
        assert answer.num_rows > 0


def blocks(kind: str) -> list[str]:
    """README's blocks of a kind of code; the kind is empty where none is given."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == kind]


def commands(kind: str, prompt: str) -> list[list[str]]:
    """Every `segue …` of README's blocks of a kind, whose lines of commands begin with a prompt."""
    lines = [line for block in blocks(kind) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[len(prompt.split()) :] for line in lines if line.startswith(prompt)]


def test_a_command_of_readme_that_would_want_a_network_or_days_is_understood():
    group = typer.main.get_command(app)
    found = commands("", "segue ")
    assert {words[0] for words in found} == {"run", "convert"}
    for words in found:
        given = group.commands[words[0]].make_context(words[0], words[1:]).params
        if words[0] == "run":
            options = {name: given[name] for name in ("source", "store", "requests") if given[name]}
            assert understand(given["stages"] or [], given["preset"], options, given["set_"] or []).names


def test_readmes_recipe_with_conditions_is_one_on_a_published_preset():
    assert len(blocks("yaml")) == 1
    recipe = Recipe.model_validate({"preset": "musicgen-small"} | yaml.safe_load(blocks("yaml")[0]))
    assert set(recipe.train.model.fields) == {"genre", "bpm"}


def test_every_command_of_readme_runs(catalog, home, tmp_path, corpus):
    """On a copy of the smallest store, in a folder with two recordings and README's own requests file."""
    import subprocess

    store = tmp_path / "store"
    shutil.copytree(catalog, store)
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("elf-land.ogg", "victory2.ogg"):
        shutil.copy(corpus / "orchestral" / name, recordings)
    (tmp_path / "requests.csv").write_text(blocks("csv")[0])
    found = commands("console", "$ segue ")
    assert len(found) >= 4
    for words in found:
        where = words.index("--store")
        done = subprocess.run(
            command(store, *words[:where], *words[where + 2 :]),
            cwd=tmp_path,
            env=environment(home) | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr[-3000:])
    clips = query(Store(str(store)), "SELECT name FROM clips JOIN requests USING (request_id) ORDER BY name")
    assert clips.to_pylist() == [{"name": "answer"}, {"name": "opening"}]


if __name__ == "__main__":
    for name in FIGURES:
        draw_figure(name, ROOT / "docs" / "patterns" / f"{name}.svg")
    text = replaced("tables", README.read_text(), tables_section())
    text = replaced("tree", text, tree_section())
    README.write_text(replaced("queries", text, queries_section(Store(sys.argv[1]))))
