"""Conditions on columns: a valid condition is evaluated for each row, and an invalid one is refused before anything
runs."""

import pyarrow as pa
import pytest

from schemas.queries.conditions import Conditions

SCHEMA = pa.schema(
    {
        "bandwidth": pa.float64(),
        "clipping": pa.float64(),
        "dual_mono": pa.bool_(),
        "genre": pa.string(),
        "moods": pa.list_(pa.string()),
    }
)
ROWS = pa.Table.from_pylist(
    [
        {"bandwidth": 22_050.0, "clipping": 0.0, "dual_mono": False, "genre": "jazz", "moods": ["calm"]},
        {"bandwidth": 11_000.0, "clipping": 0.0, "dual_mono": True, "genre": "Rock", "moods": []},
        {"bandwidth": None, "clipping": 0.5, "dual_mono": False, "genre": None, "moods": None},
    ],
    SCHEMA,
)


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("bandwidth > 12000 AND clipping < 0.001", [True, False, False]),
        ("bandwidth > 12000 OR bandwidth IS NULL", [True, False, True]),
        ("NOT dual_mono", [True, False, True]),
        ("Bandwidth BETWEEN 1e4 AND 12e3", [False, True, False]),
        ("lower(genre) IN ('jazz', 'rock')", [True, True, False]),
        ("genre LIKE 'j%' or genre ilike 'r%'", [True, True, False]),
        ("list_contains(moods, 'calm')", [True, False, False]),
        ("CASE WHEN dual_mono THEN bandwidth > 1 ELSE clipping < 0.1 END", [True, True, False]),
        ("-bandwidth / 2 < -6000", [True, False, False]),
        ("len(moods) = 0", [False, True, False]),
        ("true", [True, True, True]),
    ],
)
def test_a_condition_is_met_by_the_rows_for_which_it_is_true(condition, met):
    conditions = Conditions([condition], SCHEMA)
    assert [not failed for failed in conditions.failed(ROWS)] == met
    assert conditions.met(ROWS).to_pylist() == met


def test_rows_list_the_conditions_that_they_fail_and_conditions_their_columns():
    conditions = Conditions(["bandwidth > 12000", "clipping < 0.1 AND NOT dual_mono"], SCHEMA)
    assert conditions.failed(ROWS) == [(), conditions.texts, conditions.texts]
    assert conditions.met(ROWS).to_pylist() == [True, False, False]
    assert conditions.columns[conditions.texts[1]] == ("clipping", "dual_mono")
    assert conditions.all_columns == ("bandwidth", "clipping", "dual_mono")
    assert Conditions([], SCHEMA).failed(ROWS) == [(), (), ()]
    assert Conditions([], SCHEMA).met(ROWS).to_pylist() == [True, True, True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("bandwith > 12000", "there is no column bandwith; the columns are bandwidth"),
        ("bandwidth >", "syntax error"),
        (" ", "which is empty"),
        ("bandwidth", "true or false"),
        ("genre > 1 AND sqrt('a') > 1", "sqrt"),
        ("(SELECT true)", "subquery"),
        ("EXISTS (FROM read_text('/etc/passwd'))", "subquery"),
        ("genre IN (SELECT content FROM read_text('/etc/passwd'))", "subquery"),
        ("true) FROM read_csv('/etc/passwd') AS rows, (SELECT 1", "got"),
        ("true) FROM rows UNION SELECT (true", "got"),
        ("true), (true", "more than one expression"),
        ("true); DROP TABLE rows; SELECT (true", "got"),
        ("true -- ", "syntax error"),
        ("true /*", "got"),
        ("getvariable('x') = 1", "the function getvariable is not one"),
        ("random() < 0.5", "the function random is not one"),
        ("row_number() OVER () < 5", "window"),
        ("COLUMNS(*) > 1", "star"),
        ("list_filter(moods, lambda mood: true) = []", "list_filter"),
        ("bandwidth > ?", "parameter"),
        ("other.bandwidth > 1", "other.bandwidth"),
    ],
)
def test_an_invalid_condition_is_refused_with_its_text_and_the_reason(text, reason):
    with pytest.raises(ValueError, match="expected a condition") as error:
        Conditions(["bandwidth > 1", text], SCHEMA)
    assert reason in str(error.value), error.value
    assert text in str(error.value)


def test_a_condition_that_fails_on_a_row_is_named_in_the_error():
    conditions = Conditions(["CAST(genre AS INTEGER) > 1"], SCHEMA)
    with pytest.raises(ValueError, match=r"CAST.*Could not convert string 'jazz'"):
        conditions.failed(ROWS)
