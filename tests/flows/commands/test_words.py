"""Text in a query: the table `words`, embedded by the CLAP that embedded the store's sounds."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from flows.cli import run_command
from flows.commands.options import parse_run_options
from flows.commands.words import embed_words
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.queries.database import query
from schemas.storage.versions import record_version
from schemas.tables import CLAP, SCORES, WEIGHTS, Table
from schemas.weights import folder_digest
from stages.networks.clap import load_joint_embedder
from tests.worlds.clap_models import laion_network, write_transformers
from tests.worlds.command_line import make_recordings
from tests.worlds.tiny_clap import clap_folder

WORDS = ["a slow folk song with guitar", "Techno!"]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clap")
    write_transformers(folder, laion_network(0))
    return folder


def embedded_store(place: Path, clap: Path, table: Table, field: str, rows: list[dict[str, Any]]) -> Store:
    """A store with one embedded table, and the records of its version and weights."""
    store, digest = Store(str(place)), folder_digest(clap)
    row = {"reference": str(clap), "digest": digest, "revision": "", "stamp": "", "bytes": 1}
    store.write_shard(WEIGHTS, "1", "w", pa.Table.from_pylist([row], schema=WEIGHTS.schema), "w")
    record_version(store, "v1", table.name, 1, json.dumps({field: {"weights": digest}}), {})
    store.write_shard(table, "v1", "0", pa.Table.from_pylist(rows, schema=table.schema), "k")
    return store


@pytest.mark.parametrize(("table", "field"), [(SCORES, "clap"), (CLAP, "model")])
def test_words_are_embedded_by_the_clap_that_embedded_the_stores_sounds(
    table: Table, field: str, clap: Path, tmp_path: Path
) -> None:
    store = embedded_store(tmp_path / "store", clap, table, field, [])
    found = embed_words(store, WORDS, offline=True)
    expected = load_joint_embedder(clap).embed_text(WORDS)
    assert list(found) == WORDS
    assert all(np.array_equal(found[text], embedding) for text, embedding in zip(WORDS, expected, strict=True))


def test_the_recording_nearest_to_a_text_is_found_by_one_query(clap: Path, tmp_path: Path) -> None:
    of_words = load_joint_embedder(clap).embed_text(WORDS)
    rows = [
        {"track_id": "folk", "starts": [0.0, 10.0], "embeddings": [-of_words[0], of_words[0]]},
        {"track_id": "techno", "starts": [0.0], "embeddings": [of_words[1]]},
    ]
    store = embedded_store(tmp_path / "store", clap, CLAP, "model", rows)
    nearest = """
        SELECT words, track_id, list_max([list_cosine_similarity(e, w.embedding) FOR e IN c.embeddings]) AS likeness
        FROM words w, clap c QUALIFY row_number() OVER (PARTITION BY words ORDER BY likeness DESC) = 1 ORDER BY words
    """
    answer = query(store, nearest, words=embed_words(store, WORDS, offline=True)).to_pylist()
    assert [(row["words"], row["track_id"]) for row in answer] == [("Techno!", "techno"), (WORDS[0], "folk")]
    assert all(row["likeness"] == pytest.approx(1, abs=1e-5) for row in answer)


def test_stored_descriptions_find_their_nearest_recordings_and_only_changed_ones_are_embedded_again(
    tmp_path: Path,
) -> None:
    clap = clap_folder(tmp_path / "clap", 16)
    make_recordings(tmp_path / "music", 2)
    settings = {"store": str(tmp_path / "store"), "source": str(tmp_path / "music"), "device": "cpu", "offline": True}
    knobs = [f"clap.model={clap}", "clap.vocabulary=null"]

    def run(*told: str) -> dict[str, Any]:
        for number, text in enumerate(told):
            (tmp_path / "music" / f"{number}.json").write_text(json.dumps({"description": text}))
        options = parse_run_options(["ingest", "clap", "descriptions"], "musicgen-small", settings, knobs)
        current = Run(options.plan)
        run_stages(current)
        return {result.stage: (result.counts.made, result.counts.reused) for result in current.results[1:]}

    assert run("calm piano", "fast drums") == {"clap": (2, 0), "descriptions": (2, 0)}
    nearest = """
        SELECT description, arg_max(c.track_id, list_cosine_similarity(embeddings[1], description_embedding)) AS found
        FROM descriptions d, clap c GROUP BY ALL ORDER BY ALL
    """
    with duckdb.connect(str(tmp_path / "store" / "segue.duckdb"), read_only=True) as client:
        answer = client.execute(nearest).fetchall()
    embedded = {row["track_id"]: row["embeddings"][0] for row in Store(settings["store"]).read_all(CLAP).to_pylist()}
    texts = ["calm piano", "fast drums"]
    similarity = load_joint_embedder(clap).embed_text(texts) @ np.array(list(embedded.values())).T
    assert answer == [(text, list(embedded)[best]) for text, best in zip(texts, similarity.argmax(1), strict=True)]
    assert run("calm piano", "slow strings") == {"clap": (0, 2), "descriptions": (1, 1)}
    told = query(Store(settings["store"]), "SELECT description FROM descriptions ORDER BY ALL").to_pylist()
    assert [row["description"] for row in told] == ["calm piano", "slow strings"]


def test_the_command_line_gives_every_text_a_row(clap: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    embedded_store(tmp_path / "store", clap, CLAP, "model", [])
    given = [word for text in WORDS for word in ("--words", text)]
    question = "SELECT words, len(embedding) AS size FROM words ORDER BY words"
    assert run_command(["sql", question, *given, "--format", "json", "--store", str(tmp_path / "store")]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer == [{"words": "Techno!", "size": 512}, {"words": WORDS[0], "size": 512}]


def test_a_store_without_embeddings_is_refused_with_the_stage_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected tracks or clips in .* that a CLAP embedded.* run the stage clap"):
        embed_words(Store(str(tmp_path)), ["calm"])


def test_a_query_without_words_has_an_empty_table_words(tmp_path: Path) -> None:
    assert query(Store(str(tmp_path)), "SELECT words, embedding FROM words").num_rows == 0
