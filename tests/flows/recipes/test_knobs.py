"""Errors that say where a knob is, for those who look elsewhere."""

import pytest

from flows.cli import run_command
from flows.commands.options import UsageError, parse_run_options
from flows.recipes.knobs import knobs
from flows.recipes.recipe import Recipe, stage_models
from schemas import Store
from tests.worlds.command_line import complaints

PATHS = [".".join(knob.path) for knob in knobs(stage_models())]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("generate.temperature=1", "temperature is a knob of requests: --set requests.temperature=…"),
        ("temperature=1", "temperature is a knob of requests: --set requests.temperature=…"),
        ("train.device=cpu", "device is a knob of settings: --set settings.device=…"),
        (
            "language_model.width=8",
            "width is a knob of train.model.language_model: --set train.model.language_model.width=…",
        ),
        ("train.steps=8", "steps is a knob of train.optimization, train_codec.training.optimization, "),
        ("generate.temprature=1", "unknown field generate.temprature (did you mean requests.temperature?)"),
        ("decode.fromat=ogg", "unknown field decode.fromat (did you mean format?)"),
        ("trian.seed=3", "unknown stage 'trian' in --set trian.seed=3 (did you mean train?)"),
        ('train.optimization={"stpes": 3}', "unknown field train.optimization.stpes (did you mean steps?)"),
    ],
)
def test_an_error_says_where_a_misplaced_or_misspelt_knob_belongs(words, told, tmp_path):
    with pytest.raises(UsageError) as raised:
        parse_run_options([], "miniature", {"store": str(tmp_path)}, [words])
    assert told in str(raised.value)


def test_of_several_knobs_of_one_name_the_stages_own_comes_first(tmp_path):
    with pytest.raises(UsageError, match=r": --set train_codec\.training\.optimization\.steps=…"):
        parse_run_options([], "miniature", {"store": str(tmp_path)}, ["train_codec.steps=8"])


def test_every_knob_is_listed_once_under_its_path():
    assert len(PATHS) == len(set(PATHS)) > 200
    recipe = Recipe().model_dump()
    shallow = [path.split(".") for path in PATHS if path.count(".") == 1 and not path.startswith("settings.")]
    assert [path for path in shallow if path[1] not in recipe[path[0]]] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "--preset", "musicgen-smal"], "did you mean musicgen-small?"),
        (["plan", "inges"], "did you mean ingest?"),
    ],
)
def test_a_typo_in_a_preset_or_a_stage_is_refused_with_the_nearest_name(words, told, capfd):
    assert run_command(words) == 2
    (line,) = complaints(capfd.readouterr().err)
    assert told in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check", "trakcs"], "did you mean tracks?"),
        (["diff", "clps"], "did you mean clips?"),
        (["sql", "SELECT * FROM tracks JOIN clip USING (uri)"], "clip does not exist (did you mean clips?)"),
        (["sql", "SELECT genre FROM scores"], "; tracks, withheld, pieces have it"),
    ],
)
def test_a_typo_in_a_table_or_a_column_is_refused_with_a_suggestion(words, told, tmp_path, capfd):
    Store(str(tmp_path)).require()
    assert run_command([*words, "--store", str(tmp_path)]) == 2
    (line,) = complaints(capfd.readouterr().err)
    assert told in line
