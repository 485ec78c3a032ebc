"""A small catalog: a stage of every kind, whose inputs are text files and whose results depend only on them.

`ingest` and `requests` read files, `chroma` maps and refuses, `train` reduces and writes a folder, `generate` fans out,
loads the trained folder and looks tracks up, `decode` writes a file a row, `report` one for all. Nothing needs torch,
so that thousands of runs take minutes.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from flows.runs.running import Run, RunPlan, run_stages
from schemas import Config, Settings, WeightsRef
from schemas.tables import CHECKPOINTS, CHROMA, CLIPS, GENERATIONS, REPORTS, REQUESTS, TRACKS, Row, Table
from schemas.weights import folder_digest
from stages.pipeline.contract import Context, ReduceResult, Reject, Shard, ShardUpdate, SourcePlan
from stages.pipeline.plans import ConfiguredStage

SHARD_SIZE = 2
"""Number of tracks or requests of a shard."""


INPUTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "first": (
        {"a.txt": "do re", "b.txt": "re mi\nTitle", "c.txt": "silent", "d.txt": "unreadable", "e.txt": "fa"},
        ["2 calm", "1 loud like fa", "1 odd like sol", "no takes"],
    ),
    "night": (
        {"a.txt": "do re", "moved.txt": "re mi\nOther", "d.txt": "unreadable", "e.txt": "fa", "f.txt": "sol"},
        ["1 loud like fa", "2 calm", "1 odd like sol", "1 more"],
    ),
}
"""Recordings and requests of a first run, and of a later one for which some were added, removed, moved and renamed."""


class Nothing(Config):
    """No knobs."""


class Scaled(Config):
    scale: float = 1.0
    """Factor of `chroma`."""


class Trained(Config):
    checkpoint: WeightsRef = WeightsRef("checkpoint:language_model")
    """The checkpoint that generates."""


def _hash(*words: object) -> str:
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()


def _stage(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update({"READS": (), "VERSION": 1, "Config": Nothing} | members)
    return module


def _tracks(context: Context) -> tuple[list[Row], list[Reject]]:
    """A recording is a text file `<melody>` or `<melody>\\n<title>`; its melody is its identity."""
    rows, rejects = [], []
    for path in sorted(Path(str(context.settings.source)).glob("*.txt")):
        melody, _, title = path.read_text().partition("\n")
        if melody == "unreadable":
            rejects.append(Reject(path.name, path.name, "unreadable", "expected a melody", _hash(melody)))
        else:
            rows.append({"track_id": _hash(melody), "uri": path.name, "title": title, "description": melody})
    return rows, rejects


def _requests(context: Context) -> tuple[list[Row], list[Reject]]:
    """A request is a line `<takes> <description>`, and may name a track's melody after ` like `."""
    rows, rejects = [], []
    for number, line in enumerate(Path(str(context.settings.requests)).read_text().splitlines()):
        takes, _, description = line.partition(" ")
        if takes.isdecimal():
            row = {"request_id": _hash(line), "line": number, "description": description, "takes": int(takes)}
            rows.append(row | {"melody": description.partition(" like ")[2] or None})
        else:
            rejects.append(Reject(line, "", "no takes", "expected takes", _hash(line)))
    return rows, rejects


def _source(name: str, table: Table, look: Any) -> ModuleType:
    key = table.key[0]

    def arrivals(context: Context, known: pa.Table) -> tuple[dict[str, Row], dict[str, Row], list[Reject]]:
        rows, rejects = look(context)
        empty = dict.fromkeys(table.schema.names)
        before = {row[key]: row for row in known.to_pylist()}
        last = max((row["shard"] for row in before.values()), default=0)
        members = sum(row["shard"] == last for row in before.values())
        after: dict[str, Row] = {}
        for row in rows:
            shard = before[row[key]]["shard"] if row[key] in before else last
            if row[key] not in before and row[key] not in after:
                if members == SHARD_SIZE:
                    last, members = last + 1, 0
                shard, members = last, members + 1
            after.setdefault(row[key], empty | row | {"shard": shard})
        return before, after, rejects

    def plan_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> SourcePlan:
        before, after, rejects = arrivals(context, known)
        kept = sum(before.get(name) == row for name, row in after.items())
        moved = {reject.key for reject in rejects} ^ set(refused.column("key").to_pylist())
        return SourcePlan(len(after) - kept + len(moved), kept, len(before.keys() - after.keys()))

    def read_source(config: Config, context: Context, known: pa.Table, refused: pa.Table) -> Iterator[ShardUpdate]:
        before, after, rejects = arrivals(context, known)
        for shard in sorted({row["shard"] for row in (*before.values(), *after.values())} | {0}):
            old, new = ([row for row in rows.values() if row["shard"] == shard] for rows in (before, after))
            if old != new or shard == 0:
                yield ShardUpdate(shard, new, sum(row not in old for row in new), rejects)

    return _stage(name, WRITES=table, plan_source=plan_source, read_source=read_source)


def chroma(config: Scaled, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Refuse silent tracks."""
    for row in tracks.to_pylist():
        context.check_stopped()
        if "silent" in row["description"]:
            yield Shard([], [Reject(row["track_id"], row["uri"], "silent", "expected a sound")])
        else:
            yield Shard([{"track_id": row["track_id"], "frame_rate": config.scale * len(row["description"])}])


def train(config: Nothing, context: Context, tracks: pa.Table, chroma: pa.Table) -> ReduceResult:
    """Write a folder that depends on the rows, and log two steps."""
    seen = sorted(map(str, chroma.to_pylist()))
    path = f"models/{context.identity}"
    with context.store.new_folder(path) as folder:
        (folder / "text").mkdir()
        (folder / "text" / "words").write_text("\n".join(sorted(tracks.column("description").to_pylist())))
        (folder / "weights").write_text(_hash(*seen))
        digest = folder_digest(folder)
    row = {"checkpoint_id": context.identity, "kind": "language_model", "path": path, "recipe": context.fingerprint}
    row |= {"digest": digest, "rows_seen": len(seen), "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    steps = [{"checkpoint_id": context.identity, "step": step, "split": "train"} for step in (1, 2)]
    return ReduceResult([row], {"training": steps})


def generate(config: Trained, context: Context, requests: pa.Table) -> Iterator[Shard]:
    """Make every take of a request; refuse one that names an unknown melody."""
    folder = context.weights(config.checkpoint).path
    weights = (folder / "weights").read_text() + (folder / "text" / "words").read_text()
    known = set(context.rows(TRACKS, ["description"]).column("description").to_pylist())
    for request in requests.to_pylist():
        key = request["request_id"]
        if request["melody"] and request["melody"] not in known:
            yield Shard([], [Reject(key, "", "unknown melody", "expected a track's melody")])
            continue
        for take in range(1, request["takes"] + 1):
            if (key, str(take)) not in context.kept:
                code = int(_hash(weights, request["description"], take)[:4], 16)
                yield Shard([{"request_id": key, "take": take, "codes": [[code]]}])


def decode(config: Nothing, context: Context, generations: pa.Table, requests: pa.Table) -> Iterator[Shard]:
    """Write a file for each row."""
    for row in generations.to_pylist():
        data = str(row["codes"]).encode()
        path = f"audio/version={context.fingerprint}/{row['request_id']}-{row['take']}.flac"
        context.store.write_bytes(path, data)
        facts = {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        yield Shard([{"request_id": row["request_id"], "take": row["take"]} | facts])


def report(config: Nothing, context: Context, clips: pa.Table, requests: pa.Table) -> ReduceResult:
    """Write a page that names every clip."""
    lines = [str(sorted(clips.column("sha256").to_pylist())), str(sorted(requests.column("description").to_pylist()))]
    page = "\n".join(lines).encode()
    context.store.write_bytes("report/index.html", page)
    row = {"report_id": context.identity, "path": "report/index.html", "clips": clips.num_rows, "bytes": len(page)}
    return ReduceResult([row | {"sha256": hashlib.sha256(page).hexdigest()}])


def chain(scale: float = 1.0) -> list[ConfiguredStage]:
    """All stages in their order."""
    mapping = _stage("chroma", READS=(TRACKS,), WRITES=CHROMA, Config=Scaled, shard=chroma)
    fan_out = _stage("generate", READS=(REQUESTS,), CONSULTS=(TRACKS,), WRITES=GENERATIONS, shard=generate)
    to_files = _stage("decode", READS=(GENERATIONS, REQUESTS), SHOWS=(REQUESTS,), WRITES=CLIPS, shard=decode)
    kinds = ("language_model",)
    return [
        ConfiguredStage("ingest", _source("ingest", TRACKS, _tracks), Nothing()),
        ConfiguredStage("chroma", mapping, Scaled(scale=scale)),
        ConfiguredStage(
            "train", _stage("train", READS=(TRACKS, CHROMA), WRITES=CHECKPOINTS, KINDS=kinds, reduce=train), Nothing()
        ),
        ConfiguredStage("requests", _source("requests", REQUESTS, _requests), Nothing()),
        ConfiguredStage("generate", fan_out, Trained()),
        ConfiguredStage("decode", to_files, Nothing()),
        ConfiguredStage("report", _stage("report", READS=(CLIPS, REQUESTS), WRITES=REPORTS, reduce=report), Nothing()),
    ]


def run_chain(settings: Settings, scale: float = 1.0, names: Sequence[str] = (), run_id: str | None = None) -> Run:
    """Run the stages (all, or those named) to their end."""
    stages = chain(scale)
    plan = RunPlan(stages, names or [stage.name for stage in stages], settings, by_name=bool(names))
    run = Run(plan) if run_id is None else Run(plan, run_id=run_id)
    run_stages(run)
    return run


def write_inputs(folder: Path, tracks: Mapping[str, str], requests: Sequence[str]) -> dict[str, str]:
    """Write recordings by file name and requests, and return the settings that name them."""
    music = folder / "music"
    music.mkdir(parents=True, exist_ok=True)
    for path in music.iterdir():
        if path.name not in tracks:
            path.unlink()
    for name, text in tracks.items():
        (music / name).write_text(text)
    (folder / "requests.txt").write_text("\n".join(requests))
    return {"source": str(music), "requests": str(folder / "requests.txt")}


if __name__ == "__main__":
    run_chain(Settings.model_validate_json(sys.argv[1]))
