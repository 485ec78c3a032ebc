"""`segue convert`: where the checkpoint of a command line is, and one line on what was written."""

import logging
import tempfile
from pathlib import Path
from typing import Literal

from schemas import Settings, Store, WeightsRef
from schemas.weights import WeightsLibrary


def convert_checkpoint(
    source: str, destination: Path, form: Literal["hf", "audiocraft", "segue"], codec: str | None, store: str | None
) -> str:
    """Convert, and tell what was written in one line.

    Args:
        source: a local folder, or any other name of weights.
        codec: the name of a codec; None takes the one that the checkpoint has or names.
        store: where `checkpoint:…` is and first uses of names are held to; None takes the default store if it is there.

    Raises:
        ValueError: the source cannot be had or is no checkpoint that can be converted, or `destination` is taken.
    """
    from stages.checkpoints.converting import convert_checkpoint  # with torch, which `segue --help` does without

    settings = Settings()
    place = Store(store or settings.store)
    if (store is not None or WeightsRef(source).checkpoint is not None) and not place.filesystem.exists(place.root):
        raise ValueError(f"expected a store at {place.url}, got nothing there: give --store")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what it tried in vain is told in one line
    with tempfile.TemporaryDirectory(prefix="segue-convert-") as nowhere:
        if not place.filesystem.exists(place.root):
            place = Store(nowhere)
        library = WeightsLibrary(place, offline=settings.offline)
        local = Path(source).expanduser()
        # A folder of one's own may change between two conversions; names are held to what they first meant.
        folder = local if local.exists() else library.get(WeightsRef(source)).path
        made = convert_checkpoint(folder, destination, form, library.get, WeightsRef(codec) if codec else None)
    return (
        f"{source} ({made.source}) is written as {form} to {destination}: {made.parameters:,} parameters, with "
        f"{made.codec}"
    )
