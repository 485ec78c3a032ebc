"""A Prefect flow for each stage, so that one can be rerun by itself; each runs as it does within the catalog."""

from prefect import Flow, flow

from flows.catalog import run_recipe
from flows.recipe import STAGES, Recipe
from schemas import Settings


def _flow_of(stage: str) -> Flow:
    def run(recipe: Recipe = Recipe(), settings: Settings = Settings()) -> None:
        run_recipe(recipe, settings, [stage])

    run.__doc__ = f"{STAGES[stage].__doc__}\n\nArgs:\n    recipe: what is made.\n    settings: where and by what means."
    name = f"{stage} {{recipe.preset}} into {{settings.store}}"
    return flow(name=stage, flow_run_name=name, persist_result=False)(run)


demo = _flow_of("demo")
ingest = _flow_of("ingest")
train_codec = _flow_of("train_codec")
demo_models = _flow_of("demo_models")
chroma = _flow_of("chroma")
clap = _flow_of("clap")
tokenize = _flow_of("tokenize")
train = _flow_of("train")
requests = _flow_of("requests")
generate = _flow_of("generate")
decode = _flow_of("decode")
evaluate = _flow_of("evaluate")
report = _flow_of("report")
