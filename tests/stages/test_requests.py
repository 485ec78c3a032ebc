"""Requests: a good line becomes a row that stays the same, a bad one a reject that names it."""

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as some

from model.synthesis.composition import compose
from schemas import Settings, Store
from schemas.tables import PIECES, REJECTS, REQUESTS, TRACKS
from schemas.weights import WeightsLibrary
from stages import requests
from stages.catalog.lines import COLUMNS, read_lines
from stages.contract import Context, Stopped
from stages.planning import Step, plan_stage
from stages.requests import Config
from stages.runner import StageFailed, run_stage

TRACK_ROWS = [
    {"track_id": "aaaa1111" * 8, "title": "Silver Window", "artist": "Glass Harbour"},
    {"track_id": "aaaa2222" * 8, "title": "Silver Window", "artist": "Kilo Sunday"},
    {"track_id": "bbbb3333" * 8, "title": "=cmd|'/c calc'!A0", "artist": "../../etc/passwd"},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.write_shard(TRACKS, "t", "0", pa.Table.from_pylist(TRACK_ROWS, schema=TRACKS.schema), "k")
    return store


def context_for(store: Store, file: Path | str | None) -> Context:
    settings = Settings(store=store.url, requests=None if file is None else str(file), max_refused=1.0)
    return Context(store, settings, "run", "requests", "r", {"tracks": "t"}, WeightsLibrary(store))


def take_in(store: Store, file: Path | str | None, config: Config | None = None):
    return run_stage(Step("requests", requests, config or Config()), context_for(store, file))


def rows_of(store: Store) -> list[dict]:
    return sorted(store.read(REQUESTS, "r").to_pylist(), key=lambda row: row["line"])


def rejects_of(store: Store) -> dict[str, dict]:
    return {row["key"]: row for row in store.read(REJECTS, "r").to_pylist()}


def write(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_csv_jsonl_and_parquet_ask_for_the_same_clips(store: Store, tmp_path: Path) -> None:
    lines = [
        {"name": "one", "description": 'Strings, "slow"\nand wide', "seconds": 5.5, "top_k": 50, "key": "Am"},
        {"description": "Guitar", "seed": 7, "bpm": 92.0, "takes": 2, "melody": "title:Kilo Sunday/Silver Window"},
    ]
    write(tmp_path / "r.jsonl", *lines)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    wide = pa.table({name: [line.get(name) for line in lines] for name in columns})
    pq.write_table(wide, tmp_path / "r.parquet")
    with open(tmp_path / "r.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(lines)
    found = []
    for name in ("r.jsonl", "r.parquet", "r.csv"):
        other = Store(f"{store.root}-{name}")
        other.write_shard(TRACKS, "t", "0", pa.Table.from_pylist(TRACK_ROWS, schema=TRACKS.schema), "k")
        take_in(other, tmp_path / name)
        found.append([{**row, "line": 0} for row in rows_of(other)])
    assert len(found[0]) == 2
    assert found[0] == found[1] == found[2]
    assert found[0][0]["description"] == 'Strings, "slow" and wide'
    assert found[0][0]["key"] == "A minor"
    assert found[0][1]["melody"] == f"track:{'aaaa2222' * 8}"


def test_a_line_takes_what_it_does_not_say_from_the_config(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "x"}))
    row = rows_of(store)[0]
    published = (row["guidance"], row["temperature"], row["top_k"], row["top_p"], row["seconds"], row["takes"])
    assert published == (3.0, 1.0, 250, 0.0, 8.0, 1)
    assert row["prompt_seconds"] is None
    assert row["seed"] >= 0


BAD = [
    ({"description": "x", "guidence": 3}, "unknown column", "guidence"),
    ({"description": "x", "seconds": -3}, "bad value", "seconds: expected greater than 0, got -3"),
    ({"description": "x", "seconds": 0}, "bad value", "seconds"),
    ({"description": "x", "seconds": 1e9}, "bad value", "at most 300"),
    ('{"description": "x", "seconds": NaN}', "bad value", "finite"),
    ('{"description": "x", "seconds": 1e999}', "bad value", "finite"),
    ({"description": "x", "seconds": "eight"}, "bad value", "'eight'"),
    ({"description": "x", "seconds": True}, "bad value", "expected a number"),
    ({"description": "x", "seconds": [8]}, "bad value", "seconds"),
    ({"description": "x", "guidance": -1}, "bad value", "guidance"),
    ({"description": "x", "temperature": -0.1}, "bad value", "temperature"),
    ({"description": "x", "top_p": 1.5}, "bad value", "top_p"),
    ({"description": "x", "top_k": 2.5}, "bad value", "top_k"),
    ({"description": "x", "takes": 0}, "bad value", "takes"),
    ({"description": "x", "takes": 1_000_000}, "bad value", "at most 100"),
    ({"description": "x", "seed": -1}, "bad value", "seed"),
    ({"description": "x", "seed": 2**64}, "bad value", "seed"),
    ({"description": "x", "bpm": 4000}, "bad value", "bpm"),
    ({"description": "x", "key": "H moll"}, "bad value", "A minor"),
    ({"description": "x" * 3000}, "bad value", "2000"),
    ({"description": "a\x00b"}, "bad value", "printable"),
    ({"description": 5}, "bad value", "description"),
    ({"description": "x", "melody": "Silver Window"}, "unknown melody", "expected one of track:…, title:…, file:…"),
    ({"description": "x", "melody": "title:Silver Window"}, "unknown melody", "got 2"),
    ({"description": "x", "melody": "title:Nobody knows"}, "unknown melody", "'Nobody knows'"),
    ({"description": "x", "melody": "track:aaaa"}, "unknown melody", "at least 6"),
    ({"description": "x", "melody": "track:cccccccc"}, "unknown melody", "cccccccc"),
    ({"description": "x", "melody": "file:nothing-there.wav"}, "unknown melody", "no such file"),
    ({"description": "x", "melody": "file:."}, "unknown melody", "expected a"),
    ({"description": "x", "melody": "file:/dev/zero"}, "unknown melody", "/dev/zero"),
    ({"description": "x", "melody": "file:nowhere://a.wav"}, "unknown melody", "nowhere"),
    ({"description": "x", "melody": "file:"}, "unknown melody", "file"),
    ({"description": "x", "melody": "text:a tune"}, "unknown melody", "text"),
    ({"clap": "text"}, "unknown clap", "description"),
    ({"description": "x", "prompt": "title:Nobody"}, "unknown prompt", "Nobody"),
    ({"description": "x", "prompt_seconds": 2}, "bad value", "prompt"),
    ({"prompt": "track:bbbb3333", "prompt_seconds": 8}, "bad value", "less than the clip's 8 seconds"),
    ("{broken", "unreadable", "JSON"),
    ("[1, 2]", "unreadable", "JSON object"),
    ("[" * 100_000, "unreadable", "JSON"),
    ('{"seed": ' + "9" * 5000 + "}", "unreadable", "JSON"),
]


@pytest.mark.parametrize(("line", "kind", "says"), BAD)
def test_a_bad_line_is_refused_by_its_number_and_the_others_stay(
    store: Store, tmp_path: Path, line: dict | str, kind: str, says: str
) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "before"}, line, "", {"description": "after"}))
    assert [(row["line"], row["description"]) for row in rows_of(store)] == [(1, "before"), (4, "after")]
    reject = rejects_of(store)["line 2"]
    assert reject["kind"] == kind
    assert reject["message"].startswith("line 2: ")
    assert says in reject["message"]


def test_a_csv_line_with_a_mistake_spoils_itself_alone(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    text = 'name,description,seconds,odd\na,"two\nlines",4,\nb,bad,x,\nc,ok,5,\nd,a,5,o\ne,many,5,,,6\n\n,,,\nf,short\n'
    file.write_bytes(text.encode() + b"g,caf\xe9,5,\n" + f"h,{'w' * 200_000},5,\n".encode() + b"i,last,6,\n")
    take_in(store, file)
    assert [(row["name"], row["line"]) for row in rows_of(store)] == [("a", 2), ("c", 5), ("f", 10), ("i", 13)]
    kinds = {key: row["kind"] for key, row in rejects_of(store).items()}
    assert kinds["line 4"] == "bad value"
    assert kinds["line 6"] == "unknown column"
    assert kinds["line 7"] == "unreadable"
    assert kinds["line 11"] == "bad value"
    assert kinds["line 12"] == "unreadable"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.csv", b""),
        ("r.csv", b"one,two\n1,2\n"),
        ("r.csv", b"seconds,seconds\n1,2\n"),
        ("r.csv", "description\nx\n".encode("utf-16")),
        ("r.csv", b"description\n"),
        ("r.jsonl", b"\n\n"),
        ("r.parquet", b"PAR1 is not all it takes"),
        ("r.csv.gz", b"not packed"),
        ("r.xlsx", b"PK"),
        ("missing.csv", None),
    ],
)
def test_a_file_that_is_no_requests_file_is_one_clear_error(
    store: Store, tmp_path: Path, name: str, data: bytes | None
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"expected.*requests?"):
        read_lines(str(tmp_path / name))


@given(data=some.binary(max_size=300), suffix=some.sampled_from([".csv", ".jsonl", ".parquet"]))
def test_any_bytes_give_lines_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_bytes(data)
    try:
        lines = read_lines(str(file))
    except ValueError as error:
        assert str(file) in str(error)  # noqa: PT017
        return
    assert all((line.request is None) == bool(line.problem) for line in lines)


def test_the_same_file_twice_does_nothing(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"description": "x"}, {"description": "y", "seconds": -1})
    first = take_in(store, file)
    assert (first.counts.made, first.counts.refused) == (1, 1)
    step = Step("requests", requests, Config())
    plan = plan_stage(step, context_for(store, file), asked=False)
    assert (plan.jobs, plan.make, plan.reuse, plan.drop) == ((), 0, 1, 0)
    assert (
        list(requests.arrivals(Config(), context_for(store, file), store.read(REQUESTS, "r"), store.read(REJECTS, "r")))
        == []
    )


def test_names_and_titles_count_and_places_in_the_file_do_not(store: Store, tmp_path: Path) -> None:
    one = {"description": "x", "name": "a"}
    take_in(store, write(tmp_path / "r.jsonl", one, {**one, "name": "b"}, {"description": "y"}))
    before = {row["name"]: row for row in rows_of(store)}
    assert before["a"]["request_id"] != before["b"]["request_id"]
    assert before["a"]["seed"] != before["b"]["seed"]

    result = take_in(store, write(tmp_path / "r.jsonl", {"description": "y"}, one, {**one, "name": "b", "title": "T"}))
    after = {row["name"]: row for row in rows_of(store)}
    assert after["a"]["request_id"] == before["a"]["request_id"]
    assert after["a"]["line"] == 2
    assert after["b"]["request_id"] != before["b"]["request_id"]
    assert after["b"]["seed"] == before["b"]["seed"]
    assert result.counts.refused == 0


def test_one_clip_asked_for_twice_is_made_once_and_said_so(store: Store, tmp_path: Path) -> None:
    take_in(
        store,
        write(
            tmp_path / "r.jsonl", {"description": "x"}, {"description": " x "}, {"name": "n"}, {"name": "n", "seed": 1}
        ),
    )
    assert [row["line"] for row in rows_of(store)] == [1, 3]
    rejects = rejects_of(store)
    assert (rejects["line 2"]["kind"], rejects["line 4"]["kind"]) == ("duplicate", "duplicate name")
    assert "line 1" in rejects["line 2"]["message"]


def test_requests_keep_their_shards_as_others_come_and_go(store: Store, tmp_path: Path) -> None:
    config = Config(shard_size=3)
    lines = [{"name": f"n{i}"} for i in range(8)]
    take_in(store, write(tmp_path / "r.jsonl", *lines[:5]), config)
    stood = {row["name"]: row["shard"] for row in rows_of(store)}
    assert stood == {"n0": 0, "n1": 0, "n2": 0, "n3": 1, "n4": 1}
    untouched = store.footer(REQUESTS, "r", "0")

    result = take_in(store, write(tmp_path / "r.jsonl", *lines[:4], *lines[5:]), config)
    assert {row["name"]: row["shard"] for row in rows_of(store)} == {
        **{"n0": 0, "n1": 0, "n2": 0, "n3": 1},
        **{"n5": 1, "n6": 1, "n7": 2},
    }
    assert (result.counts.made, result.counts.reused) == (3, 4)
    assert store.footer(REQUESTS, "r", "0") == untouched


def test_a_stopped_run_ends_as_an_undisturbed_one(store: Store, tmp_path: Path) -> None:
    config, step = Config(shard_size=2), Step("requests", requests, Config(shard_size=2))
    file = write(tmp_path / "r.jsonl", *({"name": f"n{i}"} for i in range(7)))
    context = context_for(store, file)

    class StopsAtTheThird(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked == 3

    context.stop = StopsAtTheThird()
    with pytest.raises((Stopped, StageFailed)):
        run_stage(step, context)
    assert store.shards(REQUESTS, "r") == ["0", "1"]
    take_in(store, file, config)
    assert [row["shard"] for row in rows_of(store)] == [0, 0, 1, 1, 2, 2, 3]


def test_a_mended_line_is_no_longer_refused(store: Store, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"name": "a"}, {"name": "b", "seconds": -1}))
    assert "line 2" in rejects_of(store)
    take_in(store, write(tmp_path / "r.jsonl", {"name": "a"}))
    assert rejects_of(store) == {}


def test_a_file_in_which_every_line_is_refused_fails_the_stage(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"second": 1})
    context = context_for(store, file)
    context.settings = Settings(store=store.url, requests=str(file))
    with pytest.raises(StageFailed, match="refused 1 of 1"):
        run_stage(Step("requests", requests, Config()), context)


def test_a_referenced_file_is_known_by_its_content(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    tone = np.sin(np.arange(8000) / 5.0)
    soundfile.write(tmp_path / "hum.wav", tone, 8000)
    take_in(store, write(tmp_path / "r.jsonl", {"melody": "file:hum.wav"}))
    first = rows_of(store)[0]
    assert first["melody"] == f"file:{tmp_path}/hum.wav"

    (tmp_path / "hum.wav").rename(tmp_path / "a" / "moved.wav")
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"file:{tmp_path}/a/moved.wav"}))
    assert rows_of(store)[0]["request_id"] == first["request_id"]

    soundfile.write(tmp_path / "a" / "moved.wav", tone * 0.5, 8000)
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"file:file://{tmp_path}/a/moved.wav"}))
    assert rows_of(store)[0]["request_id"] != first["request_id"]


def test_a_track_that_comes_later_makes_a_refused_request_good(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "r.jsonl", {"melody": "title:New One"}, {"name": "x"})
    take_in(store, file)
    assert "line 1" in rejects_of(store)
    new = {"track_id": "dddd" * 16, "title": "New One"}
    store.write_shard(TRACKS, "t", "1", pa.Table.from_pylist([new], schema=TRACKS.schema), "k")
    take_in(store, file)
    assert rows_of(store)[0]["melody"] == f"track:{'dddd' * 16}"
    assert rejects_of(store) == {}


def test_hostile_titles_are_only_names(store: Store, tmp_path: Path) -> None:
    hostile = TRACK_ROWS[2]
    take_in(store, write(tmp_path / "r.jsonl", {"melody": f"title:{hostile['artist']}/{hostile['title']}"}))
    assert rows_of(store)[0]["melody"] == f"track:{hostile['track_id']}"


def test_the_demo_set_refers_to_pieces_of_the_demo_corpus(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    pieces = [compose(0, index) for index in range(96)]
    tracks = [{"track_id": f"{i:064x}", "title": p.title, "artist": p.artist} for i, p in enumerate(pieces)]
    store.write_shard(TRACKS, "t", "0", pa.Table.from_pylist(tracks, schema=TRACKS.schema), "k")
    piece = {"piece_id": "0-0000", "title": pieces[0].title}
    store.write_shard(PIECES, "p", "0", pa.Table.from_pylist([piece], schema=PIECES.schema), "k")
    result = take_in(store, None, Config(default_set="demo"))
    rows = rows_of(store)
    assert result.counts.refused == 0
    assert len(rows) >= 24
    assert {"melody", "clap", "prompt", "bpm", "key"} <= {
        name for row in rows for name in COLUMNS if row[name] is not None
    }
    assert all(4 <= row["seconds"] <= 8 for row in rows)


@pytest.mark.parametrize("default_set", ["text", "demo"])
def test_a_store_without_the_demo_corpus_gets_the_text_set(tmp_path: Path, default_set: str) -> None:
    store = Store(str(tmp_path / "store"))
    result = take_in(store, None, Config(default_set=default_set))
    assert result.counts.refused == 0
    assert result.counts.made == 8
