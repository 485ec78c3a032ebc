"""Readers in a loop while a shard is replaced: each sees the old or the new one, never a mix, and never an error."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

import schemas.storage.file_store
from schemas import Store
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CHROMA
from tests.faults.forms import long_form
from tests.faults.s3_proxy import S3FileSystem, s3_behind_proxy
from tests.worlds.patience import PATIENCE_SECONDS

SHARDS, ROWS = ("0", "1"), 200
"""Shards of the table and rows of a shard; each row has the number of the turn in which it was written."""
PAUSES = {"disk": 0.2, "s3": 20.0}
"""Pause between two turns, seconds: a stage publishes once a run, and a query of S3 takes seconds."""


SECONDS = {"short": 2.0, "long": 120.0}
"""Reading time of a form, seconds."""


def rows_of(turn: int, shard: str) -> pa.Table:
    """A shard whose rows all contain the number of the turn; the size differs from turn to turn."""
    count = ROWS + turn % 7
    vectors = [[[float(turn)] * 12] * 5] * count
    names = [f"{shard} {number:04}" for number in range(count)]
    columns = {"track_id": names, "frame_rate": [float(turn)] * count, "chroma": vectors}
    return pa.table(columns, schema=CHROMA.schema)


def publish_turn(store: Store, turn: int) -> None:
    """Replace every shard, as a stage does after its checks passed."""
    drafts = Drafts(store, CHROMA, "v")
    for shard in SHARDS:
        drafts.write(shard, rows_of(turn, shard), input_key=str(turn))
    drafts.publish()
    Publications(store).publish(str(turn), "chroma", {CHROMA.name: ("v", drafts.manifest())})


def write_turns(url: str, pause: float) -> None:
    """Replace the shards forever, in a writing process."""
    store, turn = Store(url), 1
    while True:
        publish_turn(store, turn)
        turn += 1
        time.sleep(pause)


def write_turns_in_place(url: str, pause: float) -> None:
    """Plant a bug: a shard is overwritten in place while it is read."""
    schemas.storage.file_store.move_file = overwrite
    write_turns(url, pause)


def overwrite(path: str, target: str) -> None:
    """Write a file's bytes over those of another file, half by half."""
    data = Path(path).read_bytes()
    with open(target, "wb") as file:
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            file.write(half)
            file.flush()
            time.sleep(0.05)
    os.remove(path)


def by_query(store: Store) -> tuple[int, set[float]]:
    """Read all shards by SQL."""
    turns = "list(DISTINCT frame_rate) || list(DISTINCT chroma[1][1])"
    row = query(store, f"SELECT count(*) AS n, {turns} AS t FROM chroma").to_pylist()[0]
    return row["n"] // len(SHARDS), set(row["t"])


def by_read(store: Store) -> tuple[int, set[float]]:
    """Read a shard as stages do."""
    rows = store.read(CHROMA, "v", SHARDS[:1])
    return rows.num_rows, set(rows.column("frame_rate").to_pylist())


Reader = Callable[[Store], tuple[int, set[float]]]
"""Returns the number of rows of a shard and the turns in which they were written."""


@contextmanager
def writing(url: str, pause: float, write: Callable[[str, float], None]) -> Iterator[None]:
    """Let another process replace the shards inside the block."""
    program = f"import sys; from tests.faults.test_readers import {write.__name__} as write; "
    program += "write(sys.argv[1], float(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", program, url, str(pause)])
    try:
        yield
        assert process.poll() is None, "the writer ended"
    finally:
        process.kill()
        process.wait()


def read_while_written(
    url: str, pause: float, seconds: float, read: Reader, write: Callable[[str, float], None] = write_turns
) -> tuple[int, list[str]]:
    """Return the number of turns seen, and what was wrong."""
    publish_turn(Store(url), 0)
    turns, wrong = set[float](), list[str]()
    with writing(url, pause, write):
        while len(Publications(Store(url)).sequences()) < 2:
            time.sleep(0.05)
        end = time.monotonic() + seconds
        latest = end + PATIENCE_SECONDS  # on a busy machine a query may take as long as several turns
        while time.monotonic() < end or (len(turns) < 2 and not wrong and time.monotonic() < latest):
            try:
                count, seen = read(Store(url))
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}"[:300])
                continue
            turns |= seen
            if len(seen) != 1 or count != ROWS + int(min(seen)) % 7:
                wrong.append(f"{count} rows of the turns {seen}")
    return len(turns), wrong


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("short", by_query),
        pytest.param("short", by_read, marks=pytest.mark.slow),
        pytest.param("long", by_query, marks=long_form),
        pytest.param("long", by_read, marks=long_form),
    ],
)
def test_a_reader_on_a_disk_sees_the_old_or_the_new_rows(form: str, read: Reader, tmp_path: Path) -> None:
    turns, wrong = read_while_written(str(tmp_path / "store"), PAUSES["disk"], SECONDS[form], read)
    assert wrong == []
    assert turns > 1


def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    _turns, wrong = read_while_written(str(tmp_path / "store"), 0.0, SECONDS["short"], by_read, write_turns_in_place)
    assert wrong


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("read", [by_query, by_read])
def test_a_reader_on_s3_sees_the_old_or_the_new_rows(read: Reader) -> None:
    with s3_behind_proxy():
        S3FileSystem().mkdir("readers")
        turns, wrong = read_while_written(f"s3://readers/{read.__name__}", PAUSES["s3"], SECONDS["long"], read)
    assert wrong == []
    assert turns > 1
