"""`segue finetune MODEL`: fine-tune a published model on a small collection, in one command.

It is a short form of `segue run` with a recipe that follows from the checkpoint: its own architecture, its codec,
low-rank updates instead of all weights, and as many steps as some hours of music allow. Recordings are ingested first,
so that what the model will be taught is printed before anything slow begins.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.foreground import run_and_show
from flows.commands.generate import (
    PRESET,
    DryRunOption,
    ModelArgument,
    TextEncoderOption,
    explaining_missing_weights,
    model_lines,
    model_reference,
    recipe_of_checkpoint,
)
from flows.commands.options import (
    RunOptions,
    SetOption,
    SourceOption,
    StoreOption,
    UsageError,
    open_store,
    parse_run_options,
    place_of_store,
)
from flows.console import tell, typed_place
from flows.recipes.merging import merge
from flows.recipes.presets import Difference

if TYPE_CHECKING:
    from schemas import Store, WeightsRef
    from schemas.tables import Row
    from schemas.weights import WeightsLibrary
    from stages.checkpoints.facts import ModelDescription
    from stages.pipeline.pipeline import Pipeline

SMALL_DATA: Difference = {
    # All tracks of one artist would be in the same split, so a share of the tracks is held out instead.
    "ingest": {"valid": 0.0, "test": 0.0},
    "train": {
        # Only the updates are learned, so that their file alone is the difference to the model.
        "lora": {"conditioners": False},
        "optimization": {
            # About twenty passes over a hundred tracks of four minutes.
            "steps": 2000,
            # For low-rank updates of MusicGen (github.com/ylacombe/musicgen-dreamboothing).
            "learning_rate": 2e-4,
            "warmup_steps": 50,
            "weight_decay": 0.0,
        },
        "batch_size": 8,
        "micro_batch_size": 2,
        "condition_dropout": 0.1,
        # There are too few examples to drop words: each would not be met often enough.
        "captions": {"drop_words": 0.0, "drop_description": 0.0},
        "held_out_windows": 64,
        "log_every": 10,
        "early_stop": {},
        "samples": {},
        "save_every": 100,
    },
}
"""The recipe's differences between learning from a small collection and a model's first training."""

_MODEL = "segue finetune {}"
NAMED_BY = {"": _MODEL, "train.initial": _MODEL, "tokenize.codec": _MODEL, "train.text_encoder": "--text-encoder {}"}
"""Weights that fine-tuning needs, by field, and how a command line names them; the model itself is looked for first."""

app = typer.Typer()

RankOption = Annotated[int | None, typer.Option(min=1, help="Rank of the updates; by default 8.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="The name by which requests refer to the updates, as in `noir:0.8`.")
]
GoOnOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="FOLDER", help="Updates in peft's form to continue from: a folder or hub id."),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", metavar="WORDS", help="A text for samples during training; by default those of held-out tracks."
    ),
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Maximum number of steps; by default 2,000.")]
PrecisionOption = Annotated[
    str | None, typer.Option(help="Precision of matrix products: bfloat16 (the default) or float32.")
]


@app.command()
def finetune(
    model: ModelArgument,
    source: SourceOption = None,
    store: StoreOption = None,
    name: NameOption = None,
    adapter: GoOnOption = None,
    prompt: PromptOption = None,
    rank: RankOption = None,
    steps: StepsOption = None,
    precision: PrecisionOption = None,
    text_encoder: TextEncoderOption = None,
    dry_run: DryRunOption = False,
    set_: SetOption = None,
) -> int:
    """Fine-tune a checkpoint on a collection with low-rank updates: plan, training, samples and page."""
    tell("segue: planning …")  # before slow modules are imported
    from flows.runs.output import be_quiet

    be_quiet()  # before anything imports transformers, which looks only once
    if not source:
        raise UsageError("expected recordings to learn from, --source FOLDER, got none")
    store = place_of_store(store)
    opened = open_store(store)
    settings = {"store": store, "source": source if len(source) > 1 else source[0]}
    asked: Difference = {"optimization": {}}
    asked |= {} if rank is None else {"lora": {"rank": rank, "alpha": 2 * rank}}
    asked |= {field: value for field, value in (("adapter", name), ("initial_adapter", adapter)) if value is not None}
    asked |= {"samples": {"texts": prompt}} if prompt else {}
    asked["optimization"] |= {} if steps is None else {"steps": steps, "warmup_steps": min(50, steps // 10)}
    asked["optimization"] |= {} if precision is None else {"precision": precision}
    with explaining_missing_weights(NAMED_BY):
        difference, stages = recipe_of_tuning(model, opened, text_encoder)
        difference = merge(difference, {"train": asked})

        def parse(*names: str) -> RunOptions:
            return parse_run_options(names, PRESET, settings, set_ or [], recipe_difference=difference)

        options = parse(*stages)
        pipeline = options.plan.pipeline()
        pipeline.fetch(stages)  # before anything is computed
        _tell(tuning_lines(pipeline))
        if dry_run:
            parse("ingest").plan.stage_plans()  # looks for the recordings, and raises an error if there are none
        else:
            run_and_show(parse("ingest"))
        data = list(data_lines(options.plan.pipeline()))
        _tell(iter(data))
        if dry_run:
            return 0
        run_and_show(options, known_lines=data)
    _tell(next_lines(options))
    return 0


def recipe_of_tuning(model: str, store: "Store", text_encoder: str | None = None) -> tuple[Difference, list[str]]:
    """Return the recipe's difference for fine-tuning a checkpoint, and the stages that its training needs, in order.

    Raises:
        MissingWeights: the checkpoint, or something that it needs, cannot be had.
        ValueError: it is not a checkpoint.
    """
    from schemas import Settings, WeightsRef
    from schemas.weights import WeightsLibrary
    from stages.checkpoints.loading import describe_model

    library = WeightsLibrary(store, offline=Settings().offline)
    encoder = WeightsRef(text_encoder) if text_encoder else None
    reference = WeightsRef(model_reference(model, store))
    own = merge({"tokenize": {"codec": str(reference)}}, recipe_of_checkpoint(str(reference), store))
    if reference.checkpoint is not None:
        reference = WeightsRef.to_checkpoint(own["generate"]["checkpoint"])
    described = describe_model(_fetch_model(reference, library), library.get, encoder)
    difference = merge(SMALL_DATA, _recipe_of_model(described))
    difference = merge(difference, {name: value for name, value in own.items() if name != "generate"})
    learning = {"initial": str(reference), "text_encoder": text_encoder}
    return merge(difference, {"train": learning}), _stages_of_tuning(described)


def _fetch_model(reference: "WeightsRef", library: "WeightsLibrary") -> Path:
    """Return the local folder of a checkpoint.

    Raises:
        WeightsNotFetched: it cannot be had. If it may read melodies, the separator that it needs for them is also named
            if that is missing.
    """
    from schemas.weights import WeightsNotFetched
    from stages.networks.published import HTDEMUCS, MELODY_MODELS, TEXT_MODELS

    try:
        return library.get(reference).path
    except WeightsNotFetched:
        if reference.hub_model in TEXT_MODELS:
            raise
    named, separator = {reference: "train.initial"}, {HTDEMUCS: "chroma.separator"}
    try:
        if reference.hub_model in MELODY_MODELS:
            library.fetch_all(named | separator)
        else:
            library.fetch_all(named, separator)
    except WeightsNotFetched as error:
        raise error.of_fields(named | separator) from error
    return library.get(reference).path


def _recipe_of_model(described: "ModelDescription") -> Difference:
    """Return the recipe's difference that fits a given model: its architecture, windows, codes and melody analysis."""
    model = described.model
    difference: Difference = {
        "train": {"model": model.model_dump(mode="json"), "segment_seconds": described.segment_seconds},
        "tokenize": {"codebooks": model.language_model.codebooks},
    }
    if described.channels == 2:
        difference["tokenize"]["channels"] = "stereo"
    if model.chroma is not None:
        difference["chroma"] = model.chroma.analysis.model_dump(mode="json")
    return difference


def _stages_of_tuning(described: "ModelDescription") -> list[str]:
    """Return the stages that make what the training of a model reads, with training itself and the page."""
    from flows.recipes.recipe import STAGES
    from stages.train.config import CONDITION_TABLES

    wanted = {CONDITION_TABLES[name] for name in described.model.conditions if name in CONDITION_TABLES}
    wanted |= {table for module in STAGES.values() if module.WRITES in wanted for table in module.READS}
    made = {name for name, module in STAGES.items() if module.WRITES in wanted} - {"train"}
    return [name for name in STAGES if name in made | {"ingest", "tokenize", "train", "report"}]


def tuning_lines(pipeline: "Pipeline") -> Iterator[str]:
    """Yield which model is to be fine-tuned, and how."""
    from stages.train.config import Config

    config = pipeline.stages["train"].config
    assert isinstance(config, Config)
    assert config.initial is not None
    yield from model_lines(config.initial, pipeline.library.get(config.initial).path)
    how = "all weights"
    if config.lora is not None:
        how = f"updates of rank {config.lora.rank} of its {' and '.join(config.lora.targets)} layers"
    optimization = config.optimization
    yield (
        f"training: {how}, {optimization.steps:,} steps of {config.batch_size} windows of {config.segment_seconds:g} s "
        f"at most, {optimization.precision}"
    )


def data_lines(pipeline: "Pipeline") -> Iterator[str]:
    """Yield what the model will be taught, in the words of `segue plan train`. Before any recordings are ingested,
    yield one line that says when this will be known."""
    from flows.runs.reasons import remark_line
    from stages.train import Config, preview

    ingest = pipeline.stages["ingest"]
    if not pipeline.store.shards(ingest.module.WRITES, pipeline.context(ingest.name, run_id="plan").fingerprint):
        yield "data: known once the recordings are ingested"
        return
    config = pipeline.stages["train"].config
    assert isinstance(config, Config)
    data = preview(config, pipeline.context("train", run_id="plan"))
    yield from data.lines
    for remark in data.remarks:
        yield remark_line("train", remark)


def next_lines(options: RunOptions) -> Iterator[str]:
    """Yield where the page and the updates are, and what to do with them."""
    from stages.checkpoints.adapter_files import ADAPTER
    from stages.report import PAGE

    pipeline = options.plan.pipeline()
    store = pipeline.store
    row: Mapping[str, Any] | None = pipeline.library.checkpoint(pipeline.context("train", run_id="plan").identity)
    yield f"segue: the page is {store.location(PAGE)}"
    if row is None:
        return
    checkpoint, place = f"checkpoint:{row['checkpoint_id']}", f"--store {typed_place(store.location())}"
    yield f'segue: next, hear it: `segue generate {checkpoint} --text "…" --seconds 12 {place}`'
    if row["adapter"] is not None:
        folder = store.location(f"{row['path']}/{ADAPTER}")
        yield f"segue: the updates alone are {folder} (peft's form); requests call them `{row['adapter']}:1`"
    yield f"segue: to use the model elsewhere: `segue convert {checkpoint} ./tuned --to hf {place}` (or audiocraft)"
    if row["adapter"] is not None:
        yield f"segue: or only the updates, for transformers: `segue convert {checkpoint} ./updates --to peft {place}`"


def export_updates(source: str, folder: Path, destination: Path, library: "WeightsLibrary") -> str:
    """Write the updates of a store's checkpoint in a form for peft and transformers, and return a line that says so.

    Args:
        source: the checkpoint's name.
        folder: the checkpoint's folder.
        destination: a local folder that does not exist or is empty.

    Raises:
        ValueError: it is not a checkpoint of a store, or it learned more than its updates.
        MissingWeights: weights that it names cannot be had.
    """
    from schemas import WeightsRef
    from stages.checkpoints.adapter_export import export_adapter

    row = library.checkpoint(WeightsRef(source).checkpoint or source)
    if row is None or row["adapter"] is None:
        got = "a folder" if row is None else "one that trained all weights, or conditioners too"
        raise ValueError(f"expected checkpoint:ID of a store, trained as low-rank updates alone, got {got}")
    base = _published_base(row, library)
    count = export_adapter(folder, destination, library.get, base)
    of = f"transformers' MusicGen ({base})" if base else "the MusicGen of transformers that training started from"
    return f"the updates of {source} are written in peft's form to {destination}: {count:,} parameters, for {of}"


def _published_base(row: "Row", library: "WeightsLibrary") -> str | None:
    """Return the hub id of the model that a checkpoint was fine-tuned from; None if that is not from the hub."""
    from schemas.storage.versions import Versions

    versions = Versions(library.store)
    recipe = versions.all.get(row["recipe"])
    initial = None if recipe is None else versions.reference((recipe.config.get("initial") or {}).get("weights"))
    return None if initial is None else initial.hub_model


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        tell(line)
