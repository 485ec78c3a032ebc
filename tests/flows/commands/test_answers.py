"""Answers to queries as tables, CSV and JSON."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from flows.commands.answers import print_answer, print_record

ANSWER = pa.table(
    {
        "title": ['a "quoted", odd\n[bold]title[/bold]', None],
        "codes": [[[1, 2], [3, 4]], []],
        "loss": [1.5, float("nan")],
        "metrics": pa.array([[("a", 1.0)], None], pa.map_(pa.string(), pa.float64())),
        "at": pa.array([datetime(2026, 1, 2, tzinfo=UTC), None], pa.timestamp("us", tz="UTC")),
    }
)


def printed(format, capsys, answer=ANSWER):
    print_answer(answer, format, Console(width=200))
    return capsys.readouterr().out


def test_json_is_strict_and_holds_nested_values(capsys):
    first, second = json.loads(printed("json", capsys), parse_constant=pytest.fail)
    assert first["codes"] == [[1, 2], [3, 4]]
    assert first["metrics"] == {"a": 1.0}
    assert first["at"] == "2026-01-02T00:00:00+00:00"
    assert second == {"title": None, "codes": [], "loss": None, "metrics": None, "at": None}


def test_numbers_of_single_precision_are_printed_with_their_original_digits(capsys):
    numbers = pa.array([0.91, float("nan"), None, 1e-20], pa.float32())
    rows = json.loads(printed("json", capsys, pa.table({"likeness": numbers})))
    assert [row["likeness"] for row in rows] == [0.91, None, None, 1e-20]


def test_csv_can_be_read_back(capsys):
    rows = list(csv.reader(io.StringIO(printed("csv", capsys))))
    assert rows[0] == ANSWER.column_names
    assert rows[1][0] == 'a "quoted", odd\n[bold]title[/bold]'
    assert json.loads(rows[1][1]) == [[1, 2], [3, 4]]


def test_tables_show_markup_as_text_and_count_their_rows(capsys):
    out = printed("table", capsys)
    assert "[bold]title[/bold]" in out
    assert out.splitlines()[-1] == "(2 rows)"


def test_columns_of_the_same_name_are_all_printed(capsys):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    assert json.loads(printed("json", capsys, twice)) == [{"n": 1, "n_1": 2}]
    assert printed("csv", capsys, twice) == "n,n\n1,2\n"


def test_an_answer_without_rows_is_printed(capsys):
    empty = ANSWER.slice(0, 0)
    assert json.loads(printed("json", capsys, empty)) == []
    assert printed("csv", capsys, empty).splitlines() == [",".join(ANSWER.column_names)]
    assert printed("table", capsys, empty) == "(0 rows)\n"


ID = "0123456789abcdef" * 4
NEAR = "0123456789abcdee" + "0" * 48
WIDE = pa.table({"track_id": [ID, NEAR], "melody": [f"track:{ID}", None], "path": [f"a/version={ID}/b.flac"] * 2})


def on_terminal(capsys, answer, width, full=False):
    print_answer(answer, "table", Console(width=width, force_terminal=True, no_color=True), full)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


def test_a_row_that_does_not_fit_is_printed_as_a_record_within_the_width_of_the_terminal(capsys):
    out = on_terminal(capsys, ANSWER, 40)
    assert out.splitlines()[0].rstrip() == "row 1 of 2"
    assert max(map(len, out.splitlines())) <= 40
    assert out.splitlines()[-1] == "(2 rows)"
    assert on_terminal(capsys, ANSWER.select(["loss"]), 40).splitlines()[0].split() == ["loss"]


def test_text_is_wrapped_before_an_answer_becomes_records(capsys):
    words = pa.table({"n": [1], "description": ["a warm ambient piece with bells over a pad, slow and calm"]})
    lines = on_terminal(capsys, words, 40).splitlines()
    assert lines[0].split() == ["n", "description"]
    assert max(map(len, lines)) <= 40


def test_ids_are_shortened_to_a_unique_prefix_and_paths_are_not_shortened(capsys):
    out = on_terminal(capsys, WIDE, 200)
    assert ID[:16] in out
    assert NEAR[:16] in out
    assert f"track:{ID[:16]}" in out
    assert ID[:17] not in out.replace(f"version={ID}", "")
    assert f"a/version={ID}/b.flac" in out
    assert re.search(rf"\b{ID[:12]}\b", on_terminal(capsys, WIDE.slice(0, 1), 200))


def test_full_output_and_output_that_is_not_to_a_terminal_are_not_shortened(capsys):
    codes = WIDE.append_column("codes", pa.array([list(range(100))] * 2))
    for out in (on_terminal(capsys, codes, 120, full=True), printed("table", capsys, codes)):
        assert out.count(ID) == 4
        assert "98, 99]" in out.replace("\n", " ")
        assert "…" not in out


NUMBERS = {"loudness": -17.507876203951334, "bytes": 12345678.9, "beats": [0.5217391304347826, 1.0], "n": 123456789}


def test_numbers_on_a_terminal_are_rounded_for_reading(capsys):
    answer = pa.Table.from_pylist([NUMBERS])
    short = ["-17.5079", "12345679", "[0.521739,", "1.0]", "123456789"]
    assert on_terminal(capsys, answer, 120).splitlines()[1].split() == short
    whole = ["-17.507876203951334", "12345678.9", "[0.5217391304347826,", "1.0]", "123456789"]
    assert on_terminal(capsys, answer, 120, full=True).splitlines()[1].split() == whole
    assert printed("table", capsys, answer).splitlines()[1].split() == whole
    assert json.loads(printed("json", capsys, answer)) == [NUMBERS]
    assert "-17.507876203951334,12345678.9," in printed("csv", capsys, answer)
    assert "| -17.507876203951334 |" in printed("markdown", capsys, answer)


def test_a_record_has_short_numbers_only_on_a_terminal_and_always_full_ids(capsys):
    row = NUMBERS | {"track_id": ID}
    print_record(Console(width=200, force_terminal=True, no_color=True), row)
    out = capsys.readouterr().out
    assert "-17.5079" in out
    assert "-17.50787" not in out
    assert ID in out
    print_record(Console(width=200), row)
    assert "-17.507876203951334" in capsys.readouterr().out


def test_markdown_prints_one_line_a_row(capsys):
    lines = printed("markdown", capsys, pa.table({"a|b": ["x|y\nz"], "n": [1.25]})).splitlines()
    assert lines == ["| a\\|b | n |", "| --- | --- |", "| x\\|y<br>z | 1.25 |"]


def test_parquet_can_be_read_back(capfdbinary):
    print_answer(ANSWER, "parquet", Console(width=200))
    read = pq.read_table(io.BytesIO(capfdbinary.readouterr().out))
    assert read.schema.names == ANSWER.schema.names
    assert read["title"].to_pylist() == ANSWER["title"].to_pylist()


def test_parquet_is_not_written_to_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(ValueError, match=r"got a terminal: add > answer\.parquet"):
        print_answer(ANSWER, "parquet", Console(width=200))
