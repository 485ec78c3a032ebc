"""`segue convert`: write a checkpoint in the form of another project."""

import logging
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands import finetune
from flows.commands.options import StoreOption, UsageError, open_store, place_of_store
from flows.console import say

app = typer.Typer()

CheckpointForm = Literal["hf", "audiocraft", "segue", "peft"]
"""The forms of checkpoints, as `segue convert --to` names them; `peft` has only the low-rank updates."""

Dtype = Literal["float32", "float16", "bfloat16"]

DtypeOption = Annotated[
    Dtype | None, typer.Option(help="Round the weights to this type; by default they are kept as they are.")
]


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The checkpoint: a folder, a hub id or checkpoint:ID.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write: new or empty.")],
    to: Annotated[
        CheckpointForm, typer.Option(help="Hugging Face's MusicGen, AudioCraft, this project's own, or peft's.")
    ],
    codec: Annotated[
        str | None, typer.Option(help="The codec, if the checkpoint neither contains nor names one.")
    ] = None,
    dtype: DtypeOption = None,
    store: StoreOption = None,
) -> int:
    """Convert a checkpoint to another form, with everything that it needs."""
    from flows.runs.failures import is_fault
    from flows.runs.output import be_quiet

    be_quiet()
    try:
        say(_convert(source, destination, to, codec, dtype, store))
    except ValueError as error:
        if is_fault(error):
            raise
        raise UsageError(str(error)) from error
    return 0


def _convert(
    source: str, destination: Path, form: CheckpointForm, codec: str | None, dtype: Dtype | None, store: str | None
) -> str:
    """Convert a checkpoint and return a line about what was written.

    Args:
        source: a local folder, or any other reference to weights.
        codec: a reference to the codec; None takes the one that the checkpoint contains or names.
        dtype: the type that weights are rounded to; None keeps that of the source.
        store: where `checkpoint:…` is, and where the first use of names is recorded; None takes the recipe
            file's or the default store, if it exists.

    Raises:
        ValueError: the source cannot be had or converted, or `destination` exists and is not empty.
    """
    from schemas import Settings, Store, WeightsRef
    from schemas.weights import WeightsLibrary
    from stages.checkpoints.converting import convert_checkpoint  # imports torch, which a help does not need

    settings = Settings()
    opened = open_store(place_of_store(store))
    absence = opened.absence()
    if (store is not None or WeightsRef(source).checkpoint is not None) and absence:
        raise ValueError(f"expected a store at {opened.url}, got {absence}: give --store")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its failed attempts are reported in one line below
    with tempfile.TemporaryDirectory(prefix="segue-convert-") as nowhere:
        library = WeightsLibrary(Store(nowhere) if absence else opened, offline=settings.offline)
        local = Path(source).expanduser()
        # A user's own folder may change between two conversions; names must keep their first meaning.
        folder = local if local.exists() else library.get(WeightsRef(source)).path
        if form == "peft":
            if codec or dtype:
                raise ValueError(
                    "expected neither --codec nor --dtype with --to peft, which has no codec and rounds nothing"
                )
            return finetune.export_updates(source, folder, destination, library)
        reference = WeightsRef(codec) if codec else None
        written = convert_checkpoint(folder, destination, form, library.get, reference, dtype)
    return (
        f"{source} ({written.source}) is written as {form} to {destination}: {written.parameters:,} parameters as "
        f"{written.stored}, with {written.codec}"
    )
