"""The documentation is true: generated parts are current, and what it shows runs, parses and exists."""

import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
import yaml
from pydantic import BaseModel

from docs.generate import (
    COLUMNS,
    FIGURES,
    FOLLOWED,
    LIKENESS,
    QUERIES,
    RESULTS,
    SECTIONS,
    WORDS,
    draw_figure,
    followed_table,
    inner_models,
    is_mapping,
    read_section,
    results_page,
    write_reference,
)
from flows.cli import app, run_command
from flows.commands.options import parse_run_options
from flows.commands.words import embed_words
from flows.recipes.presets import DEFAULT_PRESET
from flows.recipes.recipe import STAGES, Recipe, stage_models
from flows.recipes.recipe_file import FILE
from schemas import Store
from schemas.queries.database import query
from schemas.queries.views import VIEWS
from schemas.tables import TABLES
from tests.worlds.smallest_run import ROOT, command, environment

README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.glob("*.md"))]
PAGES += [ROOT / "tests" / "oracles" / "README.md"]
ANEW = "run: make docs"


def blocks(kind: str, pages: list[Path] = PAGES) -> list[str]:
    """Return the pages' code blocks of a kind; the kind is empty for blocks without one."""
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    every = [block for page in pages for block in fence.findall(page.read_text())]
    return [textwrap.dedent(text) for _, name, text in every if name == kind]


def commands(kind: str, prompt: str, pages: list[Path] = PAGES) -> list[list[str]]:
    """Return every `segue …` command of the pages' blocks of a kind; lines with commands begin with a prompt."""
    lines = [line for block in blocks(kind, pages) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[len(prompt.split()) :] for line in lines if line.startswith(prompt)]


def inline(pattern: str) -> list[tuple[str, str]]:
    """Return the text between backticks in the pages' running text that matches a pattern, each with its page."""
    spans = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        spans += [(page.name, " ".join(span.split())) for span in re.findall(r"`([^`]+)`", text)]
    return [(page, span) for page, span in spans if re.fullmatch(pattern, span)]


def understood(words: list[str]) -> str:
    """Parse a command with the command line, and return its name."""
    name, *rest = words
    context = typer.main.get_command(app).commands[name].make_context(name, list(rest))
    if name in ("run", "plan"):
        options = {
            option: context.params[option] for option in ("source", "store", "requests") if context.params[option]
        }
        params = context.params
        preset = params["preset"] or DEFAULT_PRESET
        assert parse_run_options(params["stages"] or [], preset, options, params["set_"] or []).plan.names
    return name


def test_the_table_of_the_demo_prints_values_below_their_goal_in_bold():
    values = {"clips": 0.61, "codec": 0.75, "chance": 0.05}
    measures = [
        {"measure": measure, "sounds": sounds, "n": 100, "value": value, "low": value - 0.1, "high": value + 0.1}
        for measure in FOLLOWED
        for sounds, value in values.items()
    ]
    measures[0]["value"] = 0.59
    lines = followed_table(measures).splitlines()
    assert lines[2] == "| melody, frames | 59.0 % (51.0–71.0) | 100 | 5 % | 75.0 % | **79 %** |"
    assert lines[-1] == "| instruments, of those named | 61.0 % (51.0–71.0) | 100 | 5 % | 75.0 % | 81 % |"


@pytest.mark.parametrize("name", SECTIONS)
def test_a_generated_section_is_current(name):
    page, make = SECTIONS[name]
    assert read_section(name, page.read_text()) == make(), ANEW


def test_the_checks_of_the_documentation_are_valid_in_a_recipe():
    (block,) = blocks("yaml", [DOCS / "upkeep.md"])
    checks = Recipe.model_validate({"checks": yaml.safe_load(block)}).checks
    assert [(check.table, check.severity) for check in checks] == [("clips", "error"), ("tracks", "warn")]


def test_the_reference_is_current():
    assert (DOCS / "reference.md").read_text() == write_reference(), ANEW


def test_the_page_of_benchmark_results_is_current():
    assert RESULTS.read_text() == results_page(), ANEW


def test_every_column_has_an_explanation_and_every_explanation_a_column_or_field():
    columns = {name for table in TABLES.values() for name in table.schema.names}
    fields = {name for table in TABLES.values() for kind in table.schema.types for name in fields_of(kind)}
    of_views = {name for view in VIEWS.values() for name in re.findall(r"AS (\w+)", view.statement)}
    assert columns <= set(COLUMNS) <= columns | fields | of_views


def fields_of(kind):
    """The names of the fields of a nested type, at any depth."""
    children = [kind.field(number) for number in range(kind.num_fields)]
    names = {child.name for child in children} if pa.types.is_struct(kind) else set()
    return names.union(*(fields_of(child.type) for child in children))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_current_and_shown_on_its_page(name, tmp_path):
    draw_figure(name, tmp_path / "figure.svg")
    assert (DOCS / "patterns" / f"{name}.svg").read_text() == (tmp_path / "figure.svg").read_text(), ANEW
    assert f"](patterns/{name}.svg)" in (DOCS / "model.md").read_text()


def test_readme_is_short_and_links_to_every_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    for page in PAGES[1:-1]:
        assert f"]({page.relative_to(ROOT)})" in text, page


def test_every_link_of_the_documentation_has_a_target():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    assert len(links) > 30
    for page, link in links:
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), (page.name, link)
        if anchor:
            assert anchor in anchors(target), (page.name, link)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_path_of_the_documentation_exists():
    tops = "flows|stages|model|schemas|tests|docs"
    paths = inline(rf"({tops})/[\w./<>-]*") + inline(r"\.?[\w-]+\.(toml|lock|yaml|md)") + inline(r"\.ci/\w+")
    assert len(paths) > 40
    for page, path in paths:
        if path == FILE:  # a file that users write
            continue
        assert (ROOT / path.rstrip("/")).exists() or "<" in path, (page, path)


def test_every_question_of_newcomers_is_answered_by_an_existing_path():
    rows = re.findall(r"^\| (.*\?) \| (.*?) \|", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert len(rows) == 10
    for question, path in rows:
        assert (ROOT / path.strip("`")).exists(), question


def test_every_knob_of_the_documentation_exists():
    names = "|".join(stage_models())
    knobs = inline(rf"({names})\.[a-z_<>.]+(=.*)?")
    # The changelog also names removed ones.
    knobs = [knob for knob in knobs if knob[0] != "CHANGELOG.md" and not re.search(r"\.(py|md|csv)$", knob[1])]
    assert len(knobs) > 25
    for page, knob in knobs:
        assert is_knob(knob.split("=")[0]), (page, knob)


def is_knob(path: str) -> bool:
    """Return whether `stage.field` is a knob; within a mapping any name is allowed."""
    stage, *fields = path.split(".")
    models: list[type[BaseModel]] = [stage_models()[stage]]
    free = False
    for name in fields:
        if free:
            free = False
            continue
        found: list[Any] = [model.model_fields[name].annotation for model in models if name in model.model_fields]
        if not found:
            return False
        free, models = is_mapping(found[0]), inner_models(found[0])
    return True


def test_a_knob_that_does_not_exist_is_noticed():
    assert is_knob("train.attribute_dropout.<condition>")
    assert is_knob("train.model.fields.genre.rows")
    assert not is_knob("train.batch")
    assert not is_knob("train.optimization.nothing")


def test_every_preset_that_the_documentation_names_exists():
    from flows.recipes.presets import PRESET_NAMES

    every = [*commands("", "segue "), *commands("console", "$ segue ")]
    named = {words[words.index("--preset") + 1] for words in every if "--preset" in words}
    assert named
    assert named <= set(PRESET_NAMES)


def test_commands_that_are_too_costly_to_run_are_parsed():
    names = {understood(words) for words in commands("", "segue ")}
    of_service = {"up", "down", "doctor", "page"}
    assert names == of_service | {"run", "convert", "explain", "take-down", "generate", "gates", "finetune", "sql"}


def test_a_command_that_trains_a_checkpoint_further_gives_steps_and_batch_size():
    further = [words for words in commands("", "segue ") if any(word.startswith("train.initial=") for word in words)]
    assert further
    for words in further:
        knobs = dict(word.split("=", 1) for word in words if "=" in word)
        assert int(knobs["train.optimization.steps"]) <= 20_000, words
        assert int(knobs["train.batch_size"]) <= 32, words


def test_a_command_in_running_text_is_parsed():
    spans = [span.removeprefix("segue ") for _, span in inline(r"segue [^…]*")]
    assert len(spans) > 5
    for span in spans:
        words, whole = shlex.split(span), typer.main.get_command(app)
        if words[0].startswith("--"):
            options = whole.get_params(whole.make_context("segue", [], resilient_parsing=True))
            assert words[0] in {name for option in options for name in option.opts}, span
            continue
        assert words[0] in whole.commands, span
        if len(words) > 1:
            understood(words)


def test_the_recipes_with_conditions_are_valid_on_a_published_preset():
    recipes = [Recipe.model_validate(yaml.safe_load(block)) for block in blocks("yaml", [DOCS / "conditions.md"])]
    assert {recipe.preset for recipe in recipes} == {"musicgen-small"}
    reads = ("description", "genre", "bpm", "chroma"), ("description", "beat", "chords")
    assert tuple(recipe.train.model.conditions for recipe in recipes) == reads


def test_the_example_of_a_stage_compiles_and_the_contract_has_the_names_of_the_page():
    block = next(text for text in blocks("python", [DOCS / "architecture.md"]) if "def shard" in text)
    compile(block, "architecture.md", "exec")
    contract = (ROOT / "stages" / "pipeline" / "contract.py").read_text()
    for name in ("READS", "WRITES", "VERSION", "shard", "reduce", "plan_source", "read_source", "CONSULTS"):
        assert name in contract, name
        assert name in (DOCS / "architecture.md").read_text(), name
    assert all(hasattr(module, "Config") for module in STAGES.values())


def test_the_promised_versions_of_python_are_those_that_ci_runs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest, highest = re.findall(r"3\.(\d+)", project["requires-python"])
    promised = [f"3.{minor}" for minor in range(int(lowest), int(highest))]
    run = re.search(r"^for version in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert run
    assert sorted(run[1].split()) == promised
    assert f"Python {' or '.join(promised)}" in README.read_text()


def test_the_queries_run_and_answer_in_the_columns_that_are_shown(catalog):
    page, written = (DOCS / "queries.md").read_text(), [*QUERIES.values(), *LIKENESS.values()]
    text = "\n\n".join(read_section(name, page) for name in ("queries", "likeness"))
    shown = re.findall(r"```sql(.*?)\n```\n\n\| (.*?) \|\n", text, re.DOTALL)
    assert [sql for sql, _ in shown] == written == ["\n" + sql.rstrip("\n") for sql in blocks("sql")]
    words = embed_words(Store(str(catalog)), WORDS)
    for sql, header in shown:
        answer = query(Store(str(catalog)), sql, words=words)
        assert " | ".join(answer.schema.names) == header
        assert answer.num_rows > 0


def test_a_query_in_running_text_runs(catalog):
    queries = [span for _, span in inline(r"SELECT .*")]
    assert queries
    for sql in queries:
        query(Store(str(catalog)), sql)


FOLLOWS = {"upkeep": "requests"}
"""Pages about an earlier catalog, each with the page whose commands leave one."""


def commands_of(page: Path) -> list[list[str]]:
    """The commands with a prompt on a page, after those of the page that it follows."""
    before = [DOCS / f"{FOLLOWS[page.stem]}.md"] if page.stem in FOLLOWS else []
    return commands("console", "$ segue ", [*before, page])


def pages_with_commands():
    """The pages that show commands with a prompt; pages whose commands compute something belong to the slow tests."""
    for page in PAGES:
        names = [words[0] for words in commands_of(page)]
        if names:
            yield pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if "run" in names else [])


@pytest.mark.parametrize("page", pages_with_commands())
def test_every_command_of_a_page_runs(page, catalog, home, tmp_path, monkeypatch, capsys):
    """On a copy of the smallest store, in a folder with two of its recordings and the pages' own requests file."""
    store = tmp_path / "store"
    shutil.copytree(catalog, store)
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for path in sorted((catalog / "demo").rglob("*.flac"))[:2] or sorted((catalog / "demo").rglob("*.wav"))[:2]:
        shutil.copy(path, recordings)
    assert len(list(recordings.iterdir())) == 2
    (tmp_path / "requests.csv").write_text(blocks("csv", [DOCS / "requests.md"])[0])
    # Plans change nothing; they come first, because they are those of a store with the preset's own order.
    every = commands_of(page)
    every.sort(key=lambda words: words[0] != "plan" or "--requests" in words)
    monkeypatch.chdir(tmp_path)
    for words in every:
        where = words.index("--store")
        rest = [*words[:where], *words[where + 2 :]]
        if words[0] == "run":
            surroundings = environment(home) | {"PYTHONPATH": str(ROOT)}
            run = command(store, *rest)
            done = subprocess.run(run, env=surroundings, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (words, done.stderr[-3000:])
            continue
        given = command(store, *rest)[3:]  # without Python's own words
        code = run_command(given if words[0] == "plan" else given[: len(rest) + 2])
        assert code == 0, (words, capsys.readouterr().err[-3000:])
    if page.stem == "requests":
        clips = query(Store(str(store)), "SELECT name FROM clips JOIN requests USING (request_id) ORDER BY name")
        assert clips.to_pylist() == [{"name": "answer"}, {"name": "opening"}]


def test_most_pages_with_commands_are_run_by_the_quick_tests():
    slow = [bool(page.marks) for page in pages_with_commands()]
    assert len(slow) >= 6
    assert sum(slow) <= len(slow) / 2
