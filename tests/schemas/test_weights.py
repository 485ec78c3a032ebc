import shutil
import uuid
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from schemas import Store, WeightsRef
from schemas.tables import CHECKPOINTS, WEIGHTS
from schemas.weights import MissingWeights, NotTrainedYet, WeightsLibrary, folder_digest


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "weights"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"numbers")
    return place


def add_checkpoint(store, name, kind, recipe, minute):
    with store.new_folder(f"models/{name}") as place:
        (place / "model.safetensors").write_text(name)
        digest = folder_digest(place)
    row = {"checkpoint_id": name, "kind": kind, "path": f"models/{name}", "recipe": recipe, "digest": digest}
    row["created_at"] = datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
    store.write_shard(CHECKPOINTS, recipe, name, pa.Table.from_pylist([row], schema=CHECKPOINTS.schema), name)


def change_byte(file):
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


def test_the_first_use_of_weights_is_recorded_and_moved_files_have_the_same_digest(store, folder, tmp_path):
    found = WeightsLibrary(store).get(WeightsRef(str(folder)))
    copy = folder.rename(tmp_path / "moved")
    assert folder_digest(copy) == found.digest
    record = store.read_all(WEIGHTS).to_pylist()
    assert [(row["reference"], row["digest"], row["bytes"]) for row in record] == [(str(folder), found.digest, 7)]


def test_weights_that_changed_since_their_first_use_are_refused(store, folder):
    WeightsLibrary(store).get(WeightsRef(str(folder)))
    (folder / "model.safetensors").write_bytes(b"other numbers")
    with pytest.raises(MissingWeights, match="as first used in this store"):
        WeightsLibrary(store).get(WeightsRef(str(folder)))


def test_a_touched_file_with_the_same_content_is_accepted(store, folder):
    first = WeightsLibrary(store).get(WeightsRef(str(folder)))
    (folder / "model.safetensors").write_bytes(b"numbers")
    assert WeightsLibrary(store).get(WeightsRef(str(folder))).digest == first.digest


@pytest.mark.parametrize("reference", ["facebook/encodec_32khz", "demucs:htdemucs", "org/name/file.pt", "s3://b/model"])
def test_missing_weights_without_a_network_are_one_line_with_what_to_do(store, reference):
    with pytest.raises(MissingWeights, match="run once with a network") as caught:
        WeightsLibrary(store, offline=True).get(WeightsRef(reference))
    assert reference in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reference", ["/nowhere/model", "./nowhere", "demucs:unheard"])
def test_a_path_or_model_that_does_not_exist_is_refused(store, reference):
    with pytest.raises(MissingWeights, match=r"expected .* got"):
        WeightsLibrary(store).get(WeightsRef(reference))


def test_weights_at_a_url_are_copied_once_and_then_found_offline(store, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/model/weights.bin", b"numbers")
    reference = WeightsRef("memory://bucket/model")
    found = WeightsLibrary(store).get(reference)
    assert (found.path / "weights.bin").read_bytes() == b"numbers"
    memory.rm("/bucket", recursive=True)
    assert WeightsLibrary(store, offline=True).get(reference).digest == found.digest


def test_a_kind_of_checkpoint_is_the_newest_of_the_runs_own_recipe(store):
    add_checkpoint(store, "a1", "codec", "recipe-a", 1)
    add_checkpoint(store, "a2", "codec", "recipe-a", 3)
    add_checkpoint(store, "b1", "codec", "recipe-b", 5)
    reference = WeightsRef("checkpoint:codec")
    assert WeightsLibrary(store).get(reference).path.name == "b1"
    own = WeightsLibrary(store, {"codec": "recipe-a"}).get(reference)
    assert own.digest == folder_digest(own.path)
    assert (own.path / "model.safetensors").read_text() == "a2"
    assert WeightsLibrary(store).get(WeightsRef("checkpoint:a1")).path.name == "a1"


def test_checkpoints_are_read_once_and_again_only_if_new_ones_were_written(store, monkeypatch):
    add_checkpoint(store, "a1", "codec", "recipe", 1)
    library, read, files = WeightsLibrary(store), Store.read, []

    def counting(self, table, version, shards=None, columns=None):
        if table is CHECKPOINTS:
            files.append(shards)
        return read(self, table, version, shards, columns)

    monkeypatch.setattr(Store, "read", counting)
    assert [library.checkpoint("codec")["path"] for _ in range(3)] == ["models/a1"] * 3
    assert files == [["a1"]]
    add_checkpoint(store, "a2", "codec", "recipe", 3)
    assert library.checkpoint("codec")["checkpoint_id"] == "a2"
    assert files == [["a1"], ["a2"]]
    add_checkpoint(store, "a2", "other", "recipe", 3)  # the same file name with another row
    assert library.checkpoint("codec")["checkpoint_id"] == "a1"
    store.remove_shard(CHECKPOINTS, "recipe", "a1")
    assert library.checkpoint("codec") is None


@pytest.mark.parametrize("kind", ["language_model", "codec", "clap", "separator"])
def test_a_changed_checkpoint_is_refused_with_its_folder_and_the_cure(store, kind):
    add_checkpoint(store, "a1", kind, "recipe", 1)
    reference = WeightsRef(f"checkpoint:{kind}")
    found = WeightsLibrary(store).get(reference)
    change_byte(found.path / "model.safetensors")
    with pytest.raises(MissingWeights, match=r"/models/a1 with digest .*, got .*`segue check --repair`"):
        WeightsLibrary(store).get(reference)


def test_a_checkpoint_without_its_folder_is_reported(store):
    add_checkpoint(store, "a1", "codec", "recipe", 1)
    shutil.rmtree(store.local("models/a1"))
    with pytest.raises(MissingWeights, match=r"/models/a1 with digest .*, got nothing there"):
        WeightsLibrary(store).get(WeightsRef("checkpoint:codec"))


def test_a_damaged_local_copy_of_a_checkpoint_is_fetched_again_and_a_damaged_original_reported():
    store = Store(f"memory://weights-{uuid.uuid4().hex}")
    add_checkpoint(store, "a1", "codec", "recipe", 1)
    reference = WeightsRef("checkpoint:codec")
    copy = WeightsLibrary(store).get(reference).path / "model.safetensors"
    change_byte(copy)
    assert (WeightsLibrary(store).get(reference).path / "model.safetensors").read_text() == "a1"
    store.filesystem.pipe_file(store.path("models/a1/model.safetensors"), b"b1")
    assert WeightsLibrary(store).get(reference)  # the copy is loaded
    copy.unlink()
    with pytest.raises(MissingWeights, match="restore the folder"):
        WeightsLibrary(store).get(reference)


def test_a_checkpoint_that_is_not_yet_trained_has_an_error_of_its_own(store):
    with pytest.raises(NotTrainedYet, match="train it first"):
        WeightsLibrary(store).get(WeightsRef("checkpoint:codec"))


def test_the_error_for_a_checkpoint_with_the_name_of_a_folder_suggests_the_folder(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    with pytest.raises(NotTrainedYet, match=r"got none: to name the folder give \./small"):
        WeightsLibrary(store).get(WeightsRef("checkpoint:small"))
