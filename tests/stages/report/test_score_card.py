"""The score card: every number with its interval and n, refused measures with the reason, and nothing invented."""

from stages.report.score_card import Card, Cell, cell_of, score_cards
from tests.worlds.small_catalog import MEASURED, measure_row


def card(title: str, rows: list[dict]) -> Card:
    return next(card for card in score_cards(rows) if card.title == title)


def test_a_line_has_all_groups_and_the_share_of_the_ceiling() -> None:
    asked = card("What was asked", MEASURED)
    assert [name for name, _ in asked.headings] == [
        *("Clips", "Chance", "Untrained", "Codec ceiling", "Recordings", "Of the ceiling")
    ]
    key = next(line for line in asked.lines if line.name == "Key")
    assert [cell.value for cell in key.cells] == ["60 %", "10 %", "10 %", "75 %", "90 %", "80 %"]
    assert key.cells[0].interval == "50–70 · n 100"


def test_a_refused_measure_states_the_reason() -> None:
    sound = card("The sound itself", MEASURED)
    distance = next(line for line in sound.lines if line.name == "mel-FD")
    assert distance.cells[0] == Cell("–", "refused: expected at least 64 sounds")


def test_values_have_the_usual_form_of_their_units() -> None:
    assert cell_of(measure_row("centroid", "clips", 1894.2, unit="Hz", low=850.0, high=1950.0)).value == "1,894 Hz"
    assert cell_of(measure_row("dc", "clips", 0.00012, unit="full scale", low=0.0, high=0.0002)).value == "0.0001"
    assert cell_of(measure_row("clap_similarity", "clips", 0.25, unit="cosine")).value == "0.25"
    alone = cell_of(measure_row("centroid", "clips", 900.0, 1, unit="Hz", low=float("-inf"), high=float("inf")))
    assert (alone.value, alone.interval) == ("900 Hz", "n 1")
    assert cell_of(None) == Cell()


def test_experiments_have_their_own_tables_if_they_were_made() -> None:
    assert {each.title for each in score_cards(MEASURED)} == {"What was asked", "The sound itself"}
    swap = [measure_row("key_correct", "swap_followed", 0.5), measure_row("key_correct", "swap_ignored", 0.1)]
    guided = [measure_row("key_correct", f"guidance {value}", 0.4) for value in (10, 2, 1)]
    rows = [*MEASURED, *swap, *guided]
    assert [[cell.value for cell in line.cells] for line in card("Swap test", rows).lines] == [["50 %", "10 %"]]
    assert [name for name, _ in card("Guidance", rows).headings] == ["Guidance 1", "Guidance 2", "Guidance 10"]


def test_a_store_without_measures_has_no_card() -> None:
    assert score_cards([]) == []
