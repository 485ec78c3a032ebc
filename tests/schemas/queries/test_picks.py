"""Picks: verdicts by ear are read from JSON and CSV, and an invalid file is refused."""

import json

import pytest

from schemas.queries.picks import Picks, read_picks


def written(tmp_path, content: object, name: str = "picks.json") -> str:
    path = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8-sig" if name.endswith("csv") else "utf-8")
    return str(path)


def picks(*rows: object) -> dict:
    return {"format": "segue-picks-2", "store": "file:///store", "picks": list(rows)}


EXPECTED = Picks({("a", 1): "pick", ("a", 2): "refuse"})


def test_picks_from_json_and_csv_are_equal(tmp_path):
    rows = [{"request_id": "a", "take": take, "verdict": verdict} for take, verdict in ((1, "pick"), (2, "refuse"))]
    assert read_picks(written(tmp_path, picks(*rows))) == EXPECTED
    table = "request_id, take ,verdict\r\na,1,Pick\r\na,2, refuse \r\n"
    assert read_picks(written(tmp_path, table, "picks.csv")) == EXPECTED
    assert (EXPECTED.picked, EXPECTED.refused) == ({("a", 1)}, {("a", 2)})


def test_the_later_of_two_verdicts_on_a_clip_counts(tmp_path):
    table = "request_id,take,verdict\na,1,pick\na,1,refuse\n"
    assert read_picks(written(tmp_path, table, "picks.csv")).verdicts == {("a", 1): "refuse"}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("{", "picks.json", "expected picks as JSON in .*picks.json"),
        ([], "picks.json", "expected .*segue-picks-2.* got 'list'"),
        ({"format": "segue-picks-1", "picks": []}, "picks.json", "segue-picks-2.* got 'segue-picks-1'"),
        (picks({"take": 1, "verdict": "pick"}), "picks.json", "expected a request_id and a take from 1 in pick 1 of"),
        (picks({"request_id": "a", "take": 0, "verdict": "pick"}), "picks.json", "take from 1 in pick 1"),
        (picks(3), "picks.json", "take from 1 in pick 1 of .*, got 3"),
        (picks({"request_id": "a", "take": 1, "verdict": "yes"}), "picks.json", "pick or refuse in pick 1 .* 'yes'"),
        ("name,take\na,0\n", "picks.csv", "the columns request_id, take, verdict in .*, got name, take"),
        ("request_id,take,verdict\na,x,pick\n", "picks.csv", "take from 1 in line 2 of"),
        ("request_id,take,verdict\na,1,pick\na,0,pick\n", "picks.csv", "take from 1 in line 3 of"),
        ('request_id,take,verdict\n"a,0,pick\n', "picks.csv", "expected picks as CSV"),
    ],
)
def test_an_invalid_picks_file_is_refused_with_what_was_expected(tmp_path, content, name, message):
    with pytest.raises(ValueError, match=message):
        read_picks(written(tmp_path, content, name))


def test_a_missing_picks_file_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"expected picks as JSON or CSV at .*nothing\.json, got nothing there"):
        read_picks(str(tmp_path / "nothing.json"))
