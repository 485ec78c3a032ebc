"""The recorded inputs of a version, and the setting in which two versions differ."""

import hashlib
import json

import pyarrow as pa
import pytest

from schemas import Settings, Store
from schemas.storage.versions import Versions, record_version
from schemas.tables import CHECKPOINTS, VERSIONS
from stages.pipeline.pipeline import Pipeline
from tests.worlds.tiny_chain import chain, run_chain, write_inputs
from tests.worlds.tiny_stages import make_mapping, make_pipeline, run


@pytest.fixture
def settings(tmp_path):
    inputs = write_inputs(tmp_path / "in", {"a.txt": "do re", "b.txt": "re mi"}, ["2 calm"])
    return Settings(store=str(tmp_path / "store"), **inputs)


def versions_of(settings: Settings, scale: float = 1.0) -> dict[str, str]:
    pipeline = Pipeline(chain(scale), settings)
    return {name: pipeline.fingerprint(name) for name in pipeline.stages}


def test_the_fingerprint_of_a_version_is_the_hash_of_its_record(settings):
    run_chain(settings)
    rows = Store(settings.store).read_all(VERSIONS).to_pylist()
    assert {row["stage"]: row["fingerprint"] for row in rows} == versions_of(settings)
    for row in rows:
        kept = {"stage": row["stage"], "version": row["stage_version"], "config": json.loads(row["config"])}
        text = json.dumps(kept | {"upstream": dict(row["inputs"])}, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == row["fingerprint"]


def test_a_changed_setting_is_named_for_all_later_stages(settings):
    run_chain(settings)
    before = versions_of(settings)
    run_chain(settings, scale=2.5)
    after, versions = versions_of(settings, 2.5), Versions(Store(settings.store))
    assert versions.differences(before["chroma"], after["chroma"]) == ["chroma.scale: 1.0 → 2.5"]
    lines = versions.differences(before["decode"], after["decode"])
    trained = next(line for line in lines if line.startswith("generate.checkpoint"))
    assert "checkpoint:" in trained
    assert trained.endswith(", through generations")
    assert any(line.startswith("chroma.scale: 1.0 → 2.5") for line in lines), lines
    assert versions.differences(before["ingest"], after["ingest"]) == []


def test_a_model_trained_on_other_rows_is_named_as_the_difference(tmp_path):
    store, fingerprints = Store(str(tmp_path)), []
    record_version(store, "trainer", "train", 1, "{}", {})
    for rows in (2, 3):
        row = {"checkpoint_id": f"c{rows}", "kind": "language_model", "digest": f"digest {rows}", "recipe": "trainer"}
        row |= {"data_digest": f"data {rows}", "rows_seen": rows}
        store.write_shard(CHECKPOINTS, "trainer", f"c{rows}", pa.Table.from_pylist([row], CHECKPOINTS.schema), "k")
        fingerprints.append(f"version{rows}")
        config = json.dumps({"checkpoint": {"weights": row["digest"]}})
        record_version(store, fingerprints[-1], "generate", 1, config, {})
    assert Versions(store).differences(*fingerprints) == [
        "generate.checkpoint: checkpoint:c2 (digest 2) → checkpoint:c3 (digest 3)",
        "language_model: trained on other rows (2 → 3), through generate.checkpoint",
    ]


def test_another_version_of_a_stages_code_is_named(tmp_path):
    fingerprints = []
    for number in (1, 2):
        mapping = make_mapping([])
        mapping.VERSION = number
        pipeline = make_pipeline(tmp_path, ["a"], mapping)
        run(pipeline, f"r{number}")
        fingerprints.append(pipeline.fingerprint("mapping"))
    lines = Versions(Store(str(tmp_path))).differences(*fingerprints)
    assert lines == ["the code of mapping: VERSION 1 → 2"]


def test_a_version_without_a_record_is_reported_as_one_of_an_earlier_release(tmp_path):
    (line,) = Versions(Store(str(tmp_path))).differences("0123456789abcdef", "0123456789abcdee")[:1]
    assert line.startswith("version 01234567 was made by a release")


def test_upstream_contains_all_versions_that_a_version_is_made_from(settings):
    run_chain(settings)
    made, versions = versions_of(settings), Versions(Store(settings.store))
    assert versions.upstream(made["decode"]) == {made[name] for name in ("decode", "generate", "requests", "ingest")}
    assert versions.upstream("unknown") == {"unknown"}
