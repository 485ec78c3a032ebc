"""Requests files as people have them: whichever program wrote them, the intended lines are read."""

import csv
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from openpyxl import Workbook

from stages.audio.references import RequestRefused
from stages.requests.lines import RequestLine
from stages.requests.reading import READERS, RequestsFile, read_requests_file

CASES = Path(__file__).parent / "cases"
"""Small faulty files, made by hand after public reports."""


def write_file(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder / name)


def asked(file: RequestsFile) -> list[dict]:
    """What the lines of a file ask for; none of them is refused."""
    refused = [line for line in file.lines if isinstance(line.asked, RequestRefused)]
    assert not refused
    return [line.asked.model_dump(exclude_none=True) for line in file.lines if isinstance(line.asked, RequestLine)]


def refusals(file: RequestsFile) -> dict[int, str]:
    return {line.number: str(line.asked) for line in file.lines if isinstance(line.asked, RequestRefused)}


# -- the cases ---------------------------------------------------------------------------------------------------------


def test_an_unclosed_quote_affects_only_the_line_in_which_it_opens():
    file = read_requests_file(str(CASES / "openquote.csv"))
    assert list(refusals(file)) == [2]
    assert "one opens in line 2" in refusals(file)[2]
    assert [line.name for line in file.lines] == [None, "second", "third"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("semicolon.csv", "semicolons"), ("tabs.tsv", "tabs"), ("order.txt", "each line is a description")],
)
def test_the_separator_of_cells_is_recognised_and_stated(name, said):
    file = read_requests_file(str(CASES / name))
    (line,) = asked(file)
    assert said in "; ".join(file.notes)
    assert "calm folk" in line["description"]


def test_decimal_commas_are_numbers():
    file = read_requests_file(str(CASES / "semicolon.csv"))
    assert asked(file)[0]["temperature"] == 0.9
    assert "numbers have decimal commas" in file.notes


def test_files_written_by_pandas_are_read_as_intended():
    first, second = read_requests_file(str(CASES / "nums.parquet")).lines
    assert isinstance(first.asked, RequestLine)
    assert first.asked.model_dump(exclude_none=True) == {
        **{"name": "1", "description": "calm", "seconds": 1.0, "takes": 2, "seed": 7, "top_k": 250}
    }
    assert "8.5" in str(second.asked)  # it is no seed; nothing else is wrong, because its NaN is empty
    assert str(second.asked).count("expected") == 1
    assert asked(read_requests_file(str(CASES / "decimal.parquet")))[0]["seconds"] == 1.5


# -- separators, encodings, quotes -------------------------------------------------------------------------------------

TEXTS = some.text(
    some.characters(codec="utf-8", exclude_categories=("C", "Z")) | some.sampled_from(' ,;|"\t\n'), max_size=12
)
LINES = some.fixed_dictionaries(
    {"description": TEXTS.map(lambda text: f"a {text} z"), "name": some.integers(0, 10**6).map(lambda n: f"n{n}")},
    optional={"seconds": some.sampled_from((4.0, 2.5, 0.75)), "takes": some.integers(1, 9), "moods": some.just("calm")},
)


@settings(max_examples=150, deadline=None)
@given(
    lines=some.lists(LINES, min_size=1, max_size=5),
    separator=some.sampled_from(",;\t|"),
    encoding=some.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")),
    line_end=some.sampled_from(("\n", "\r\n")),
    quoting=some.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    comma=some.booleans(),
)
def test_lines_written_in_any_dialect_are_read_unchanged(
    tmp_path_factory, lines, separator, encoding, line_end, quoting, comma
):
    text = io.StringIO(newline="")
    columns = ("name", "description", "seconds", "takes", "moods")
    writer = csv.DictWriter(text, columns, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    for line in lines:
        seconds = {"seconds": str(line["seconds"]).replace(".", ",")} if comma and "seconds" in line else {}
        writer.writerow(line | seconds)
    path = write_file(tmp_path_factory.getbasetemp(), "dialect.csv", text.getvalue().encode(encoding))
    one_line = [line | {"description": " ".join(line["description"].split())} for line in lines]
    assert asked(read_requests_file(path)) == one_line


def test_a_missing_closing_quote_is_reported_with_its_line_and_the_others_are_kept(tmp_path):
    text = 'name,description\na,"one\nb,"two"\nc,three\nd,"say "hi""\ne,"a ""quoted"" word"\n'
    file = read_requests_file(write_file(tmp_path, "r.csv", text))
    assert sorted(refusals(file)) == [2, 5]
    assert "opens in line 2 and is closed in line 3" in refusals(file)[2]
    assert [line.name for line in file.lines if line.number not in (2, 5)] == ["b", "c", "e"]
    assert file.lines[-1].asked.description == 'a "quoted" word'


def test_a_cell_over_several_lines_is_read_and_stated(tmp_path):
    file = read_requests_file(write_file(tmp_path, "r.csv", 'name,description\na,"one\ntwo"\nb,three\n'))
    assert [line["description"] for line in asked(file)] == ["one two", "three"]
    assert file.notes == ["a cell of line 2 extends to line 3"]


def test_western_text_as_excel_writes_it_is_read_and_stated(tmp_path):
    text = "name;description\nä;“Größe” … naïve café – für 5 €\nb;calm"
    (tmp_path / "excel.csv").write_bytes(text.encode("cp1252"))
    file = read_requests_file(str(tmp_path / "excel.csv"))
    assert [line["description"] for line in asked(file)] == ["“Größe” … naïve café – für 5 €", "calm"]
    assert "read as Windows-1252" in file.notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("name,description\na,спокойное фортепиано", "cp1251"), ("name,description\na,静かなピアノ", "shift_jis")],
)
def test_text_in_another_encoding_is_refused_and_not_guessed(tmp_path, text, encoding):
    (tmp_path / "other.csv").write_bytes(text.encode(encoding))
    assert list(refusals(read_requests_file(str(tmp_path / "other.csv")))) == [2]


def test_a_line_that_is_not_utf_8_is_refused_if_another_one_is(tmp_path):
    (tmp_path / "both.csv").write_bytes("name,description\na,Größe\n".encode() + "b,Größe\n".encode("cp1252"))
    assert list(refusals(read_requests_file(str(tmp_path / "both.csv")))) == [3]


def test_a_line_that_states_the_separator_is_obeyed(tmp_path):
    file = read_requests_file(write_file(tmp_path, "r.csv", "sep=;\r\ndescription;seconds\r\na, b and c;1,5\r\n"))
    assert asked(file) == [{"description": "a, b and c", "seconds": 1.5}]
    assert file.lines[0].number == 3


def test_a_comma_is_not_decimal_if_other_numbers_have_points_or_it_may_separate_thousands(tmp_path):
    both = read_requests_file(write_file(tmp_path, "r.csv", "name;seconds\na;1,5\nb;1.5\n"))
    assert list(refusals(both)) == [2]
    thousands = read_requests_file(write_file(tmp_path, "s.csv", 'name,seconds\na,"1,000"\n'))
    assert "'1,000'" in refusals(thousands)[2]
    assert asked(read_requests_file(write_file(tmp_path, "t.csv", 'name,seconds\na,"1,5"\n')))[0]["seconds"] == 1.5
    takes = read_requests_file(write_file(tmp_path, "u.csv", "name;takes\na;1,5\n"))
    assert list(refusals(takes)) == [2]


@pytest.mark.parametrize("word", ["NaN", "None", "<NA>", "null", "N/A", "nan"])
def test_words_for_nothing_are_empty_cells(tmp_path, word):
    text = f"name,description,seconds,takes\na,{word},{word},{word}\n"
    assert asked(read_requests_file(write_file(tmp_path, "r.csv", text))) == [{"name": "a"}]


# -- pandas, JSON, spreadsheets ----------------------------------------------------------------------------------------


def test_a_data_frame_is_the_same_order_in_every_form_that_pandas_writes(tmp_path):
    frame = pandas.DataFrame(
        {"name": [1, 2, 3], "description": ["calm", None, "dark"], "seconds": [4.0, None, 2.5], "takes": [2, None, 1]}
    )
    frame.to_csv(tmp_path / "r.csv")
    frame.to_csv(tmp_path / "bare.csv", index=False, sep=";", decimal=",", na_rep="NaN", encoding="utf-16")
    frame.to_json(tmp_path / "r.json", orient="records")
    frame.to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    frame.iloc[[0, 1, 2]].set_index(pandas.Index([7, 8, 9])).to_parquet(tmp_path / "r.parquet")
    frame.to_excel(tmp_path / "r.xlsx")
    orders = [asked(read_requests_file(str(tmp_path / name))) for name in sorted(p.name for p in tmp_path.iterdir())]
    assert len(orders) == 6
    assert orders[0] == [
        {"name": "1", "description": "calm", "seconds": 4.0, "takes": 2},
        {"name": "2"},
        {"name": "3", "description": "dark", "seconds": 2.5, "takes": 1},
    ]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.ndjson"])
@pytest.mark.parametrize("form", ["list", "indented list", "lines", "within"])
def test_json_lists_and_lines_are_equivalent(tmp_path, name, form):
    lines = [{"description": "a\nb", "seconds": 4}, {"description": "c", "seconds": None, "takes": float("nan")}]
    text = {
        "list": json.dumps(lines),
        "indented list": "\ufeff" + json.dumps(lines, indent=2),
        "lines": "\n".join(map(json.dumps, lines)),
        "within": json.dumps({"version": 1, "requests": lines}),
    }[form]
    file = read_requests_file(write_file(tmp_path, name, text))
    assert asked(file) == [{"description": "a b", "seconds": 4.0}, {"description": "c"}]
    assert [line.number for line in file.lines] == [1, 2]


def test_a_json_list_item_that_is_no_object_is_refused_and_a_broken_list_is_an_error(tmp_path):
    file = read_requests_file(write_file(tmp_path, "r.json", '[{"name": "a"}, "b", {"name": "c"}]'))
    assert list(refusals(file)) == [2]
    with pytest.raises(ValueError, match=r"broken\.json: got a broken JSON list: .*line 2"):
        read_requests_file(write_file(tmp_path, "broken.json", '[{"name": "a"},\n {"name": b}]'))


def _workbook(tmp_path: Path, *rows: list, name: str = "r.xlsx") -> str:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / name)
    return str(tmp_path / name)


def test_a_spreadsheet_may_have_a_title_above_and_empty_rows_between(tmp_path):
    heading = ["Name", "Text", "Duration (s)", None, "Takes"]
    file = read_requests_file(
        _workbook(tmp_path, ["Order of Friday"], [], heading, [1, " calm ", 4], [], ["b", "dark", 2.5, None, 2])
    )
    assert asked(file) == [
        {"name": "1", "description": "calm", "seconds": 4.0},
        {"name": "b", "description": "dark", "seconds": 2.5, "takes": 2},
    ]
    assert [line.number for line in file.lines] == [4, 6]
    assert "the heading is row 3" in file.notes


def test_the_sheet_with_known_columns_is_read_and_stated(tmp_path):
    book = Workbook()
    book.active.append(["Notes to myself"])
    sheet = book.create_sheet("Orders")
    sheet.append(["description"])
    sheet.append(["calm"])
    book.save(tmp_path / "r.xlsx")
    file = read_requests_file(str(tmp_path / "r.xlsx"))
    assert asked(file) == [{"description": "calm"}]
    assert file.notes == ["the sheet 'Orders' is read, not 'Sheet'"]


def test_an_unevaluated_formula_a_date_and_an_error_value_are_refused_by_their_row(tmp_path):
    heading, date = ["name", "seconds", "key"], datetime.date(2026, 3, 4)
    file = read_requests_file(_workbook(tmp_path, heading, ["a", "=2*2"], ["b", 4, date], ["c", "#REF!"], ["d", 4]))
    assert "the formula =2*2 without a saved result" in refusals(file)[2]
    assert "the date 2026-03-04" in refusals(file)[3]
    assert "#REF!" in refusals(file)[4]
    assert file.lines[-1].asked == RequestLine(name="d", seconds=4)


# -- columns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "column", "value"),
    [
        *(("text", "description", "calm"), ("Caption", "description", "calm"), ("prompt", "description", "calm")),
        *(("duration", "seconds", 4.0), ("Length (s)", "seconds", 4.0), ("seconds [s]", "seconds", 4.0)),
        *(("count", "takes", 4), ("n", "takes", 4), ("copies", "takes", 4), ("cfg", "guidance", 4.0)),
        *(("Top K", "top_k", 4), ("prompt-seconds", "prompt_seconds", 4.0), ("ID", "name", "calm")),
    ],
)
def test_other_names_of_columns_are_understood_and_stated(tmp_path, heading, column, value):
    file = read_requests_file(write_file(tmp_path, "r.csv", f"title,{heading}\nT,{value}\n"))
    assert asked(file) == [{"title": "T", column: value}]
    said = f"columns: {heading!r} is read as {column}" in file.notes
    assert said == (heading not in ("Top K", "prompt-seconds", "seconds [s]"))  # the same name in another spelling
    (tmp_path / "r.json").write_text(json.dumps([{heading: value}]))
    assert asked(read_requests_file(str(tmp_path / "r.json"))) == [{column: value}]


def test_a_prompt_column_is_a_recording_if_it_names_one_or_another_column_describes(tmp_path):
    sound = write_file(tmp_path, "r.csv", "name,prompt\na,title:Silver Window\nb,calm\n")
    assert [line.get("prompt") for line in asked(read_requests_file(sound))] == ["title:Silver Window", "calm"]
    both = write_file(tmp_path, "s.csv", "text,prompt\nslow,calm\n")
    assert asked(read_requests_file(both)) == [{"description": "slow", "prompt": "calm"}]


@pytest.mark.parametrize(
    ("heading", "nearest"), [("secnds", "seconds"), ("descripton", "description"), ("guidence", "guidance")]
)
def test_the_nearest_known_name_is_suggested_for_an_unknown_column(tmp_path, heading, nearest):
    file = read_requests_file(write_file(tmp_path, "r.csv", f"name,{heading}\na,4\nb,\n"))
    assert f"did you mean {nearest}?" in refusals(file)[2]
    assert file.lines[1].asked == RequestLine(name="b")  # a line with an empty cell there is not affected
    with pytest.raises(ValueError, match=f"{heading!r} may mean {nearest}"):
        read_requests_file(write_file(tmp_path, "s.csv", f"{heading},colour\n4,red\n"))


# -- files that are not requests files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.csv", b""),
        ("r.csv", b"one,two\n1,2\n"),
        ("r.csv", b"seconds,seconds\n1,2\n"),
        ("r.csv", b"description\n"),
        ("r.csv", b"\xff\xfe odd"),
        ("r.txt", b"one;two words;three\n"),
        ("r.jsonl", b"\n\n"),
        ("r.json", b"[]"),
        ("r.parquet", b"PAR1 is not all it takes"),
        ("r.csv.gz", b"not packed"),
        ("r.xlsx", b"PK"),
        ("r.ods", b"PK"),
        ("missing.csv", None),
    ],
)
def test_other_files_are_refused_with_one_error(tmp_path, name, data):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"expected.*requests?"):
        read_requests_file(str(tmp_path / name))


def test_a_heading_without_lines_is_an_error(tmp_path):
    for text in ("description,seconds", "description,seconds\n\n"):
        with pytest.raises(ValueError, match=r"^expected at least one request in .*/r\.csv, got none$"):
            read_requests_file(write_file(tmp_path, "r.csv", text))


@settings(deadline=None)
@given(data=some.binary(max_size=300), suffix=some.sampled_from(sorted(READERS)))
def test_any_bytes_give_lines_or_one_error(tmp_path_factory, data, suffix):
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_bytes(data)
    try:
        lines = read_requests_file(str(file)).lines
    except ValueError as error:
        assert str(file) in str(error)  # noqa: PT017
        return
    assert all(isinstance(line.asked, RequestLine) or (line.asked.kind and str(line.asked)) for line in lines)


def test_a_decimal_of_a_database_is_read_as_a_number(tmp_path):
    pq.write_table(pa.table({"name": ["a"], "guidance": [Decimal("2.50")]}), tmp_path / "r.parquet")
    assert asked(read_requests_file(str(tmp_path / "r.parquet"))) == [{"name": "a", "guidance": 2.5}]
