"""`segue generate MODEL`: a catalog from a published model, in one command.

It is a short form of `segue run` with a recipe that follows from the checkpoint: the codec that decodes its codes and,
for a model that a store trained, what makes its conditions. A run could do everything that is done here.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.export import check_destination, deliver_order
from flows.commands.foreground import run_and_tell
from flows.commands.options import (
    AcceptRefusedOption,
    DropOption,
    RequestsOption,
    RunOptions,
    SetOption,
    StoreOption,
    UsageError,
    lines_or_share,
    open_store,
    parse_run_options,
    place_of_store,
)
from flows.console import tell
from flows.recipes.merging import merge
from flows.recipes.presets import Difference

if TYPE_CHECKING:
    from schemas import Store
    from schemas.tables import Row
    from stages.pipeline.pipeline import Pipeline

PRESET = "musicgen-small"
"""The preset that fills in the rest of the recipe: MusicGen's published values, and nothing of the miniature."""

ORDER_STAGES = ("requests", "generate", "gate", "decode", "evaluate", "report")
"""The stages that make and show an order, as far as they exist."""

MEASURING_STAGES = ("watermark",)
"""Stages that also measure the clips of an order, if its recipe asks for what they measure."""

ORDER = "order.jsonl"
"""Where a store keeps the requests that were ordered by `--text`, one a line."""

NAMED_BY = {"generate.checkpoint": "segue generate {}", "generate.text_encoder": "--text-encoder {}"}
"""Weights that an order needs, by field, and how a command line names them."""

FORMS = {"hf": "Hugging Face's", "audiocraft": "AudioCraft's", "segue": "this project's"}

app = typer.Typer()

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="The checkpoint: a folder, a hub id, or checkpoint:ID for one of the store."),
]
TextOption = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="WORDS", help="Description of a clip, added to those given before. Repeatable."),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME[:STRENGTH]",
        help="An adapter for --text: one of the store, or NAME=FOLDER[:STRENGTH] in peft's form. Repeatable.",
    ),
]
SecondsOption = Annotated[float | None, typer.Option(help="Length in seconds of clips that do not say their own.")]
TakesOption = Annotated[int | None, typer.Option(help="Number of clips for requests that do not say it.")]
TextEncoderOption = Annotated[
    str | None,
    typer.Option(help="The T5 of an AudioCraft checkpoint, which does not contain it: a folder or a hub id."),
]
ExportOption = Annotated[
    str | None,
    typer.Option("--export", metavar="DEST", help="Deliver the clips there, as `segue export` does."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be made, and make nothing.")]


@app.command()
def generate(
    model: ModelArgument,
    text: TextOption = None,
    adapter: AdapterOption = None,
    requests: RequestsOption = None,
    store: StoreOption = None,
    seconds: SecondsOption = None,
    takes: TakesOption = None,
    text_encoder: TextEncoderOption = None,
    accept_refused: AcceptRefusedOption = None,
    drop: DropOption = False,
    export: ExportOption = None,
    dry_run: DryRunOption = False,
    set_: SetOption = None,
) -> int:
    """Generate the clips of an order from a checkpoint: plan, clips, scores and page."""
    tell("segue: planning …")  # before slow modules are imported
    from flows.runs.codecs import disagreement_lines
    from flows.runs.estimates import estimate
    from flows.runs.orders import notice_lines, order_lines, stopping_lines
    from flows.runs.output import be_quiet

    be_quiet()  # before anything imports transformers, which looks only once
    if not text and requests is None:
        raise UsageError('expected an order, --requests FILE or --text "…", got neither')
    if text and requests is not None:
        raise UsageError("expected one order, got --requests and --text: write the descriptions into the file")
    if text and not all(description.strip() for description in text):
        raise UsageError("expected a description after --text, got none (a shell variable that is not set?)")
    if adapter and not text:
        raise UsageError('expected --text "…" with --adapter, got none: a requests file has a column `adapters`')
    store = place_of_store(store)
    opened = open_store(store)
    if export is not None:
        check_destination(opened, export)
    options: dict[str, Any] = {"store": store, "requests": requests}
    options |= {"accept_refused": lines_or_share(accept_refused), "drop_requests": drop or None}
    defaults = {name: value for name, value in (("seconds", seconds), ("takes", takes)) if value is not None}
    adapters, folders = _read_adapters(adapter or [])
    with tempfile.TemporaryDirectory(prefix="segue-order-") as folder, explaining_missing_weights(NAMED_BY):
        asked = {"requests": defaults | ({"adapters": folders} if folders else {})}
        difference = merge(recipe_of_checkpoint(model, opened, text_encoder), asked)
        if text:
            also = defaults | ({"adapters": adapters} if adapters else {})
            order = {f"{description} {adapters}": {"description": description, **also} for description in text}
            options["requests"] = _write_order(opened, order, Path(folder))

        def parse() -> RunOptions:
            settings = {name: value for name, value in options.items() if value is not None}
            return parse_run_options(
                *(stages_of_order(), PRESET, settings, set_ or []),
                recipe_difference=difference,
                also=MEASURING_STAGES,
            )

        parsed = parse()
        pipeline = parsed.plan.pipeline()
        _check_seconds(seconds, pipeline)
        plans = parsed.plan.stage_plans(pipeline)
        for line in (*order_model_lines(pipeline), *order_lines(pipeline, plans, estimate(pipeline, plans))):
            tell(line)
        if not dry_run:
            if text and (refused := list(stopping_lines(plans))):
                raise UsageError(f"nothing was ordered: {'; '.join(refused)}")
            if text:
                options["requests"] = _save_order(opened, Path(folder))
                parsed = parse()
            status = run_and_tell(parsed)
            return status if status or export is None else deliver_order(opened, export)
        reasons = (*stopping_lines(plans), *disagreement_lines(pipeline, parsed.plan.names))
        stopping = [f"segue: a run would stop: {line}" for line in reasons]
        for line in (*notice_lines(plans), *stopping):
            tell(line)
        return 1 if stopping else 0


def _check_seconds(seconds: float | None, pipeline: "Pipeline") -> None:
    """Raise UsageError if the clips asked for are longer than any clip may be."""
    from stages.requests import Config

    config = pipeline.stages["requests"].config
    assert isinstance(config, Config)
    if seconds is not None and seconds > config.max_seconds:
        raise UsageError(
            f"expected --seconds of at most {config.max_seconds:g}, got {seconds:g}: a longer clip "
            f"also needs --set requests.max_seconds={seconds:g}"
        )


def recipe_of_checkpoint(model: str, store: "Store", text_encoder: str | None = None) -> Difference:
    """Return the recipe's difference for generating with a checkpoint. A checkpoint from elsewhere contains or names
    all that it needs; for one that the store trained, the store knows what made its codes and conditions.

    Raises:
        UsageError: it is not the name of a checkpoint.
        MissingWeights: the store has no such checkpoint, or it learned from a recording that was taken down.
    """
    from schemas import WeightsRef

    given: dict[str, Any] = {} if text_encoder is None else {"text_encoder": text_encoder}
    reference = model_reference(model, store)
    name = WeightsRef(reference).checkpoint
    if name is not None:
        return merge(_recipe_of_own(name, store), {"generate": given})
    # The version of a store's codes depends on the codec, even if an order makes no codes of recordings.
    return {"generate": {"checkpoint": reference, **given}, "tokenize": {"codec": reference}}


def model_reference(model: str, store: "Store") -> str:
    """Return the reference to a checkpoint that a command line names: a folder, a hub id, a URL, `checkpoint:ID`, or
    the id or kind of a checkpoint that the store trained.

    Raises:
        UsageError: it is none of these.
    """
    from schemas import WeightsRef
    from schemas.weights import WeightsLibrary

    if Path(model).expanduser().exists():
        # A folder's name of one word is not taken for the id of a checkpoint.
        return model if set(model) & set(":/.") else f"./{model}"
    if set(model) & set(":/"):
        return model
    if WeightsLibrary(store).checkpoint(model) is not None:
        return WeightsRef.to_checkpoint(model)
    in_store = "" if store.absence() else f", and no such checkpoint in {store.location()}"
    raise UsageError(
        "expected a model (a folder, a hub id OWNER/NAME, a URL, or checkpoint:ID of the store), got "
        f"{model!r}: there is no such folder{_likely_folder(model)}{in_store}"
    )


def _likely_folder(name: str) -> str:
    """Return a hint at the folder here with the most similar name; empty if no name is similar."""
    near = get_close_matches(name, [path.name for path in Path.cwd().iterdir() if path.is_dir()], 1)
    return f" (did you mean ./{near[0]}?)" if near else ""


def _recipe_of_own(name: str, store: "Store") -> Difference:
    """Return the recipe's difference for a checkpoint that the store trained, given its kind or id."""
    from schemas.storage.versions import Versions
    from schemas.weights import MissingWeights, WeightsLibrary
    from stages.checkpoints.facts import read_facts

    row = WeightsLibrary(store).checkpoint(name)
    if row is None:
        raise MissingWeights(f"expected a trained checkpoint {name!r} in {store.url}, got none: give --store")
    facts, versions = read_facts(store.local(row["path"])), Versions(store)
    difference: Difference = {"generate": {"checkpoint": str(row["checkpoint_id"])}}
    if facts.codec is not None and facts.codec.reference is not None:
        difference["tokenize"] = {"codec": facts.codec.reference}
    for table, fields in (("chroma", ("separator",)), ("clap", ("model", "vocabulary"))):
        version = versions.all.get(facts.versions.get(table, ""))
        made_with: Mapping[str, Any] = {} if version is None else version.config
        # Weights that nothing is known about are set to None, so that they are not looked for.
        difference[table] = {field: versions.reference((made_with.get(field) or {}).get("weights")) for field in fields}
    return difference


def _read_adapters(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the adapters that a command line names, in the form of a request, and the folders among them by name.

    Raises:
        UsageError: an adapter cannot be parsed.
    """
    from stages.checkpoints.adapter_files import parse_adapters

    folders, items = {}, []
    for word in words:
        name, given, place = word.partition("=")
        if given:
            folder, _, strength = place.rpartition(":")
            if not folder:
                folder, strength = place, "1"
            folders[name.strip()], word = folder, f"{name}:{strength}"
        items.append(word)
    try:
        return ", ".join(map(str, parse_adapters(", ".join(items)))), folders
    except ValueError as error:
        raise UsageError(str(error)) from error


def stages_of_order() -> list[str]:
    """Return the names of the stages that make an order and show it."""
    from flows.recipes.recipe import STAGES

    return [name for name in ORDER_STAGES if name in STAGES]


def _write_order(store: "Store", order: "Mapping[str, Row]", folder: Path) -> str:
    """Write requests, with those that were ordered by `--text` before, to a file in a folder, and return its path.

    Args:
        order: requests by their description and adapters.
    """
    known = store.read_bytes(ORDER).decode().splitlines() if store.exists(ORDER) else []
    lines_before = [json.loads(line) for line in known]
    before = {f"{line['description']} {line.get('adapters', '')}": line for line in lines_before}
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in (before | dict(order)).values()]
    (folder / ORDER).write_text("".join(lines), encoding="utf-8")
    return str(folder / ORDER)


def _save_order(store: "Store", folder: Path) -> str:
    """Copy the order that was written to a folder into the store, and return its path or URL there."""
    store.check_writable()
    store.write_bytes(ORDER, (folder / ORDER).read_bytes())
    return store.location(ORDER)


def order_model_lines(pipeline: "Pipeline") -> Iterator[str]:
    """Yield a description of the checkpoint that a plan generates with, and the memory that its weights take."""
    from stages.generate import Config

    config = pipeline.stages["generate"].config
    assert isinstance(config, Config)
    yield from model_lines(config.checkpoint, pipeline.library.get(config.checkpoint).path)


def model_lines(checkpoint: str, folder: Path) -> Iterator[str]:
    """Yield a description of a checkpoint in a local folder, and the memory that its weights take.

    Args:
        checkpoint: the name to print.
    """
    from flows.runs.estimates import amount
    from stages.checkpoints.loading import count_weights, detect_form, read_condition_names
    from stages.pipeline.machine import free_memory

    reads = ", ".join(read_condition_names(folder)) or "nothing"
    yield f"model: {checkpoint}, in {FORMS[detect_form(folder)]} form, reads {reads}"
    weights, free = amount(4 * count_weights(folder)), amount(free_memory("cpu"))
    yield f"memory: its weights take {weights} as float32, {free} are free"


@contextmanager
def explaining_missing_weights(options: Mapping[str, str]) -> Iterator[None]:
    """If weights are missing and cannot be downloaded now, say how to get them here and how to name them.

    Args:
        options: field of a recipe -> how a command line names it, with {} for the folder; `--set` for other fields.

    Raises:
        MissingWeights: weights are missing; the message is one line.
    """
    from schemas.weights import MissingWeights, WeightsNotFetched

    try:
        yield
    except WeightsNotFetched as error:
        cures, more = (
            "; ".join(_cure(reference, error.fields.get(reference, ""), options) for reference in references)
            for references in (error.references, error.perhaps)
        )
        message = f"missing weights {', '.join(error.references)} ({error.why}): {cures}"
        if more:
            message += f". Depending on its conditions it may also need {', '.join(error.perhaps)}: {more}"
        raise MissingWeights(message) from error


def _cure(reference: str, field: str, options: Mapping[str, str]) -> str:
    """Return how to get weights onto a machine without a network."""
    from schemas import WeightsRef

    if WeightsRef(reference).demucs is not None:
        return f"run this once with a network, or go without a separator by --set {field}=null"
    if "://" in reference and not reference.startswith("hf://"):
        put = options.get(field, f"--set {field}={{}}").format("FOLDER")
        return f"check that it exists and can be read, or copy it to this machine and name the copy: {put}"
    name, _, revision = reference.removeprefix("hf://").partition("@")
    parts = name.split("/")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    place, kind = f"./{parts[-1]}", "file" if file else "folder"
    words = ["hf download", repository, *([file] if file else []), *(["--revision", revision] if revision else [])]
    fetch = f"`{' '.join(words)} --local-dir {'.' if file else place}`"
    put = options.get(field, f"--set {field}={{}}").format(place)
    return f"download it on a machine with a network by {fetch}, copy the {kind} here and name it: {put}"
