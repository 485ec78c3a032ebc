"""Remarks on a source: metadata that describes nothing, names that fit loosely, files that are excluded."""

import json
import os

import pytest

from stages import ingest
from stages.pipeline.planning import plan_stage
from stages.pipeline.plans import ConfiguredStage
from tests.worlds.ingest_world import World
from tests.worlds.recordings import write


@pytest.fixture
def world(tmp_path):
    """A source of three recordings, and a store."""
    world = World(tmp_path)
    for seed, name in enumerate(("a.flac", "b.flac", "sub/c.flac")):
        world.add(name, seed)
    return world


def _plan(world):
    return plan_stage(ConfiguredStage("ingest", ingest, world.config), world.context(), True)


def test_rows_that_name_no_recording_are_remarked_by_the_plan_and_the_run(world):
    write(world.music / "metadata.csv", b"file_name,title\nx.wav,X\ny.wav,Y\n")
    expected = [("no row names a recording here", "metadata.csv", 2, ["x.wav", "y.wav"])]
    planned = [(each.what, each.location, each.count, list(each.examples)) for each in _plan(world).remarks]
    world.run()
    assert planned == world.remarks() == expected
    write(world.music / "metadata.csv", b"file_name,title\na.flac,A\ny.wav,Y\n")
    world.run()
    assert world.remarks() == [
        ("recordings that no table, sidecar or manifest describes", "", 2, ["b.flac", "sub/c.flac"]),
        ("rows that name no recording", "metadata.csv", 1, ["y.wav"]),
    ]


def test_a_remark_on_metadata_that_changes_no_row_appears_and_disappears(world):
    world.run()
    assert world.remarks() == []
    write(world.music / "metadata.csv", b"file_name,title\nx.wav,X\n")
    plan = _plan(world)
    assert (plan.make, plan.drop, plan.jobs) == (0, 0, ("all",))
    world.run()
    assert [what for what, *_ in world.remarks()] == ["no row names a recording here"]
    assert world.read == 0
    os.remove(world.music / "metadata.csv")
    world.run()
    assert world.remarks() == []


def test_names_that_differ_are_matched_if_one_file_fits_with_a_remark(world):
    table = b"file_name,title\nA.FLAC,case\nsub\\c.flac,separators\nb.mp3,ending\n"
    write(world.music / "Metadata.csv", table)
    world.run()
    assert {name: row["title"] for name, row in world.rows().items()} == {
        "a.flac": "case",
        "b.flac": "ending",
        "sub/c.flac": "separators",
    }
    told = "names matched although they differ in {}"
    assert world.remarks() == [
        (told.format("case"), "Metadata.csv", 1, ["A.FLAC → a.flac"]),
        (told.format("ending"), "Metadata.csv", 1, ["b.mp3 → b.flac"]),
        (told.format("separators"), "Metadata.csv", 1, ["sub\\c.flac → sub/c.flac"]),
    ]


def test_an_exact_row_comes_before_a_loose_one_and_a_second_row_is_remarked(world):
    write(world.music / "metadata.csv", b"file_name,title\nA.flac,loose\na.flac,exact\na.flac,again\n")
    world.run()
    assert world.rows()["a.flac"]["title"] == "exact"
    [again] = [remark for remark in world.remarks() if "names too" in remark[0]]
    assert again[2:] == (2, ["a.flac"])


def test_a_spreadsheets_table_is_read_and_guesses_are_remarked(world):
    write(world.music / "metadata.csv", "\ufefffile_name;title;bpm\r\na.flac;Gr\u00f6\u00dfe;120,5\r\n".encode())
    write(world.music / "sub" / "metadata.csv", b"file_name,title,artist\nc.flac,Caf\xe9,Bj\xf6rk\n")
    world.run()
    assert (world.rows()["a.flac"]["title"], world.rows()["a.flac"]["bpm"]) == ("Gr\u00f6\u00dfe", 120.5)
    assert (world.rows()["sub/c.flac"]["title"], world.rows()["sub/c.flac"]["artist"]) == ("Caf\u00e9", "Bj\u00f6rk")
    whats = {what: (where, count) for what, where, count, _ in world.remarks()}
    assert whats["a table with columns separated by ';'"] == ("metadata.csv", 1)
    assert whats["lines that are not UTF-8, read as Windows-1252"] == ("sub/metadata.csv", 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_tables_with_every_separator_and_unicode_encoding_are_read(world, encoding, separator):
    rows = ("file_name", "title"), ("a.flac", "T\u00ebst")
    write(world.music / "metadata.csv", "\n".join(separator.join(row) for row in rows).encode(encoding))
    world.run()
    assert world.rows()["a.flac"]["title"] == "T\u00ebst"


@pytest.mark.parametrize(
    "text",
    [
        '[{"file_name": "a.flac", "title": "T"}, {"file_name": "b.flac", "title": "U"}]',
        '{"file_name": "a.flac", "title": "T"}\n{"file_name": "b.flac", "title": "U"}\n',
        '{"a.flac": {"title": "T"}, "b.flac": {"title": "U"}}',
        '\ufeff[\n {"file_name": "a.flac",\n  "title": "T"},\n {"file_name": "b.flac", "title": "U"}\n]\n',
    ],
)
def test_metadata_json_may_be_a_list_lines_or_files_by_name(world, text):
    write(world.music / "metadata.json", text.encode())
    world.run()
    assert [world.rows()[name]["title"] for name in ("a.flac", "b.flac")] == ["T", "U"]


def test_a_table_of_another_name_or_with_other_columns_is_remarked(world):
    write(world.music / "tracks.csv", b"file_name,title\na.flac,T\n")
    write(world.music / "metadata.csv", b"filename,title\na.flac,T\n")
    world.run()
    remarks = {what: (where, examples) for what, where, _, examples in world.remarks()}
    where, [example] = remarks["tables and manifests that could not be read whole"]
    assert (where, example) == ("metadata.csv", "expected rows with a column file_name, got filename, title")
    [other] = [examples for what, (_, examples) in remarks.items() if what.startswith("tables with other names")]
    assert other == ["tracks.csv"]


def test_sidecars_by_whole_name_or_in_another_case_are_read_and_others_remarked(world):
    for name, title in {"a.flac.json": "whole", "B.JSON": "case", "package.json": "of no recording"}.items():
        write(world.music / name, json.dumps({"title": title}).encode())
    world.run()
    titles = {name: row["title"] for name, row in world.rows().items()}
    assert titles == {"a.flac": "whole", "b.flac": "case", "sub/c.flac": None}
    remarks = {what: examples for what, _, _, examples in world.remarks()}
    assert remarks["JSON files that belong to no recording"] == ["package.json"]
    assert remarks["sidecars matched although their names differ in case"] == ["B.JSON → b.flac"]


def test_faults_in_the_metadata_of_tracks_are_counted_by_kind(world):
    for name in ("a", "b", "sub/c"):
        write(world.music / f"{name}.json", json.dumps({"bpm": f"fast {name}", "key": "all over"}).encode())
    write(world.music / "broken.json", b"{")
    write(world.music / "sub" / "c.json", b"{")
    world.run()
    remarks = {what: (count, examples) for what, _, count, examples in world.remarks()}
    count, examples = remarks["bpm: expected a number from 20 to 400"]
    assert count == 2
    assert "fast a" in examples[0]
    assert remarks["key: expected a key such as A minor, Am or 8A"][0] == 2
    assert remarks["expected JSON"][0] == 1
    assert all(row["key"] is None for row in world.rows().values())


def test_hostile_names_in_tables_are_remarked_as_plain_text(world):
    write(world.music / "metadata.csv", ("file_name,title\n\x1b[31mred\x00.wav,x\n" + "y" * 3000 + ",z\n").encode())
    world.run()
    [(_, _, count, examples)] = world.remarks()
    assert count == 2
    assert examples[0] == "[31mred.wav"
    assert len(examples[1]) == 200
