"""A store's tables as a Hugging Face data set: Parquet with an audio column, and a card that says what is in it.

`datasets.load_dataset(FOLDER, "tracks")` reads the training set by its splits, and `"clips"` the catalog. The hub shows
both and plays the sound. A file holds the rows of one split of one shard. Its footer holds the digest of what it was
made from, so a second export writes nothing and ten new recordings cost one file.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import Store
from schemas.identity import fingerprint
from schemas.licences import count_licences
from schemas.queries.database import query
from schemas.tables import Row
from stages.audio import AudioError, open_binary
from stages.delivery.choosing import ChosenClip
from stages.delivery.folder import DeliveryFolder
from stages.pipeline.contract import Progress

VERSION = 1
"""The version of the file format. Raise it when the same rows give other files."""

TableName = Literal["tracks", "clips"]

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Name of a split here -> its name in the data set."""

ROWS_AT_ONCE = 16
"""Rows of a row group, which is how many recordings are in memory at once."""

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The type of an audio column, as `datasets.Audio` stores it."""

_TEXT, _TEXTS, _NUMBER = pa.string(), pa.list_(pa.string()), pa.float64()

TRACK_COLUMNS = {
    **dict.fromkeys(("track_id", "title", "artist", "album", "genre"), _TEXT),
    **{"moods": _TEXTS, "keywords": _TEXTS, "instrument": _TEXT, "bpm": _NUMBER, "key": _TEXT, "description": _TEXT},
    **{"paraphrases": _TEXTS, "licence": _TEXT, "seconds": _NUMBER, "sample_rate": pa.int32(), "channels": pa.int16()},
    **{"loudness": _NUMBER},
}
CLIP_COLUMNS = {
    **{"request_id": _TEXT, "take": pa.int32(), "name": _TEXT, "title": _TEXT, "description": _TEXT, "bpm": _NUMBER},
    **{"key": _TEXT, "seed": pa.int64(), "temperature": _NUMBER, "guidance": _NUMBER, "top_k": pa.int32()},
    **{"checkpoint_id": _TEXT, "seconds": _NUMBER, "sample_rate": pa.int32(), "channels": pa.int16()},
    **{"loudness": _NUMBER, "sha256": _TEXT},
}


@dataclass(frozen=True)
class Part:
    """Rows that become one file."""

    table: TableName
    split: str
    shard: int
    rows: list[Row]
    """The rows by column; `uri` is where the sound is."""

    @property
    def file(self) -> str:
        return f"data/{self.table}/{self.split}-{self.shard:05d}.parquet"


@dataclass
class DatasetExport:
    """The result of an export."""

    rows: Counter[tuple[TableName, str]] = field(default_factory=Counter)
    """Number of rows by table and split."""
    written: int = 0
    """How many files with rows were written."""
    kept: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Sounds that could not be read, each with the reason; their rows are left out."""


def track_parts(store: Store) -> list[Part]:
    """Return the rows of the training set that the views show, by split and shard."""
    names = ", ".join(f'"{name}"' for name in (*TRACK_COLUMNS, "uri", "split", "shard"))
    parts: dict[tuple[str, int], list[Row]] = {}
    for row in query(store, f"SELECT {names} FROM tracks ORDER BY track_id").to_pylist():
        parts.setdefault((SPLITS.get(row["split"], row["split"]), row["shard"] or 0), []).append(row)
    return [Part("tracks", split, shard, rows) for (split, shard), rows in sorted(parts.items())]


def clip_parts(store: Store, chosen: Sequence[ChosenClip]) -> list[Part]:
    """Return the rows of clips by the shard of their request; all are in one split."""
    parts: dict[int, list[Row]] = {}
    for each in chosen:
        row = {**each.request, **each.clip, "seed": each.generation["seed"]}
        row |= {"take": each.clip["take"], "title": each.request["title"], "uri": store.path(each.clip["path"])}
        if not store.is_local:
            row["uri"] = store.filesystem.unstrip_protocol(row["uri"])
        parts.setdefault(each.request["shard"] or 0, []).append(row)
    return [Part("clips", "train", shard, rows) for shard, rows in sorted(parts.items())]


def export_dataset(
    store: Store,
    parts: Sequence[Part],
    url: str,
    references: bool = False,
    progress: Progress | None = None,
    check_stopped: Callable[[], None] = lambda: None,
) -> DatasetExport:
    """Write rows with their sound as a data set. Files that exist with the same content are not written again.

    Args:
        url: a local folder or any fsspec URL.
        references: whether the audio column holds the path of the sound instead of the sound itself.

    Raises:
        ValueError: the folder holds something else.
    """
    folder, result = DeliveryFolder(url, store.identity, "dataset"), DatasetExport()
    digests = {part.file: fingerprint([VERSION, part.rows, references]) for part in parts}
    missing = [part for part in parts if _digest(folder, part.file) != digests[part.file]]
    result.kept = len(parts) - len(missing)
    for part in parts:
        result.rows[part.table, part.split] += len(part.rows)
    if missing:
        folder.begin()
        if progress:
            progress.start("export", sum(len(part.rows) for part in missing), "rows")
    for part in missing:
        with folder.staged(part.file) as path:
            failed = list(_write(part, path, digests[part.file], references, progress, check_stopped))
        result.written += 1
        result.failed += failed
        result.rows[part.table, part.split] -= len(failed)
    for name in folder.files("data/"):
        if name not in digests:  # a split or shard that no longer exists; a glob would still read it
            folder.remove(name)
            result.removed += 1
    folder.write("README.md", _card(store, parts, result.rows))
    return result


def _digest(folder: DeliveryFolder, name: str) -> str:
    """Return the digest of what a file was made from; empty if the file does not exist or is not whole."""
    with folder.opened(name) as file:
        if file is None:
            return ""
        try:
            return str((pq.read_metadata(file).metadata or {}).get(b"segue", b"").decode())
        except (pa.ArrowException, OSError):
            return ""


def _write(
    part: Part,
    path: Path,
    digest: str,
    references: bool,
    progress: Progress | None,
    check_stopped: Callable[[], None],
) -> Iterator[tuple[str, str]]:
    """Write the rows of a file, and yield the sounds that could not be read, with the reason. A file that lacks rows
    gets no digest, so that the next export tries again."""
    columns = TRACK_COLUMNS if part.table == "tracks" else CLIP_COLUMNS
    schema = pa.schema([("audio", AUDIO), *columns.items()], {"huggingface": _features(columns)})
    whole = True
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(part.rows), ROWS_AT_ONCE):
            rows = []
            for row in part.rows[start : start + ROWS_AT_ONCE]:
                check_stopped()
                try:
                    audio = {"path": row["uri"].removeprefix("file://")} if references else _sound(row["uri"])
                except (AudioError, OSError) as error:
                    whole = False
                    yield row["uri"], error.message if isinstance(error, AudioError) else str(error)
                    continue
                finally:
                    if progress:
                        progress.advance()
                rows.append({name: row[name] for name in columns} | {"audio": audio})
            writer.write_table(pa.Table.from_pylist(rows, schema))
        if whole:
            writer.add_key_value_metadata({"segue": digest})


def _sound(uri: str) -> Row:
    """Return the bytes of a recording as it is encoded, with its file name."""
    with open_binary(uri) as file:
        return {"bytes": file.read(), "path": posixpath.basename(uri.partition("::")[0])}


def _features(columns: dict[str, pa.DataType]) -> str:
    """Return the columns in the form in which `datasets` reads them from the metadata of a Parquet file."""
    features: dict[str, Any] = {"audio": {"_type": "Audio"}}
    for name, kind in columns.items():
        is_list = pa.types.is_list(kind)
        value = {"dtype": str(kind.value_type if is_list else kind).replace("double", "float64"), "_type": "Value"}
        features[name] = {"feature": value, "_type": "List"} if is_list else value
    return json.dumps({"info": {"features": features}})


def _card(store: Store, parts: Sequence[Part], rows: Counter[tuple[TableName, str]]) -> bytes:
    """Return the card: the rows and hours of each table and split, and the licences."""
    tables = list(dict.fromkeys(part.table for part in parts))
    lines = ["---", "configs:"]
    for table in tables:
        lines += [f"- config_name: {table}", *(["  default: true"] if table == tables[0] else []), "  data_files:"]
        for split in [split for split in SPLITS.values() if rows[table, split]]:
            lines += [f"  - split: {split}", f"    path: data/{table}/{split}-*.parquet"]
    lines += ["task_categories:", "- text-to-audio", "tags:", "- music", "---", "", "# Made with Segue", ""]
    lines += ["| table | split | rows | hours |", "| --- | --- | --- | --- |"]
    seconds = Counter[tuple[str, str]]()
    for part in parts:
        seconds[part.table, part.split] += sum(row["seconds"] or 0 for row in part.rows)
    lines += [
        f"| {table} | {split} | {rows[table, split]:,} | {seconds[table, split] / 3600:.2f} |"
        for table in tables
        for split in SPLITS.values()
        if rows[table, split]
    ]
    if "tracks" in tables:
        tracks = [row for part in parts if part.table == "tracks" for row in part.rows]
        lines += ["", "## Licences of the recordings", "", "| licence | recordings |", "| --- | --- |"]
        counts = count_licences(row["licence"] for row in tracks)
        lines += [f"| {name.replace('|', '/')} | {count:,} |" for name, count in counts.most_common()]
        lines += [
            "",
            "`tracks` are recordings with what is known about them; passing them on needs the right to do so.",
        ]
    if "clips" in tables:
        lines += ["", "`clips` were made by a model (`trainedAlgorithmicMedia`)."]
    return ("\n".join(lines) + "\n").encode()
