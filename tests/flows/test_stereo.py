"""Stereo from recordings to clips: a mono codec encodes both sides, and a model predicts their interleaved codes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from flows.cli import run_command
from schemas import Store
from stages.checkpoints.codecs import load_codec
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import load_encodec
from tests.worlds.codec_world import piece
from tests.worlds.melody_world import (
    PROMPT_SECONDS,
    SECONDS,
    continued,
    filled_store,
    melody_recipe,
    rows_of,
    settings_of,
)
from tests.worlds.small_checkpoint import refuse
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, SAMPLE_RATE, codec_folder


def listening_codec(folder: Path) -> Path:
    """A codec of random weights whose codes depend on the sound rather than on its biases."""
    network = load_encodec(codec_folder(folder, loudness=30.0))
    with torch.no_grad():
        for name, value in network.encoder.named_parameters():
            if "bias" in name:
                value.zero_()
        network.encoder.layers[-1].conv.parametrizations.weight.original0.mul_(100)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog of four stereo recordings and a mono one, and clips of a model trained on it."""
    folder = tmp_path_factory.mktemp("stereo")
    recordings = {str(number): np.stack([piece(2 * number), piece(2 * number + 1)], axis=1) for number in range(4)}
    settings = settings_of(folder, recordings | {"mono": piece(9)}, SAMPLE_RATE)
    sizes = {"codebooks": 2 * CODEBOOKS, "delays": (0, 0, 1, 1), "cardinality": CARDINALITY}
    codec = listening_codec(folder / "codec")
    return filled_store(melody_recipe("musicgen-small", codec, sizes, {"channels": "stereo"}), settings)


def test_codes_of_both_sides_are_interleaved_and_a_mono_recording_has_equal_sides(store: Store) -> None:
    rows = rows_of(store, "SELECT tracks.uri, tokens.* FROM tokens JOIN tracks USING (track_id) ORDER BY uri")
    codec = load_codec(Path(store.root).parent / "codec")
    assert len(rows) == 5
    for row in rows:
        codes = np.array(row["codes"])
        assert codes.shape == (2 * CODEBOOKS, round(2 * FRAME_RATE))
        assert (row["channels"], row["codec_identity"], row["sample_rate"]) == (2, codec.identity, SAMPLE_RATE)
        assert np.array_equal(codes[0::2], codes[1::2]) == row["uri"].endswith("mono.wav")


def test_generated_clips_have_two_channels_that_differ(store: Store) -> None:
    rows = rows_of(store, "SELECT * FROM clips JOIN generations USING (request_id, take)")
    assert len(rows) == 3, rows_of(store, "SELECT message FROM rejects")
    for row in rows:
        assert np.array(row["codes"]).shape == (2 * CODEBOOKS, round(SECONDS * FRAME_RATE))
        sound, rate = soundfile.read(store.path(row["path"]), always_2d=True)
        assert (rate, sound.shape) == (SAMPLE_RATE, (round(SECONDS * SAMPLE_RATE), 2))
        assert not np.array_equal(sound[:, 0], sound[:, 1])


def test_a_prompt_has_both_sides_of_the_recording_as_a_track_and_as_a_file(store: Store) -> None:
    found = continued(store, round(PROMPT_SECONDS * FRAME_RATE))
    assert np.array_equal(found["from a track"], found["recording"])
    # A file's prompt is encoded with one second after it, not with the whole recording, so its last frames may differ.
    assert np.mean(found["from a file"] == found["recording"]) > 0.9


def test_a_stereo_melody_score_has_a_ceiling_and_an_untrained_control(store: Store) -> None:
    rows = rows_of(store, "SELECT * FROM scores WHERE chroma_similarity IS NOT NULL")
    assert len(rows) == 1
    assert rows[0]["chroma_similarity_ceiling"] is not None
    untrained = rows_of(store, "SELECT * FROM controls WHERE sounds = 'untrained'")
    assert len(untrained) == 1
    assert untrained[0]["seconds"] == pytest.approx(rows[0]["seconds"])


def test_a_checkpoint_is_converted_by_its_id_together_with_its_codec(store: Store, tmp_path: Path) -> None:
    row = rows_of(store, "SELECT checkpoint_id FROM checkpoints")[0]
    words = ["convert", f"checkpoint:{row['checkpoint_id']}", str(tmp_path / "out"), "--to", "segue"]
    assert run_command([*words, "--store", store.url]) == 0
    read = load_checkpoint(tmp_path / "out", refuse)
    codec = read.facts.codec
    assert codec is not None
    assert (codec.codebooks, codec.channels, codec.sample_rate) == (2 * CODEBOOKS, 2, SAMPLE_RATE)
    assert codec.reference is None, "a folder of this machine says nothing on another"
    assert codec.identity == load_codec(tmp_path / "out").identity
