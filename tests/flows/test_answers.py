"""Answers to queries as tables, CSV and JSON."""

import csv
import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from rich.console import Console

from flows.output import print_answer

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


def test_csv_reads_back(capsys):
    rows = list(csv.reader(io.StringIO(printed("csv", capsys))))
    assert rows[0] == ANSWER.column_names
    assert rows[1][0] == 'a "quoted", odd\n[bold]title[/bold]'
    assert json.loads(rows[1][1]) == [[1, 2], [3, 4]]


def test_tables_hold_data_not_markup_and_count_their_rows(capsys):
    out = printed("table", capsys)
    assert "[bold]title[/bold]" in out
    assert out.splitlines()[-1] == "(2 rows)"


def test_columns_of_one_name_are_all_there(capsys):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])
    assert json.loads(printed("json", capsys, twice)) == [{"n": 1, "n_1": 2}]
    assert printed("csv", capsys, twice) == "n,n\n1,2\n"


def test_an_answer_without_rows_is_printed(capsys):
    empty = ANSWER.slice(0, 0)
    assert json.loads(printed("json", capsys, empty)) == []
    assert printed("csv", capsys, empty).splitlines() == [",".join(ANSWER.column_names)]
    assert printed("table", capsys, empty) == "(0 rows)\n"
