"""Scores of clips that the real generate and decode stages made with small models of random weights."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model.chroma import chroma
from schemas import Settings, Store, WeightsRef
from schemas.tables import CHROMA, CLAP, CLIPS, GENERATIONS, REJECTS, REQUESTS, SCORES, TOKENS, TRACKS
from schemas.weights import WeightsLibrary
from stages import audio, evaluate
from stages.audio import encode_audio, resample
from stages.checkpoints.codecs import load_codec
from stages.checkpoints.loading import load_checkpoint
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.evaluate import Config
from stages.evaluate.comparisons import untrained
from stages.networks.clap import load_joint_embedder
from stages.pipeline.contract import Context, Shard
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.generation_world import model_config, put_checkpoint
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, codec_folder

VERSIONS = {"clips": "p", "requests": "r", "generations": "g", "tracks": "t", "chroma": "h", "clap": "e", "tokens": "k"}
RATE = 7.8125
PIECES = 4
SECONDS = 6.0


class World:
    """A store with demo pieces as tracks, and a clip of every request that is its reference played back."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "store"))
        self.codec = codec_folder(folder / "codec")
        self.clap = clap_folder(folder / "clap", 6)
        codec, embedder = load_codec(self.codec), load_joint_embedder(self.clap)
        tables: dict[Any, list[dict]] = {
            table: [] for table in (TRACKS, CHROMA, CLAP, TOKENS, REQUESTS, GENERATIONS, CLIPS)
        }
        for number in range(PIECES):
            piece = compose(0, number)
            mix = render(piece).sum(0).numpy()[None, : round(SECONDS * 16_000)]
            asked = chroma(torch.from_numpy(resample(mix, 16_000, 32_000)))[0]
            codes = (
                codec.encode_track(torch.from_numpy(resample(mix, 16_000, codec.sample_rate))).numpy().astype(np.uint16)
            )
            track = f"{number:064x}"
            split = "valid" if number == 0 else "train"
            tables[TRACKS].append({"track_id": track, "title": piece.title, "split": split, "shard": number % 2})
            windows = embedder.embed_audio(mix, 16_000, 10.0)
            tables[CLAP].append({"track_id": track, "starts": windows.starts, "embeddings": list(windows.embeddings)})
            tables[CHROMA].append({"track_id": track, "frame_rate": RATE, "chroma": list(asked.numpy())})
            tables[TOKENS].append(
                {"track_id": track, "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "codes": list(codes)}
            )
            key = {"request_id": f"{number:016x}", "take": 0}
            tables[REQUESTS].append(
                {"request_id": key["request_id"], "line": number + 2, "seconds": SECONDS, "seed": number, "shard": 0}
                | {"melody": f"track:{track}" if number < 3 else None, "description": "slow jazz piano", "takes": 1}
                | {
                    "guidance": 3.0,
                    "temperature": 1.0,
                    "top_k": 250,
                    "top_p": 0.0,
                    "key": piece.key.name,
                    "bpm": piece.tempo,
                }
            )
            with_melody = {"chroma_frame_rate": RATE, "chroma": list(asked.numpy())} if number < 3 else {}
            tables[GENERATIONS].append(
                key
                | {"checkpoint_id": "one", "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "seed": number}
                | {"frames": codes.shape[1], "prompt_frames": 0, "codes": list(codes)}
                | with_melody
            )
            path = f"audio/version=p/{key['request_id']}-0.flac"
            self.store.write_bytes(path, encode_audio(mix, 16_000, "flac"))
            tables[CLIPS].append(key | {"checkpoint_id": "one", "path": path, "silence": 0.25, "clipping": 0.0})
        for table, rows in tables.items():
            # The tables of tracks have two shards, what belongs to requests has one.
            for shard in {"0", "1"} if table in (TRACKS, CHROMA, CLAP, TOKENS) else {"0"}:
                own = [
                    row
                    for n, row in enumerate(rows)
                    if len(rows) and (n % 2 == int(shard) or table in (REQUESTS, GENERATIONS, CLIPS))
                ]
                shown = pa.Table.from_pylist(own, schema=table.schema)
                self.store.write_shard(table, VERSIONS[table.name], shard, shown, "made by a test")
        put_checkpoint(self.store, folder, "one", model_config())

    def config(self, **changes: Any) -> Config:
        values = {"codec": str(self.codec), "clap": str(self.clap), "vocabulary": None, "untrained_clips": 2} | changes
        return Config.model_validate(values)

    def context(self, version: str = "s") -> Context:
        settings = Settings(store=self.store.url, device="cpu", max_refused=1.0)
        return Context(self.store, settings, "run", "evaluate", version, VERSIONS, WeightsLibrary(self.store))

    def parts(self, **changes: Any) -> Generator[Shard, None, None]:
        """What the stage yields of the shard of clips."""
        context = self.context()
        tables = [context.rows(table) for table in evaluate.READS]
        yield from evaluate.shard(self.config(**changes), context, *tables)

    def run(self, version: str = "s", **changes: Any) -> dict[int, dict]:
        """Scores by the number of the request."""
        run_stage(ConfiguredStage("evaluate", evaluate, self.config(**changes)), self.context(version))
        return {int(row["request_id"], 16): row for row in self.store.read(SCORES, version).to_pylist()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def scores(world: World) -> dict[int, dict]:
    return world.run()


def test_every_clip_has_a_row_with_its_length_silence_and_clipping(scores: dict[int, dict]) -> None:
    assert sorted(scores) == [0, 1, 2, 3]
    for row in scores.values():
        assert row["seconds_asked"] == SECONDS
        assert row["seconds"] == pytest.approx(SECONDS)
        assert (row["silence"], row["clipping"]) == (0.25, 0.0)


def test_a_clip_s_sound_is_measured_by_itself_and_one_of_two_windows_has_a_seam(scores: dict[int, dict]) -> None:
    for row in scores.values():
        assert row["dc"] < 1e-3
        assert row["zeros"] < 0.1  # as 16 bits hold it
        assert row["head_silence"] < 1
        assert row["centroid"] > 100
        assert len(row["mel_statistics"]) == 16
        assert 0 <= row["seam_contrast"] <= 1  # the model was trained on windows of 2 seconds, the clips are of 6


def test_a_clip_that_is_its_reference_follows_the_melody_wholly_and_chance_does_not(scores: dict[int, dict]) -> None:
    for number in range(3):
        assert scores[number]["chroma_similarity"] > 0.95
        assert scores[number]["chroma_similarity_chance"] < 0.6
    assert all(scores[3][name] is None for name in scores[3] if name.startswith("chroma"))


def test_the_ceiling_is_the_reference_through_the_codec(world: World, scores: dict[int, dict]) -> None:
    """The small codec has random weights, so hardly anything comes through it: the ceiling is low, and exactly this."""
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


def test_as_many_clips_as_asked_are_compared_with_an_untrained_model(world: World, scores: dict[int, dict]) -> None:
    compared = [row["chroma_similarity_untrained"] for row in scores.values()]
    assert sum(value is not None for value in compared) == 2
    assert all(0 <= value <= 1 for value in compared if value is not None)
    none = world.run("none", untrained_clips=0)
    assert all(row["chroma_similarity_untrained"] is None for row in none.values())
    everything = world.run("all", untrained_clips=50)
    assert sum(row["chroma_similarity_untrained"] is not None for row in everything.values()) == 3


def test_the_same_scores_come_again_whatever_was_scored_before(world: World, scores: dict[int, dict]) -> None:
    assert world.run("again") == scores
    part = world.store.read(SCORES, "again").slice(0, 2)
    world.store.write_shard(SCORES, "again", "0", part, "another membership")
    assert world.run("again") == scores


def test_an_untrained_model_has_the_architecture_and_none_of_the_weights(world: World) -> None:
    context = WeightsLibrary(world.store)
    trained = load_checkpoint(context.get(WeightsRef("checkpoint:one")).path, context.get).model
    first, again, other = untrained(trained, 0), untrained(trained, 0), untrained(trained, 1)
    weights = {name: value for name, value in first.weights().items() if value.ndim > 1}
    assert {name: value.shape for name, value in first.weights().items()} == {
        name: value.shape for name, value in trained.weights().items()
    }
    for name, value in weights.items():
        assert not torch.equal(value, trained.weights()[name]), name
        assert torch.equal(value, again.weights()[name]), name
    assert any(not torch.equal(value, other.weights()[name]) for name, value in weights.items())


def test_making_an_untrained_model_leaves_the_programs_random_numbers_alone(world: World) -> None:
    context = WeightsLibrary(world.store)
    trained = load_checkpoint(context.get(WeightsRef("checkpoint:one")).path, context.get).model
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    untrained(trained, 0)
    assert torch.equal(torch.rand(3), expected)


def test_key_and_tempo_are_judged_against_the_request(scores: dict[int, dict]) -> None:
    for number, row in scores.items():
        piece = compose(0, number)
        assert (row["key_asked"], row["bpm_asked"]) == (piece.key.name, piece.tempo)
        assert row["key_correct"] == (row["key"] == piece.key.name)
    assert sum(row["bpm_correct"] for row in scores.values()) >= 3


def test_a_clip_s_embeddings_are_kept_window_by_window(world: World, scores: dict[int, dict]) -> None:
    embedder = load_joint_embedder(world.clap)
    for number in range(PIECES):
        recording = audio.read_audio(world.store.path(f"audio/version=p/{number:016x}-0.flac"))
        expected = embedder.embed_audio(recording.samples, recording.sample_rate, 10.0).embeddings
        np.testing.assert_array_equal(np.array(scores[number]["embeddings"], np.float32), expected)


def test_a_clip_s_row_comes_before_the_others_are_scored_and_those_beside_an_untrained_model_come_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = audio.read_audio

    def noted(location: str) -> Any:
        read.append(location)
        return plain(location)

    monkeypatch.setattr(audio, "read_audio", noted)
    parts = world.parts(untrained_clips=2)
    came = []
    for count, part in enumerate(parts, start=1):
        came += [(row["request_id"], row.get("chroma_similarity_untrained") is not None) for row in part.rows]
        assert len(read) == len(came) == count
    assert [beside for _, beside in came] == [False, False, True, True]
    assert sorted(request for request, _ in came) == [f"{number:016x}" for number in range(PIECES)]
    first = world.parts(untrained_clips=2)
    next(first)
    first.close()
    assert len(read) == PIECES + 1


def test_likeness_to_words_is_the_cosine_of_the_two_embeddings(world: World, scores: dict[int, dict]) -> None:
    embedder = load_joint_embedder(world.clap)
    mix = render(compose(0, 1)).sum(0).numpy()[None, :96_000]
    expected = embedder.embed_audio(mix, 16_000, 10.0).embeddings[0] @ embedder.embed_text(["slow jazz piano"])[0]
    assert scores[1]["clap_similarity"] == pytest.approx(float(expected), abs=1e-3)


def test_without_a_clap_model_those_scores_are_left_out(world: World) -> None:
    for row in world.run("plain", clap=None).values():
        assert row["clap_similarity"] is row["embeddings"] is None


def test_a_codec_that_is_not_the_stores_is_refused_by_name(world: World, tmp_path: Path) -> None:
    other = codec_folder(tmp_path / "other", cardinality=CARDINALITY * 2)
    with pytest.raises(Exception, match=rf"codec of {CODEBOOKS} codebooks of {CARDINALITY} codes .* evaluate.codec"):
        world.run("bad", codec=str(other))


def test_a_clip_whose_file_is_damaged_is_a_reject_and_the_others_are_scored(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.write_bytes(f"audio/version=p/{1:016x}-0.flac", b"nothing that plays")
    assert sorted(world.run(clap=None, untrained_clips=0)) == [0, 2, 3]
    rejects = world.store.read(REJECTS, "s").to_pylist()
    assert [row["key"] for row in rejects] == [f"{1:016x}/0"]


def test_silence_follows_nothing_and_has_no_key_and_no_tempo(tmp_path: Path) -> None:
    world = World(tmp_path)
    quiet = encode_audio(np.zeros((1, 96_000), np.float32), 16_000, "flac")
    world.store.write_bytes(f"audio/version=p/{1:016x}-0.flac", quiet)
    row = world.run(clap=None, untrained_clips=0)[1]
    assert row["chroma_similarity"] == row["chroma_similarity_chance"] == 0.0
    assert row["key"] is row["key_correct"] is row["bpm"] is row["bpm_correct"] is None
