"""The settings for measuring melodies: the table, the model, a request's file and the scores use the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.chroma import chroma
from model.conditioning.config import ChromaConfig
from schemas import Store
from stages.audio import read_audio, resample, to_mono
from stages.checkpoints.facts import read_facts
from stages.judging.melody import chroma_agreement
from tests.worlds.codec_world import piece
from tests.worlds.melody_world import filled_store, melody_recipe, rows_of, settings_of
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, SAMPLE_RATE, codec_folder

ANALYSIS = ChromaConfig(window=2048, hop=2048)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog whose melodies are measured with a shorter window, twice as often."""
    folder = tmp_path_factory.mktemp("melody")
    settings = settings_of(folder, {str(number): piece(number) for number in range(3)}, SAMPLE_RATE)
    sizes = {"codebooks": CODEBOOKS, "cardinality": CARDINALITY}
    codec = codec_folder(folder / "codec")
    changes = ANALYSIS.model_dump()
    recipe = melody_recipe("musicgen-small", codec, sizes, chroma=changes)
    return filled_store(recipe, settings, [{"name": "melody from a file", "melody": f"file:{settings.source}/0.wav"}])


def test_the_checkpoint_records_how_its_melodies_were_measured(store: Store) -> None:
    (row,) = rows_of(store, "SELECT path FROM checkpoints")
    melody = read_facts(Path(store.path(row["path"]))).model.chroma
    assert melody is not None
    assert melody.analysis == ANALYSIS


def test_a_melody_from_a_file_equals_the_melody_of_its_track(store: Store) -> None:
    rows = rows_of(store, "SELECT requests.name, generations.chroma FROM generations JOIN requests USING (request_id)")
    asked = {row["name"]: np.array(row["chroma"]) for row in rows if row["chroma"]}
    (track,) = rows_of(store, "SELECT chroma FROM chroma JOIN tracks USING (track_id) WHERE uri LIKE '%0.wav'")
    table = np.array(track["chroma"])[::2][: len(asked["melody"])]
    np.testing.assert_array_equal(asked["melody"], table)
    np.testing.assert_array_equal(asked["melody from a file"], table)


def test_clips_are_scored_with_the_chroma_settings_of_their_melody(store: Store) -> None:
    rows = rows_of(
        store,
        "SELECT chroma_similarity, path, chroma, chroma_frame_rate FROM scores JOIN clips USING (request_id, take) "
        "JOIN generations USING (request_id, take) WHERE chroma IS NOT NULL",
    )
    assert len(rows) == 2
    differs = False
    for row in rows:
        clip = read_audio(store.path(row["path"]))
        sound = torch.from_numpy(resample(to_mono(clip.samples), clip.sample_rate, ANALYSIS.sample_rate))
        asked = torch.tensor(row["chroma"])
        expected, published = (
            chroma_agreement(chroma(sound, analysis)[0], analysis.frame_rate, asked, row["chroma_frame_rate"])
            for analysis in (ANALYSIS, ChromaConfig())
        )
        assert row["chroma_similarity"] == pytest.approx(expected)
        differs |= expected != pytest.approx(published)
    assert differs, "or this test could not tell them apart"
