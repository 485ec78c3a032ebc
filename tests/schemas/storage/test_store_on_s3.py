"""The store on an object store, over the real S3 protocol (moto's server on the loopback)."""

import threading

import pyarrow as pa
import pytest
from s3fs import S3FileSystem

from schemas import Settings, Store
from schemas.queries.database import query
from schemas.tables import CHROMA, TRACKS
from stages.pipeline.pipeline import Pipeline
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.object_store import object_store
from tests.worlds.tiny_stages import Knobs, contents, make_mapping, make_source


@pytest.fixture(scope="module")
def server():
    """One server for the module, because the filesystem keeps its connection by class."""
    with object_store():
        yield


@pytest.fixture
def bucket(server, tmp_path):
    name = f"music-{abs(hash(tmp_path))}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}/store"


def test_a_run_on_s3_equals_a_run_on_a_disk_and_can_be_queried(bucket, tmp_path):
    found = []
    for url in (bucket, str(tmp_path)):
        stages = [
            ConfiguredStage("source", make_source(list("abcde")), Knobs()),
            ConfiguredStage("mapping", make_mapping([]), Knobs()),
        ]
        pipeline = Pipeline(stages, Settings(store=url))
        for turn, made in (("r1", 5), ("r2", 0)):
            for stage in stages:
                assert run_stage(stage, pipeline.context(stage.name, turn)).counts.made == made
        found.append(contents(pipeline))
        assert query(pipeline.store, "SELECT count(*) AS n FROM chroma JOIN tracks USING (track_id)").to_pylist() == [
            {"n": 5}
        ]
    assert found[0] == found[1]


def test_a_folder_of_weights_is_stored_on_s3_and_fetched_as_local_files(bucket):
    store = Store(bucket)
    with store.new_folder("models/one") as folder:
        (folder / "text_encoder").mkdir()
        (folder / "text_encoder" / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"numbers")
    local = Store(bucket).local("models/one")
    assert (local / "model.safetensors").read_bytes() == b"numbers"
    assert (local / "text_encoder" / "config.json").read_text() == "{}"


def test_shards_are_read_in_parallel_and_returned_in_order(bucket, monkeypatch):
    store, names = Store(bucket), [f"{number:064x}" for number in range(3)]
    for shard, name in enumerate(names):
        rows = pa.Table.from_pylist([{"track_id": name, "frame_rate": 7.8, "chroma": []}], CHROMA.schema)
        store.write_shard(CHROMA, "v1", str(shard), rows, input_key=name)
    together, cat_file = threading.Barrier(3, timeout=60), store.filesystem.cat_file

    def cat_file_together(path, *arguments, **named):
        together.wait()  # until three requests run at once
        return cat_file(path, *arguments, **named)

    monkeypatch.setattr(store.filesystem, "cat_file", cat_file_together)
    footers = store.footers(CHROMA, "v1")
    assert [(shard, footer.input_key) for shard, footer in footers.items()] == list(zip("012", names, strict=True))
    assert store.read(CHROMA, "v1").column("track_id").to_pylist() == names


def test_one_damaged_shard_of_many_is_named(bucket):
    store = Store(bucket)
    for shard in map(str, range(4)):
        store.write_shard(CHROMA, "v1", shard, CHROMA.schema.empty_table(), input_key="k")
    store.write_bytes(store.shard_path(CHROMA, "v1", "2"), b"half of a shar")
    for read in (store.footers, store.read):
        with pytest.raises(ValueError, match=r"expected a Parquet shard at .*version=v1/shard=2\.parquet"):
            read(CHROMA, "v1")


def test_a_removed_shard_is_gone_for_every_reader(bucket):
    store, other = Store(bucket), Store(bucket)
    rows = pa.Table.from_pylist([{"track_id": "a"}], schema=TRACKS.schema)
    store.write_shard(TRACKS, "v", "0", rows, "k")
    assert other.shards(TRACKS, "v") == ["0"]
    store.remove_shard(TRACKS, "v", "0")
    assert other.shards(TRACKS, "v") == []
    assert other.read(CHROMA, "v").num_rows == 0


def test_a_store_that_cannot_be_written_is_reported_and_a_writable_one_gets_only_its_identity(bucket):
    Store(bucket).check_writable()
    assert [path.rpartition("/")[2] for path in S3FileSystem().find(bucket)] == ["segue-store.json"]
    with pytest.raises(ValueError, match=r"expected a store that can be written, got s3://no-such-bucket/store"):
        Store("s3://no-such-bucket/store").check_writable()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("report/index.html", "text/html; charset=utf-8"),
        ("audio/clip.flac", "audio/flac"),
        ("report/picture.png", "image/png"),
        ("tracks/shard=0.parquet", "binary/octet-stream"),
    ],
)
def test_a_file_has_the_content_type_of_its_name(bucket, name, content_type):
    store = Store(bucket)
    store.write_bytes(name, b"content")
    assert S3FileSystem().info(store.path(name), refresh=True)["ContentType"] == content_type


def test_a_large_file_is_complete_and_has_its_content_type(bucket):
    store, sound = Store(bucket), bytes(60 * 2**20)
    store.write_bytes("audio/long.wav", sound)
    found = S3FileSystem().info(store.path("audio/long.wav"), refresh=True)
    assert (found["size"], found["ContentType"]) == (len(sound), "audio/wav")
