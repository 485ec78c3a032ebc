"""Files that rows name: they exist, have the recorded size, and belong to this version."""

import hashlib
import os

import pyarrow as pa
import pytest

from schemas import Store
from schemas.storage.row_files import absent_files, orphans
from schemas.tables import CHECKPOINTS, CLIPS, REPORTS


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}-{os.getpid()}")


def rows(table, *given):
    return pa.Table.from_pylist([{**dict.fromkeys(table.schema.names), **row} for row in given], schema=table.schema)


def test_a_missing_file_or_a_file_of_another_size_is_named(store):
    for name in ("a", "b"):
        store.write_bytes(f"audio/version=v/{name}.flac", b"sound")
    clips = [{"request_id": name, "take": 1, "path": f"audio/version=v/{name}.flac", "bytes": 5} for name in "abc"]
    clips[1]["bytes"] = 9
    assert absent_files(store, CLIPS, rows(CLIPS, *clips)) == [
        "",
        "audio/version=v/b.flac has 5 bytes, 9 were written",
        "audio/version=v/c.flac is not there",
    ]


def test_a_missing_folder_is_named(store):
    store.write_bytes("models/one/config.json", b"{}")
    models = [{"checkpoint_id": name, "path": f"models/{name}"} for name in ("one", "two")]
    assert absent_files(store, CHECKPOINTS, rows(CHECKPOINTS, *models)) == ["", "models/two is not there"]


def test_a_page_with_a_shared_name_is_identified_by_its_content(store):
    store.write_bytes("report/index.html", b"page 1")
    pages = [
        {
            "report_id": page,
            "path": "report/index.html",
            "bytes": 6,
            "sha256": hashlib.sha256(page.encode()).hexdigest(),
        }
        for page in ("page 1", "page 2")
    ]
    assert absent_files(store, REPORTS, rows(REPORTS, *pages)) == ["", "report/index.html belongs to another version"]


def test_files_that_no_row_names_are_listed_with_their_sizes(store):
    for path in ("audio/version=v/a.flac", "audio/version=v/b.flac", "audio/version=w/c.flac"):
        store.write_bytes(path, b"sound")
    assert orphans(store, "audio", {"audio/version=v/a.flac"}) == {
        "audio/version=v/b.flac": 5,
        "audio/version=w/c.flac": 5,
    }
    assert orphans(store, "nothing", set()) == {}
