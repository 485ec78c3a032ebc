"""Scores of clips made by the real generate and decode stages with small models of random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.chroma import chroma
from schemas.tables import REJECTS, SCORES, TOKENS
from stages import audio
from stages.audio import encode_audio, resample
from stages.checkpoints.codecs import load_codec
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.networks.clap import load_joint_embedder
from tests.worlds.scored_world import COUNT, SECONDS, ScoredWorld
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, codec_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ScoredWorld:
    return ScoredWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def scores(world: ScoredWorld) -> dict[int, dict]:
    return world.run()


def test_every_clip_has_a_row_with_its_length_silence_and_clipping(scores: dict[int, dict]) -> None:
    assert sorted(scores) == [0, 1, 2, 3]
    for row in scores.values():
        assert row["seconds_asked"] == SECONDS
        assert row["seconds"] == pytest.approx(SECONDS)
        assert (row["silence"], row["clipping"]) == (0.25, 0.0)


def test_every_clip_has_measures_of_its_sound_and_a_clip_of_several_windows_has_a_seam(scores: dict[int, dict]) -> None:
    for row in scores.values():
        assert row["dc"] < 1e-3
        assert row["zeros"] < 0.1  # as stored in 16 bits
        assert row["head_silence"] < 1
        assert row["centroid"] > 100
        assert len(row["mel_statistics"]) == 16
        assert 0 <= row["seam_contrast"] <= 1  # the model was trained on windows of 2 seconds, and the clips last 6


def test_a_clip_equal_to_its_reference_follows_the_melody_fully_and_better_than_chance(scores: dict[int, dict]) -> None:
    for number in range(3):
        assert scores[number]["chroma_similarity"] > 0.95
        assert scores[number]["chroma_similarity_chance"] < 0.6
    assert all(scores[3][name] is None for name in scores[3] if name.startswith("chroma"))


def test_the_ceiling_of_a_melody_is_the_score_of_the_reference_through_the_codec(
    world: ScoredWorld, scores: dict[int, dict]
) -> None:
    """The small codec has random weights and reproduces hardly anything, so the ceiling is low, and exactly this."""
    codec = load_codec(world.codec)
    for number in range(3):
        codes = (
            world.store.read(TOKENS, "k")
            .filter(pa.compute.field("track_id") == f"{number:064x}")
            .to_pylist()[0]["codes"]
        )
        sound = codec.decode_track(torch.tensor(np.array(codes, dtype=np.int64))).numpy()
        decoded = chroma(torch.from_numpy(resample(sound, codec.sample_rate, 32_000)))[0].argmax(-1)
        asked = chroma(
            torch.from_numpy(resample(render(compose(0, number)).sum(0).numpy()[None, :96_000], 16_000, 32_000))
        )
        frames = min(len(decoded), asked.shape[1])
        expected = float((decoded[:frames] == asked[0].argmax(-1)[:frames]).double().mean())
        assert scores[number]["chroma_similarity_ceiling"] == pytest.approx(expected)


def test_the_same_scores_are_made_again_even_with_some_rows_present(
    world: ScoredWorld, scores: dict[int, dict]
) -> None:
    assert world.run("again") == scores
    part = world.store.read(SCORES, "again").slice(0, 2)
    world.store.write_shard(SCORES, "again", "0", part, "another membership")
    assert world.run("again") == scores


def test_key_and_tempo_are_judged_against_the_request(scores: dict[int, dict]) -> None:
    for number, row in scores.items():
        piece = compose(0, number)
        assert (row["key_asked"], row["bpm_asked"]) == (piece.key.name, piece.tempo)
        assert row["key_correct"] == (row["key"] == piece.key.name)
    assert sum(row["bpm_correct_octave"] for row in scores.values()) >= 3


def test_the_embeddings_of_a_clip_are_kept_window_by_window(world: ScoredWorld, scores: dict[int, dict]) -> None:
    embedder = load_joint_embedder(world.clap)
    for number in range(COUNT):
        recording = audio.read_audio(world.store.path(f"audio/version=p/{number:016x}-0.flac"))
        expected = embedder.embed_audio(recording.samples, recording.sample_rate, 10.0).embeddings
        np.testing.assert_array_equal(np.array(scores[number]["embeddings"], np.float32), expected)


def test_the_row_of_a_clip_is_yielded_before_the_next_clip_is_read(
    world: ScoredWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = audio.read_audio

    def noted(location: str) -> Any:
        read.append(location)
        return plain(location)

    monkeypatch.setattr(audio, "read_audio", noted)
    for count, part in enumerate(world.parts(), start=1):
        assert len(part.rows) == 1
        assert len(read) == count
    assert len(read) == COUNT


def test_similarity_to_the_description_is_the_cosine_of_the_embeddings(
    world: ScoredWorld, scores: dict[int, dict]
) -> None:
    embedder = load_joint_embedder(world.clap)
    mix = render(compose(0, 1)).sum(0).numpy()[None, :96_000]
    expected = embedder.embed_audio(mix, 16_000, 10.0).embeddings[0] @ embedder.embed_text(["slow jazz piano"])[0]
    assert scores[1]["clap_similarity"] == pytest.approx(float(expected), abs=1e-3)
    assert scores[1]["description_embedding"] == pytest.approx(embedder.embed_text(["slow jazz piano"])[0], abs=1e-3)


def test_without_a_clap_model_its_scores_are_left_out(world: ScoredWorld) -> None:
    for row in world.run("plain", clap=None).values():
        assert row["clap_similarity"] is row["embeddings"] is None


def test_a_codec_other_than_the_one_of_the_store_is_refused_by_name(world: ScoredWorld, tmp_path: Path) -> None:
    other = codec_folder(tmp_path / "other", cardinality=CARDINALITY * 2)
    with pytest.raises(Exception, match=rf"codec of {CODEBOOKS} codebooks of {CARDINALITY} codes .* evaluate.codec"):
        world.run("bad", codec=str(other))


def test_a_damaged_clip_is_a_reject_and_the_others_are_scored(tmp_path: Path) -> None:
    world = ScoredWorld(tmp_path)
    world.store.write_bytes(f"audio/version=p/{1:016x}-0.flac", b"nothing that plays")
    assert sorted(world.run(clap=None)) == [0, 2, 3]
    rejects = world.store.read(REJECTS, "s").to_pylist()
    assert [row["key"] for row in rejects] == [f"{1:016x}/1"]


def test_silence_follows_no_melody_and_is_wrong_in_key_and_tempo(tmp_path: Path) -> None:
    world = ScoredWorld(tmp_path)
    quiet = encode_audio(np.zeros((1, 96_000), np.float32), 16_000, "flac")
    world.store.write_bytes(f"audio/version=p/{1:016x}-0.flac", quiet)
    row = world.run(clap=None)[1]
    assert row["chroma_similarity"] == row["chroma_similarity_chance"] == 0.0
    assert row["key"] is row["bpm"] is row["centroid"] is None
    assert row["key_correct"] is row["bpm_correct"] is False  # instead of being left out of the count
    assert (row["head_silence"], row["zeros"]) == (SECONDS, 1.0)
