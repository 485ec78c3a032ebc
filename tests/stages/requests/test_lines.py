"""Lines of a requests file: all forms of files are equivalent, and a bad line is refused by its number."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import Store
from stages.requests.lines import RequestLine
from stages.requests.reading import read_requests_file
from tests.worlds.requests_world import rejects_of, rows_of, store_of_tracks, take_in, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_tracks(tmp_path / "store")


def test_csv_jsonl_and_parquet_ask_for_the_same_clips(tmp_path: Path) -> None:
    lines = [
        {
            "name": "one",
            "description": 'Strings, "slow"\nand wide',
            "seconds": 5.5,
            "top_k": 50,
            "key": "Am",
            "genre": "folk",
        },
        {"description": "Guitar", "seed": 7, "bpm": 92.0, "takes": 2, "melody": "title:Kilo Sunday/Silver Window"},
        {"description": "Guitar", "moods": "calm;  dark,", "guidance_text": 2.5, "artist": "Tyler, the Other"},
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
        other = store_of_tracks(tmp_path / f"store-{name}")
        take_in(other, tmp_path / name)
        found.append([{**row, "line": 0} for row in rows_of(other)])
    assert len(found[0]) == 3
    assert found[0] == found[1] == found[2]
    assert found[0][0]["description"] == 'Strings, "slow" and wide'
    assert found[0][0]["key"] == "A minor"
    assert found[0][0]["fields"] == [("genre", "folk")]
    assert found[0][2]["fields"] == [("artist", "Tyler, the Other"), ("moods", "calm, dark")]
    assert [row["guidance_text"] for row in found[0]] == [1.0, 1.0, 2.5]
    assert found[0][1]["melody"] == f"track:{'aaaa2222' * 8}"


def test_lists_in_jsonl_and_parquet_become_texts_of_their_items(tmp_path: Path) -> None:
    lines = [{"name": "one", "moods": ["calm", " dark "], "genre": ["folk", "jazz"], "keywords": []}]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "r.parquet")
    for file in (write(tmp_path / "r.jsonl", *lines), tmp_path / "r.parquet"):
        (line,) = read_requests_file(str(file)).lines
        assert line.number == 1
        assert isinstance(line.asked, RequestLine)
        assert (line.asked.moods, line.asked.genre, line.asked.keywords) == ("calm, dark", "folk, jazz", None)


BAD = [
    ({"description": "x", "guidence": 3}, "unknown column", "guidence"),
    ({"description": "x", "seconds": -3}, "bad value", "seconds: expected greater than 0 seconds, got -3"),
    ({"description": "x", "seconds": 0}, "bad value", "seconds"),
    ({"description": "x", "seconds": 1e9}, "bad value", "at most 300"),
    ('{"description": "x", "seconds": 1e999}', "bad value", "finite"),
    ({"description": "x", "seconds": "eight"}, "bad value", "'eight'"),
    ({"description": "x", "seconds": True}, "bad value", "expected a number"),
    ({"description": "x", "seconds": [8]}, "bad value", "seconds"),
    ({"description": "x", "guidance": -1}, "bad value", "guidance"),
    ({"description": "x", "guidance_text": -1}, "bad value", "guidance_text"),
    ({"description": "x", "guidance_text": "much"}, "bad value", "guidance_text"),
    ({"description": "x", "genre": 5}, "bad value", "genre"),
    ({"description": "x", "genre": " "}, "bad value", "genre: expected some text"),
    ({"description": "x", "artist": "x" * 300}, "bad value", "200"),
    ({"description": "x", "moods": ["calm", 5]}, "bad value", "moods"),
    ({"description": "x", "moods": ";,"}, "bad value", "moods: expected some text"),
    ({"description": "x", "keywords": ["a\x00b"]}, "bad value", "printable"),
    ({"description": "x", "temperature": -0.1}, "bad value", "temperature"),
    ({"description": "x", "top_p": 1.5}, "bad value", "top_p"),
    ({"description": "x", "top_k": 2.5}, "bad value", "top_k"),
    ({"description": "x", "takes": 0}, "bad value", "takes"),
    ({"description": "x", "takes": 1_000_000}, "bad value", "at most 100"),
    ({"description": "x", "seed": -1}, "bad value", "seed"),
    ({"description": "x", "seed": 2**64}, "bad value", "seed"),
    ({"description": "x", "bpm": 4000}, "bad value", "bpm"),
    ({"description": "x", "key": "all over"}, "bad value", "A minor"),
    ({"description": "x" * 3000}, "bad value", "description: expected at most 2000 characters, got 3000"),
    ({"description": "x", "title": "x" * 300}, "bad value", "title: expected at most 200 characters, got 300"),
    ({"description": "a\x00b"}, "bad value", "printable"),
    ({"description": "a\u202eb"}, "bad value", "RIGHT-TO-LEFT OVERRIDE"),
    ({"description": "x", "seconds": 4, "duration": 5}, "bad value", "expected seconds once, got 'seconds' and"),
    ({"description": "x", "seed": 8.5}, "bad value", "seed: expected a valid integer"),
    ({"description": "x", "name": 8.5}, "bad value", "name: expected a valid string, got 8.5"),
    ({"description": "x", "bpm": 4000}, "bad value", "bpm: expected at most 400 beats a minute, got 4000"),
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
def test_a_bad_line_is_refused_by_its_number_and_the_others_are_kept(
    store: Store, tmp_path: Path, line: dict | str, kind: str, says: str
) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": "before"}, line, "", {"description": "after"}))
    assert [(row["line"], row["description"]) for row in rows_of(store)] == [(1, "before"), (4, "after")]
    reject = rejects_of(store)["line 2"]
    assert reject["kind"] == kind
    assert reject["message"].startswith("line 2: ")
    assert says in reject["message"]


def test_a_mistake_in_a_csv_line_affects_only_that_line(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    text = 'name,description,seconds,odd\na,"two\nlines",4,\nb,bad,x,\nc,ök,5,\nd,a,5,o\ne,many,5,,,6\n\n,,,\nf,short\n'
    file.write_bytes(text.encode() + b"g,caf\xe9,5,\n" + f"h,{'w' * 200_000},5,\n".encode() + b"i,last,6,\n")
    take_in(store, file)
    assert [(row["name"], row["line"]) for row in rows_of(store)] == [("a", 2), ("c", 5), ("f", 10), ("i", 13)]
    kinds = {key: row["kind"] for key, row in rejects_of(store).items()}
    assert kinds["line 4"] == "bad value"
    assert kinds["line 6"] == "unknown column"
    assert kinds["line 7"] == "unreadable"
    assert kinds["line 11"] == "bad value"
    assert kinds["line 12"] == "unreadable"


@pytest.mark.parametrize("words", ["Ein 👨‍👩‍👧‍👦 Lied", "می‌خواهم آرام باشد", "🏴󠁧󠁢󠁳󠁣󠁴󠁿 pipes", "co\u00adoperate"])
def test_joiners_in_emoji_and_letters_are_accepted_in_text(store: Store, tmp_path: Path, words: str) -> None:
    take_in(store, write(tmp_path / "r.jsonl", {"description": words, "title": words}))
    (row,) = rows_of(store)
    assert (row["description"], row["title"]) == (words, words)


def test_every_fault_of_a_line_is_reported(tmp_path: Path) -> None:
    line = {"seconds": -1, "takes": 0, "top_p": 7, "key": "all over", "bpm": 5, "melody": "x" * 3000}
    (refused,) = read_requests_file(str(write(tmp_path / "r.jsonl", line))).lines
    message = str(refused.asked)
    assert all(f"{name}: expected" in message for name in line)
    assert message.endswith("got 'all over'")
