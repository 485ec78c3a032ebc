"""`segue.yaml`: what `segue init` writes, and the effect of the file."""

import re
from pathlib import Path

import pytest
import yaml

from flows.cli import run_command
from flows.commands.options import parse_given_options
from flows.recipes.presets import PRESETS
from flows.recipes.recipe import Recipe
from flows.recipes.recipe_file import COMMONEST, FILE, HEADER, recipe_text
from schemas import Settings, Store


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options(preset=None, recipe=None, given=None, overrides=()):
    return parse_given_options(["ingest"], preset, recipe, {"source": "music", **(given or {})}, list(overrides))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_new_file_equals_the_preset_and_so_do_all_its_commented_fields(preset):
    text = recipe_text(preset, {})
    Path(FILE).write_text(text)
    assert options().recipe == Recipe(preset=preset)
    shown = re.sub(r"^( *)# (\w+: )", r"\1\2", text.removeprefix(HEADER), flags=re.MULTILINE)
    content = yaml.safe_load(shown)
    assert Settings.model_validate(content.pop("settings")) == Settings()
    assert Recipe.model_validate(content) == Recipe(preset=preset)
    assert len(re.findall(r"^ *# \w+: ", text.removeprefix(HEADER), re.MULTILINE)) == len(COMMONEST)
    assert max(map(len, text.splitlines())) <= 120


def test_options_win_over_the_file_and_the_file_over_the_preset():
    Path(FILE).write_text(
        "preset: musicgen-small\nsettings: {store: there, workers: 2}\ntrain: {batch_size: 6, segment_seconds: 9.0}\n"
    )
    of_file = options()
    assert of_file.recipe.preset == "musicgen-small"
    assert of_file.recipe.train.model.language_model.width == 1024
    assert (of_file.recipe.train.batch_size, of_file.settings.store, of_file.settings.workers) == (6, "there", 2)
    over = options("musicgen-medium", given={"store": "here"}, overrides=["train.batch_size=3"])
    assert over.recipe.train.model.language_model.width == 1536
    assert (over.recipe.train.batch_size, over.recipe.train.segment_seconds) == (3, 9.0)
    assert (over.settings.store, over.settings.workers) == ("here", 2)


def test_a_named_file_replaces_the_folders_own():
    Path(FILE).write_text("train: {seed: 1}\n")
    Path("other.yaml").write_text("train: {seed: 2}\n")
    assert options().recipe.train.seed == 1
    assert options(recipe="other.yaml").recipe.train.seed == 2


def test_a_section_of_comments_changes_nothing_and_null_removes_a_condition():
    Path(FILE).write_text("train:\n  optimization:\n    # steps: 3\ningest:\n")
    assert options().recipe == Recipe()
    Path(FILE).write_text(
        "preset: musicgen-melody\ntrain: {model: {language_model: {prepend: [description]}, chroma: null}}"
    )
    assert options().recipe.train.model.chroma is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("train: {stepz: 3}", "unknown field train.stepz (did you mean train.optimization.steps?)"),
        ("trian: {seed: 3}", "unknown field 'trian' in segue.yaml (did you mean train?)"),
        ("temperature: 1", "temperature is a knob of requests: --set requests.temperature=…"),
        ("generate: {temperature: 1}", "temperature is a knob of requests"),
        ("settings: {stor: x}", "unknown field settings.stor (did you mean store?)"),
        ("train: 3", "expected fields of train in segue.yaml, got 3"),
        ("- train", "expected `stage:` and its fields in segue.yaml, got list"),
        ("train: [", "expected a YAML file for --recipe, got segue.yaml"),
        ("train: !!python/object/apply:os.getcwd []", "expected a YAML file for --recipe, got segue.yaml"),
        ("preset: musicgen-smal", "did you mean musicgen-small?"),
    ],
)
def test_an_invalid_file_is_refused_in_one_line(content, told, capfd):
    Path(FILE).write_text(content)
    assert run_command(["plan", "ingest", "--source", "music"]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("segue: recipe from")]
    assert len(errors) == 1
    assert told in errors[0]


def test_the_recipe_file_is_announced_and_names_the_store_of_every_command(capfd):
    assert run_command(["init", "--store", "kept", "--preset", "musicgen-small"]) == 0
    assert run_command(["init"]) == 2
    assert "expected to write a new file, got segue.yaml, which is there" in capfd.readouterr().err
    Store("kept").require()
    assert run_command(["sql", "SELECT count(*) AS n FROM tracks", "--format", "csv"]) == 0
    out, err = capfd.readouterr()
    assert out == "n\n0\n"
    assert err.splitlines() == ["segue: recipe from segue.yaml, preset musicgen-small"]


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "checkpoint:language_model", "--text", "calm piano", "--dry-run"],
        ["finetune", "checkpoint:language_model", "--source", "music", "--dry-run"],
        ["convert", "checkpoint:language_model", "converted", "--to", "hf"],
        ["doctor"],
    ],
)
def test_commands_that_need_no_existing_store_use_that_of_the_recipe_file_too(words, capfd):
    run_command(["init", "--store", "kept"])
    Store("kept").require()
    run_command(words)
    told = capfd.readouterr()
    assert "segue: recipe from segue.yaml" in told.err
    assert str(Path("kept").resolve()) in told.out + told.err
    assert "segue-store" not in told.out + told.err
