"""The catalog of a delivery: one row for each clip, as CSV and JSON, and the files that make the folder an AudioFolder.

`metadata.csv` is the table of Hugging Face's AudioFolder, which this project's own ingest reads too. `README.md` tells
`datasets` that the folder is an AudioFolder, whatever its clips are called (without it, a clip named `test` would be
taken for a split).
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.tables import Row
from stages.audio.clip_tags import ARTIST, clip_title, used_adapters
from stages.delivery.choosing import ChosenClip
from stages.delivery.folder import DeliveredFile

SETTINGS = ("temperature", "guidance", "top_k", "top_p")

METADATA = (
    *("file_name", "title", "artist", "description", "bpm", "key", "request", "take", "seed", "checkpoint"),
    *("seconds", "generated", "training_licences"),
)
"""The columns of `metadata.csv`; the file's name is the first, as AudioFolder requires."""

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""Signs at the beginning of a cell that make a spreadsheet compute it as a formula."""


def catalog_row(chosen: ChosenClip, file: DeliveredFile, licences: str) -> Row:
    """Return the catalog row of a clip.

    Args:
        licences: the licences of what the clip's model learned from, as a short text.
    """
    clip, request = chosen.clip, chosen.request
    made_at = chosen.generation["created_at"]
    return {
        "file": file.file,
        "request": clip["request_id"],
        "name": request["name"],
        "take": clip["take"],
        "title": clip_title(request),
        "description": request["description"],
        "seconds": round(file.seconds, 4),
        "format": file.format,
        "sample_rate": file.sample_rate,
        "channels": file.channels,
        "loudness": _rounded(file.loudness),
        "true_peak": _rounded(file.true_peak),
        "tempo": request["bpm"],
        "key": request["key"],
        "seed": chosen.generation["seed"],
        **{name: request[name] for name in SETTINGS},
        "checkpoint": clip["checkpoint_id"],
        "adapters": used_adapters(request),
        "made": None if made_at is None else f"{made_at:%Y-%m-%d}",
        "training_licences": licences,
        "marks": file.marks,
        "scores": {name: value for name, value in chosen.heard.items() if value is not None},
        "bytes": file.bytes,
        "sha256": file.sha256,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def catalog_json(rows: Sequence[Row]) -> bytes:
    """Return the catalog as JSON; the scores of a clip are a nested object."""
    return (json.dumps({"clips": list(rows)}, ensure_ascii=False, indent=1, default=str) + "\n").encode()


def catalog_csv(rows: Sequence[Row]) -> bytes:
    """Return the catalog as CSV, with a column `score_…` for each score that any clip has."""
    scores = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    plain = [name for name in (rows[0] if rows else ()) if name != "scores"]
    at = plain.index("bytes") if plain else 0
    names = [*plain[:at], *(f"score_{name}" for name in scores), *plain[at:]]
    spread = [row | {f"score_{name}": value for name, value in row["scores"].items()} for row in rows]
    return _csv(names, [{name: _inert(value) for name, value in row.items()} for row in spread])


def _inert(value: object) -> object:
    """Return a cell that spreadsheets do not compute. A text that they would take for a formula, which may name a file
    or an address, gets an apostrophe in front (OWASP, CSV Injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_SIGNS) else value


def metadata_csv(rows: Sequence[Row]) -> bytes:
    """Return the table `metadata.csv` of AudioFolder for the catalog's rows."""
    renamed = [
        row | {"file_name": row["file"], "artist": ARTIST, "bpm": row["tempo"], "generated": "trainedAlgorithmicMedia"}
        for row in rows
    ]
    return _csv(METADATA, renamed)


def _csv(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(["" if row.get(name) is None else row[name] for name in names] for row in rows)
    return text.getvalue().encode()


def card(rows: Sequence[Row]) -> bytes:
    """Return the README of a delivery, with the front matter by which `datasets` finds the delivery's files."""
    licences = sorted({row["training_licences"] for row in rows if row["training_licences"]})
    seconds = sum(row["seconds"] for row in rows)
    learned = "; ".join(licences) or "not known"
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path:
    - metadata.csv
    - clips/*
tags:
- audio
- generated
---

# {len(rows)} generated clips, {seconds / 60:.1f} minutes

A model made every sound here: each file says so (`trainedAlgorithmicMedia`), and `catalog.csv` and `catalog.json` say
for each by which model, request and seed. Licences of the recordings that the models learned from: {learned}.

| file | what it is |
| --- | --- |
| `clips/` | the clips |
| `catalog.csv`, `catalog.json` | request, take, length, level, tempo, key, scores, seed, model and digest of each |
| `metadata.csv` | the table of an AudioFolder: `datasets.load_dataset` reads this folder by its name |
| `SHA256SUMS` | `sha256sum -c SHA256SUMS` checks that all is as it was delivered |
| `index.html` | a page for listening |
""".encode()
