"""Parameters of a deployed run: an untouched form is the preset, and a difference is merged over the deployment's
own."""

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.flow_engine import run_flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

import flows.single
from flows.catalog import catalog
from flows.recipes.parameters import Asked, RecipeParameter, SettingsParameter, asked_for, run_name
from flows.recipes.presets import PRESET_NAMES, PRESETS
from flows.recipes.recipe import STAGES, Recipe

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN = {"recipe": {"preset": "miniature", "demo": {"pieces": 12}}, "settings": {"store": "ours", "workers": 1}}


@flow(flow_run_name=run_name, persist_result=False)
def probe(settings: SettingsParameter, recipe: RecipeParameter) -> Asked:
    """Return what a run of this flow is asked for."""
    return asked_for(recipe, settings)


@pytest.fixture
def client(on_server) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def deployed(client: SyncPrefectClient, own: Mapping[str, Any], name: str = "probe") -> Any:
    """The id of a deployment of the probe, with the schema that `prefect deploy` gives it."""
    schema = parameter_schema(probe).model_dump_for_openapi()
    parameters = {"parameters": dict(own), "parameter_openapi_schema": schema, "enforce_parameter_schema": True}
    return client.create_deployment(client.create_flow(probe), name, **parameters)


def asked(client: SyncPrefectClient, own: Mapping[str, Any], given: Mapping[str, Any]) -> Asked:
    """What a run of a deployment with parameters `own` is asked for by the parameters `given`."""
    run = client.create_flow_run_from_deployment(deployed(client, own), parameters=dict(given))
    told: Asked = run_flow(probe, flow_run=run, parameters=run.parameters)
    return told


def schemas_within(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema and list of properties in a JSON schema."""
    if isinstance(schema, dict):
        yield schema
    for below in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas_within(below)


# All flows have the same fields; another test checks that each of their deployments can be run.
@pytest.mark.parametrize("name", ["catalog", "train"])
def test_a_form_has_no_defaults_and_no_switches_lists_the_presets_and_describes_every_field(name):
    deployed_flow = catalog if name == "catalog" else getattr(flows.single, name)
    form = parameter_schema(deployed_flow).model_dump_for_openapi()
    recipe = form["properties"]["recipe"]
    assert recipe["properties"]["preset"]["enum"] == list(PRESET_NAMES)
    assert set(recipe["properties"]) == set(Recipe.model_fields)
    for part in schemas_within({key: value for key, value in form.items() if key != "properties"} | {"r": recipe}):
        for field_name, field in part.get("properties", {}).items():
            assert "default" not in field, field_name
            assert field.get("type") != "boolean", field_name
            assert field["title"] == field_name
            definition = form["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("description") or definition.get("description"), (field_name, field)


def test_the_flow_of_a_stage_is_made_on_first_access_and_unknown_names_are_refused():
    spec = importlib.util.find_spec("flows.single")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not [name for name in STAGES if name in vars(module)]
    assert module.clap is module.clap
    assert module.clap.name == "clap"
    assert [name for name in STAGES if name in vars(module)] == ["clap"]
    assert set(STAGES) <= set(dir(module))
    with pytest.raises(AttributeError, match=r"'flows\.single' has no attribute 'clasp'"):
        module.clasp  # noqa: B018


def test_the_form_of_one_stage_begins_with_the_preset_and_the_stage():
    form = parameter_schema(flows.single.train).model_dump_for_openapi()
    assert list(form["properties"]) == ["settings", "recipe"]
    fields = form["properties"]["recipe"]["properties"]
    assert sorted(fields, key=lambda name: fields[name]["position"])[:3] == ["preset", "train", "demo"]


def test_a_wrong_value_is_rejected_by_the_schema_of_the_form():
    form = parameter_schema(flows.single.train).model_dump_for_openapi()

    def problems(recipe: Mapping[str, Any]) -> list[str]:
        return [error.message for error in validate({"settings": {}, "recipe": recipe}, form)]

    assert (
        problems({"preset": "miniature", "train": {"batch_size": 4, "model": {"description": {"finetune": True}}}})
        == []
    )
    for wrong in ({"trian": {}}, {"train": {"batch_size": 0}}, {"preset": "huge"}, {"train": {"steps": 1}}):
        assert problems(wrong), wrong
    assert problems({"train": {"model": {"description": {"finetune": 1}}}})


def test_parameters_of_a_run_are_merged_over_its_deployments_own_field_by_field(client):
    told = asked(client, OWN, {"settings": {"max_refused": 0.6}, "recipe": {"demo": {"seed": 3}}})
    assert (told.settings.store, told.settings.workers, told.settings.max_refused) == ("ours", 1, 0.6)
    assert told.recipe == Recipe(preset="miniature", demo={"pieces": 12, "seed": 3})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_as_parameter_is_that_preset(preset):
    assert asked_for({"preset": preset}, {}).recipe == Recipe(preset=preset)


def test_a_deployed_run_without_a_store_is_refused_with_what_to_do(client):
    with pytest.raises(ValueError, match=r"expected settings\.store.*the deployment probe in prefect\.yaml"):
        asked(client, OWN | {"settings": {"workers": 1}}, {"settings": {"max_refused": 0.6}})


def test_a_value_that_no_schema_rejects_is_refused_in_one_line_with_its_field(client):
    with pytest.raises(ValueError, match=r"settings\.accept_refused: expected a whole number of lines"):
        asked(client, OWN, {"settings": {"accept_refused": 1.5}})


def test_a_run_is_named_after_its_flow_its_preset_and_its_time(client):
    run = client.create_flow_run_from_deployment(deployed(client, OWN), parameters={"recipe": {"preset": "dac-44khz"}})
    run_flow(probe, flow_run=run, parameters=run.parameters)
    assert run.expected_start_time is not None
    assert client.read_flow_run(run.id).name == f"probe dac-44khz {run.expected_start_time:%Y-%m-%d %H:%M}"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("front", ["", "/v2"], ids=["first", "second"])
def test_an_untouched_form_of_prefects_page_posts_the_preset_and_another_can_be_chosen(server, client, front):
    from playwright.sync_api import sync_playwright

    own = {"recipe": {"preset": "miniature"}, "settings": {"store": "ours"}}
    deployment = deployed(client, own, "untouched")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{server.url.removesuffix('/api')}{front}/deployments/deployment/{deployment}/run")
        page.get_by_text("The preset that fills").first.wait_for(timeout=120_000)
        with page.expect_response(lambda answer: "create_flow_run" in answer.url, timeout=120_000) as answer:
            page.get_by_role("button", name="Submit").last.click()
        given = answer.value.json()["parameters"]
        browser.close()
    for preset in ("miniature", "musicgen-melody"):
        told = asked(client, own, {**given, "recipe": given["recipe"] | {"preset": preset}})
        assert told.recipe == Recipe(preset=preset), given
        assert told.settings.model_dump(exclude_unset=True) == {"store": "ours"}, given
