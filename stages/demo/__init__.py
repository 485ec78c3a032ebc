"""The demo corpus: synthesised recordings on disk with metadata as people write it, and the truth about each.

`demo/studio/` has a folder for each of some artists, with their pieces as FLAC and JSON sidecars in AudioCraft's form.
`demo/radio/` has the pieces of the other artists as Ogg Vorbis and WAV, with one `metadata.csv` in the AudioFolder
form. Nothing but the corpus is under `demo/`, which is where `ingest` looks if no source is given. Stems are not
stored: they can be made again from a piece's seed and index."""

from collections.abc import Callable

from schemas.tables import PIECES
from stages.demo.config import Config
from stages.pipeline.contract import Context, ReduceResult

__all__ = ["READS", "VERSION", "WRITES", "Config", "reduce"]

READS, WRITES, VERSION = (), PIECES, 6

FOLDER = "demo"
"""The corpus' folder in the store."""


def reduce(config: Config, context: Context) -> ReduceResult:
    """Compose, play and write the corpus, and return a row of `pieces` for each piece."""
    from stages.demo.corpus import write_corpus

    context.progress.start("playing the demo corpus", config.pieces, "pieces")
    with context.store.new_folder(FOLDER) as folder:
        rows = write_corpus(config.seed, config.pieces, config.sample_rate, folder, _count_pieces(context))
    return ReduceResult([row | {"uri": context.store.location(f"{FOLDER}/{row['uri']}")} for row in rows])


def _count_pieces(context: Context) -> Callable[[], None]:
    """Return a function that is called after each piece."""

    def advance() -> None:
        context.check_stopped()
        context.progress.advance()

    return advance
