"""Tables as a data set: `datasets` reads rows, splits and sound back, and a second export writes nothing."""

import io
from pathlib import Path

import datasets
import pytest
import soundfile
import yaml

from schemas import Store
from schemas.tables import TRACKS
from stages.audio import encode_audio
from stages.delivery.choosing import choose_clips
from stages.delivery.dataset import DatasetExport, clip_parts, export_dataset, track_parts
from tests.worlds.delivered_clips import delivered_store
from tests.worlds.small_catalog import melody_clip, write


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Clips, and three recordings in three splits."""
    folder = tmp_path_factory.mktemp("store")
    store = delivered_store(folder / "s")
    tracks = []
    for number, split in enumerate(("train", "valid", "test")):
        (folder / f"{split}.flac").write_bytes(encode_audio(melody_clip(number, 0.5), 16_000, "flac", {}))
        facts = {"track_id": f"{number:064x}", "uri": str(folder / f"{split}.flac"), "split": split, "shard": 0}
        facts |= {"title": "Río | Ñ", "artist": "Vale", "licence": "CC BY 4.0", "moods": ["calm", "slow"]}
        tracks.append(facts | {"description": f"Piece {number}", "seconds": 0.5, "sample_rate": 16_000, "channels": 1})
    write(store, TRACKS, tracks)
    return store


def export(store: Store, folder: Path, references: bool = False) -> DatasetExport:
    return export_dataset(
        store, [*track_parts(store), *clip_parts(store, choose_clips(store))], str(folder), references
    )


def loaded(folder: Path, name: str, cache: Path) -> datasets.DatasetDict:
    read = datasets.load_dataset(str(folder), name, cache_dir=str(cache))
    assert isinstance(next(iter(read.values())).features["audio"], datasets.Audio)
    return read.cast_column("audio", datasets.Audio(decode=False))


def test_the_training_set_is_read_back_by_splits_with_its_sound(store, tmp_path):
    done = export(store, tmp_path / "d")
    assert done.rows == {
        ("tracks", "train"): 1,
        ("tracks", "validation"): 1,
        ("tracks", "test"): 1,
        ("clips", "train"): 8,
    }
    read = loaded(tmp_path / "d", "tracks", tmp_path / "cache")
    assert {name: len(rows) for name, rows in read.items()} == {"train": 1, "validation": 1, "test": 1}
    row = read["validation"][0]
    assert (row["title"], row["moods"], row["licence"]) == ("Río | Ñ", ["calm", "slow"], "CC BY 4.0")
    source = next(Path(part.rows[0]["uri"]) for part in track_parts(store) if part.split == "validation")
    assert (row["audio"]["path"], row["audio"]["bytes"]) == ("valid.flac", source.read_bytes())


def test_the_catalog_is_read_back_with_takes_from_1(store, tmp_path):
    export(store, tmp_path / "d")
    read = loaded(tmp_path / "d", "clips", tmp_path / "cache")["train"]
    assert sorted(zip(read["name"], read["take"], strict=True))[-3:-1] == [("opening", 2), ("test", 1)]
    sound, rate = soundfile.read(io.BytesIO(read[0]["audio"]["bytes"]))
    assert (len(sound), rate) == (64_000, 16_000)


def test_a_card_states_rows_licences_and_the_paths_of_the_splits(store, tmp_path):
    export(store, tmp_path / "d")
    card = (tmp_path / "d" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in front["configs"]] == ["tracks", "clips"]
    assert [file["split"] for file in front["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert "| CC-BY-4.0 | 3 |" in card
    assert "| clips | train | 8 | 0.01 |" in card


def test_references_give_the_path_of_the_sound(store, tmp_path):
    export(store, tmp_path / "d", references=True)
    row = loaded(tmp_path / "d", "tracks", tmp_path / "cache")["test"][0]
    assert row["audio"]["bytes"] is None
    assert soundfile.info(row["audio"]["path"]).frames == 8_000


def test_a_second_export_writes_nothing_and_removes_rows_that_are_gone(store, tmp_path):
    first = export(store, tmp_path / "d")
    assert (first.written, first.kept) == (4, 0)
    again = export(store, tmp_path / "d")
    assert (again.written, again.kept, again.removed) == (0, 4, 0)
    rest = [part for part in track_parts(store) if part.split != "test"]
    assert export_dataset(store, rest, str(tmp_path / "d")).removed == 2
    assert set(loaded(tmp_path / "d", "tracks", tmp_path / "cache")) == {"train", "validation"}


def test_a_missing_recording_costs_only_its_row_and_is_tried_again(tmp_path):
    store = delivered_store(tmp_path / "s")
    present = tmp_path / "here.flac"
    rows = [
        {"track_id": f"{number:064x}", "uri": str(path), "split": "train", "shard": 0, "seconds": 0.5}
        for number, path in enumerate((present, tmp_path / "gone.flac"))
    ]
    present.write_bytes(encode_audio(melody_clip(1, 0.5), 16_000, "flac", {}))
    write(store, TRACKS, rows)
    done = export_dataset(store, track_parts(store), str(tmp_path / "d"))
    assert [uri for uri, _ in done.failed] == [str(tmp_path / "gone.flac")]
    assert done.rows["tracks", "train"] == 1
    (tmp_path / "gone.flac").write_bytes(present.read_bytes())
    done = export_dataset(store, track_parts(store), str(tmp_path / "d"))
    assert (done.written, done.failed, done.rows["tracks", "train"]) == (1, [], 2)


def test_a_folder_with_a_delivery_of_clips_is_not_made_a_data_set(store, tmp_path):
    from stages.delivery.delivering import deliver
    from stages.delivery.making import Form, Maker

    deliver(store, choose_clips(store), str(tmp_path / "d"), Maker(store, Form()), "{name}_{take}")
    with pytest.raises(ValueError, match="got one of another"):
        export(store, tmp_path / "d")
