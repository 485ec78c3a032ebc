"""Reading many recordings at once, in processes of their own, with their results in order."""

import os
from collections.abc import Callable, Iterator, Sequence

from stages.ingest.listing import File
from stages.ingest.probe import Examined, Limits, Refused, examine
from stages.pipeline.workers.order import in_order
from stages.pipeline.workers.pool import Call, Died, Pool, TookTooLong

FILES_PER_WORKER = 16
"""A further worker is worth its start, a third of a second of a processor, from so many files on."""

WAITING = 4
"""Files in hand for each worker: it bounds memory, and keeps the others busy while one reads a long file."""

BASE_SECONDS, SECONDS_PER_MIB = 300.0, 4.0
"""How long a worker may take for a file: a hundred times what is usual, so that only a decoder that hangs meets it."""

MODULES = ("mutagen", "soxr")
"""What a worker imports before its first file; PyAV only with the first that libsndfile does not read."""


def examine_all(
    files: Sequence[File], limits: Limits, workers: int, check_stopped: Callable[[], None]
) -> Iterator[tuple[File, Examined | Refused]]:
    """Each file with what came of it, in the order given.

    Args:
        workers: processes to read with; 0 takes one for each core, 1 reads in this process, where a decoder that
            crashes takes the run with it.
        check_stopped: asked between files; what it raises ends the reading.

    Raises:
        RuntimeError: the workers cannot be started.
    """
    count = min(workers or os.cpu_count() or 1, -(-len(files) // FILES_PER_WORKER))
    if workers == 1 or any(file.uri.startswith("memory://") for file in files):
        for file in files:
            check_stopped()
            yield file, examine(file.uri, limits)
        return
    pool = Pool(MODULES)
    try:
        yield from in_order(lambda file: _examine(pool, file, limits), files, count, WAITING * count, check_stopped)
    finally:
        pool.close()


def _examine(pool: Pool, file: File, limits: Limits) -> Examined | Refused:
    """Read one file in a worker."""
    try:
        return pool.do(Call(examine, (file.uri, limits)), BASE_SECONDS + SECONDS_PER_MIB * file.size / 2**20)
    except TookTooLong as limit:
        return Refused("timeout", f"expected a file that is read in {limit}, got one that the decoder did not finish")
    except Died as end:
        return Refused("crash", f"expected a file that can be decoded, got one that {end}")
