"""The whole pipeline as its user runs it: once, and again."""

import hashlib
import itertools
import json
import subprocess
import sys

from schemas import Store
from schemas.queries.database import query
from schemas.tables import CHECKPOINTS, CLIPS, RECONSTRUCTIONS
from schemas.weights import folder_digest
from tests.worlds.smallest_run import ROOT, digests, environment, segue

STAGES = (
    *("demo", "ingest", "train_codec", "demo_models", "chroma", "rhythm", "harmony", "clap", "descriptions"),
    *("tokenize", "train"),
    *("requests", "generate", "gate", "decode", "evaluate", "nearest", "originality", "controls", "measure", "report"),
)


def test_one_command_fills_every_table_and_the_store_is_complete(catalog):
    store = Store(str(catalog))
    for table in (
        "tracks",
        "chroma",
        "clap",
        "tokens",
        "checkpoints",
        "training",
        "requests",
        "generations",
        "verdicts",
        "clips",
    ):
        assert query(store, f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"] > 0, table
    for row in store.read_all(CHECKPOINTS).to_pylist():
        assert folder_digest(store.local(row["path"])) == row["digest"]
    for row in store.read(CLIPS, store.versions(CLIPS)[0]).to_pylist():
        assert store.exists(row["path"])
    kept = store.read_all(RECONSTRUCTIONS).to_pylist()
    assert kept
    for row, side in itertools.product(kept, ("original", "decoded")):
        assert hashlib.sha256(store.read_bytes(row[side])).hexdigest() == row[f"{side}_sha256"]
    assert store.exists("report/index.html")
    assert (catalog / "segue.duckdb").exists()
    assert list(catalog.rglob("*.inprogress")) == []


def test_the_codes_and_samples_of_a_clip_can_be_made_again_exactly(catalog, home):
    store = Store(str(catalog))
    (clip,) = query(store, "SELECT path FROM clips ORDER BY seconds LIMIT 1").to_pylist()
    words = ["verify", store.path(clip["path"]), "--render", "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *words, "--store", str(catalog)],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    (findings,) = json.loads(done.stdout).values()
    told = {each["subject"]: (each["verdict"], each["words"]) for each in findings}
    assert told["codes"][0] == told["render"][0] == told["row"][0] == "holds", told


def test_a_second_run_makes_nothing(catalog, home):
    before = digests(Store(str(catalog)))
    done = segue(catalog, home)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = query(
        Store(str(catalog)),
        "SELECT stage, rows_made FROM runs WHERE run_id = (SELECT max(run_id) FROM runs) ORDER BY started_at",
    ).to_pylist()
    assert [row["stage"] for row in rows] == list(STAGES)
    assert {row["rows_made"] for row in rows} == {0}
    assert digests(Store(str(catalog))) == before


def test_a_clip_can_be_traced_to_the_training_data_of_its_model(catalog):
    answer = query(
        Store(str(catalog)),
        """SELECT c.path, r.description, k.data_digest, k.rows_seen
           FROM clips c JOIN requests r USING (request_id) JOIN checkpoints k USING (checkpoint_id)""",
    )
    assert answer.num_rows == query(Store(str(catalog)), "SELECT * FROM clips").num_rows
    assert all(row["rows_seen"] > 0 for row in answer.to_pylist())


def test_models_have_the_same_ids_in_all_tables(catalog):
    store = Store(str(catalog))
    checkpoints = {row["checkpoint_id"]: row for row in store.read_all(CHECKPOINTS).to_pylist()}
    by_kind = {row["kind"]: row for row in checkpoints.values()}
    parents = {checkpoints[name]["kind"] for name in by_kind["language_model"]["parents"]}
    assert parents == {"codec", "separator", "clap", "text_encoder"}
    for table in ("generations", "tokens"):
        (codec,) = query(store, f"SELECT DISTINCT codec FROM {table}").to_pylist()
        assert codec == {"codec": by_kind["codec"]["digest"]}
    models = query(store, "SELECT DISTINCT kind FROM lineage WHERE model_id IS NOT NULL").to_pylist()
    assert {row["kind"] for row in models} == {"language_model", *parents}


def test_lineage_names_exactly_the_recordings_that_models_were_trained_on(catalog):
    store = Store(str(catalog))
    wanted = "SELECT DISTINCT track_id FROM lineage WHERE how = 'learned' AND kind = '{}'"
    trained = {row["track_id"] for row in query(store, "SELECT track_id FROM tracks WHERE split = 'train'").to_pylist()}
    for kind in ("codec", "language_model"):
        learned = {row["track_id"] for row in query(store, wanted.format(kind)).to_pylist()}
        (seen,) = query(store, f"SELECT rows_seen FROM checkpoints WHERE kind = '{kind}'").to_pylist()
        assert learned
        assert learned <= trained
        assert len(learned) == seen["rows_seen"]
    unread = query(store, "SELECT title, artist, licence FROM learned EXCEPT SELECT title, artist, licence FROM tracks")
    assert unread.num_rows == 0
