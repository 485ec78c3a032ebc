"""Tokenize: the codes of every track do not depend on other tracks."""

import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from transformers import EncodecModel

from schemas import Settings, Store, WeightsRef
from schemas.storage.digests import column_digests
from schemas.tables import CHECKPOINTS, REJECTS, TOKENS, TRACKS
from schemas.weights import folder_digest
from stages import tokenize, train_codec
from stages.audio import read_audio, resample, to_mono
from stages.checkpoints.codecs import load_codec
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_stage
from stages.tokenize import Config
from tests.worlds.codec_world import RowsPipeline, piece, recipe, tokens_of, track, tracks
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, HOP, SAMPLE_RATE, codec_folder


def config(tmp_path: Path, **changes: object) -> Config:
    if not (tmp_path / "codec").exists():
        codec_folder(tmp_path / "codec")
    return Config(codec=WeightsRef(str(tmp_path / "codec")), **changes)  # type: ignore[arg-type]


def matrix(row: dict) -> np.ndarray:
    return np.array(row["codes"])


def test_codes_of_a_recording_of_one_window_equal_those_of_transformers(tmp_path: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1, 3.01), "train")
    made, _ = tokens_of(tmp_path / "store", [row], config(tmp_path))
    found = made[row["track_id"]]
    network = EncodecModel.from_pretrained(tmp_path / "codec").eval()
    with torch.no_grad():
        wav = torch.from_numpy(read_audio(row["uri"]).samples)[None]
        expected = network.encode(wav).audio_codes[0, 0]
    assert matrix(found).shape == (CODEBOOKS, math.ceil(3.01 * SAMPLE_RATE / HOP))
    assert np.array_equal(matrix(found), expected.numpy())
    assert (found["frames"], found["cardinality"], found["frame_rate"]) == (expected.shape[1], CARDINALITY, FRAME_RATE)


def test_a_row_does_not_depend_on_its_neighbours_or_their_order(tmp_path: Path) -> None:
    rows = [track(tmp_path / f"{n}.wav", piece(n, 2.0 + 0.7 * n), "train") for n in range(4)]
    chosen = config(tmp_path, window_seconds=1.0, context_seconds=0.2)
    together, _ = tokens_of(tmp_path / "a", rows, chosen)
    backwards, _ = tokens_of(tmp_path / "b", rows[::-1], chosen)
    assert together == backwards
    for number, row in enumerate(rows):
        alone, _ = tokens_of(tmp_path / f"alone{number}", [row], chosen)
        assert alone[row["track_id"]] == together[row["track_id"]]


def test_stereo_is_mixed_and_other_rates_are_resampled(tmp_path: Path) -> None:
    left, right = (piece(n, 2.0, 44_100) for n in (1, 2))
    stereo = np.stack([left, right], axis=1)
    row = track(tmp_path / "stereo.wav", stereo, "train", 44_100)
    mixed = resample(to_mono(read_audio(row["uri"]).samples), 44_100, SAMPLE_RATE)
    soundfile.write(tmp_path / "mixed.wav", mixed.T, SAMPLE_RATE, subtype="FLOAT")
    other = track(tmp_path / "other.wav", piece(3), "train") | {"uri": str(tmp_path / "mixed.wav")}
    made, _ = tokens_of(tmp_path / "store", [row, other], config(tmp_path))
    assert made[row["track_id"]]["codes"] == made[other["track_id"]]["codes"]


def test_rows_identify_their_codec_independent_of_its_folder(tmp_path: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    one, _ = tokens_of(tmp_path / "a", [row], config(tmp_path))
    shutil.copytree(tmp_path / "codec", tmp_path / "same")
    other, _ = tokens_of(tmp_path / "b", [row], Config(codec=WeightsRef(str(tmp_path / "same"))))
    first, second = one[row["track_id"]], other[row["track_id"]]
    assert first["codec"] == second["codec"] == folder_digest(tmp_path / "codec")
    assert first["codec_identity"] == second["codec_identity"] == load_codec(tmp_path / "codec").identity
    assert (first["codec_reference"], second["codec_reference"]) == (str(tmp_path / "codec"), str(tmp_path / "same"))
    assert (first["channels"], first["sample_rate"]) == (1, SAMPLE_RATE)
    rows = [pa.Table.from_pylist([found], schema=TOKENS.schema) for found in (first, second)]
    assert column_digests(TOKENS, rows[0]) == column_digests(TOKENS, rows[1])


def test_stereo_keeps_the_sides_apart_and_mono_gives_equal_sides(tmp_path: Path) -> None:
    left, right = piece(1), piece(2)
    rows = [
        track(tmp_path / "stereo.wav", np.stack([left, right], axis=1), "train"),
        track(tmp_path / "left.wav", left, "train"),
        track(tmp_path / "right.wav", right, "train"),
    ]
    stereo, _ = tokens_of(tmp_path / "a", rows, config(tmp_path, channels="stereo"))
    mono, _ = tokens_of(tmp_path / "b", rows, config(tmp_path))
    both = matrix(stereo[rows[0]["track_id"]])
    assert both.shape[0] == 2 * CODEBOOKS
    for side, row in enumerate(rows[1:]):
        alone = matrix(mono[row["track_id"]])
        assert np.array_equal(both[side::2], alone)
        assert np.array_equal(matrix(stereo[row["track_id"]]), np.repeat(alone, 2, axis=0))
    assert stereo[rows[0]["track_id"]]["channels"] == 2


def test_fewer_codebooks_are_the_first_ones(tmp_path: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    full, _ = tokens_of(tmp_path / "a", [row], config(tmp_path))
    one, _ = tokens_of(tmp_path / "b", [row], config(tmp_path, codebooks=1))
    assert one[row["track_id"]]["codes"] == full[row["track_id"]]["codes"][:1]


def test_a_recording_that_cannot_be_encoded_is_refused_and_the_others_are_kept(tmp_path: Path) -> None:
    rows = [track(tmp_path / f"{n}.wav", piece(n), "train") for n in range(3)]
    rows += [track(tmp_path / "short.wav", piece(1, 0.03), "train")]
    Path(rows[1]["uri"]).unlink()
    made, context = tokens_of(tmp_path / "store", rows, config(tmp_path))
    rejects = {one["key"]: one for one in context.store.read(REJECTS, context.fingerprint).to_pylist()}
    assert set(made) == {rows[0]["track_id"], rows[2]["track_id"]}
    assert set(rejects) == {rows[1]["track_id"], rows[3]["track_id"]}
    assert rejects[rows[3]["track_id"]]["kind"] == "too short"
    assert "expected at least one frame of 0.040 s" in rejects[rows[3]["track_id"]]["message"]


def test_a_folder_without_a_codec_fails_the_stage_with_the_reason(tmp_path: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    with pytest.raises(StageFailed, match="expected a codec's folder"):
        tokens_of(tmp_path / "store", [row], Config(codec=WeightsRef(str(tmp_path / "empty"))))


def test_windows_that_consist_of_context_are_refused() -> None:
    with pytest.raises(ValueError, match="window_seconds > 2"):
        Config(window_seconds=2.0, context_seconds=1.0)


def test_real_recordings_have_a_code_for_every_frame_and_seams_change_few(tmp_path: Path, corpus: Path) -> None:
    rows = []
    for path in sorted(corpus.rglob("*")):
        if path.suffix in (".mp3", ".ogg") and path.stat().st_size < 400_000:
            sound = read_audio(str(path))
            row = {"track_id": path.stem, "uri": str(path), "seconds": sound.seconds, "shard": 0}
            rows.append(row)
    assert len(rows) >= 5
    whole, _ = tokens_of(tmp_path / "whole", rows, config(tmp_path, window_seconds=1000.0))
    seams, _ = tokens_of(tmp_path / "seams", rows, config(tmp_path, window_seconds=6.0))
    shares = []
    for row in rows:
        one, other = matrix(whole[row["track_id"]]), matrix(seams[row["track_id"]])
        assert one.shape == other.shape == (CODEBOOKS, math.ceil(round(row["seconds"] * SAMPLE_RATE) / HOP))
        shares.append(float((one == other).mean()))
    assert min(shares) > 0.95
    assert sum(shares) / len(shares) > 0.99


def test_a_copy_at_another_path_has_the_same_codes(tmp_path: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    one, _ = tokens_of(tmp_path / "a", [row], config(tmp_path))
    other, _ = tokens_of(tmp_path / "b", [row | {"uri": str(tmp_path / "b.wav")}], config(tmp_path))
    assert one == other


def test_a_codec_trained_in_the_store_is_named_by_its_id(tmp_path: Path) -> None:
    rows, store = tracks(tmp_path / "music"), Store(str(tmp_path / "store"))
    store.write_shard(TRACKS, "given", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), input_key="all")
    training = recipe(optimization={"steps": 6})
    tokenizing = Config(codec=WeightsRef("checkpoint:codec"))
    stages = [ConfiguredStage("train_codec", train_codec, training), ConfiguredStage("tokenize", tokenize, tokenizing)]
    pipeline = RowsPipeline(stages, Settings(store=store.url, device="cpu"))
    trained = pipeline.context("train_codec", "run")
    run_stage(stages[0], trained)
    context = pipeline.context("tokenize", "run")
    run_stage(stages[1], context)
    found = store.read(TOKENS, context.fingerprint).to_pylist()
    assert len(found) == len(rows)
    assert {row["codec_reference"] for row in found} == {f"checkpoint:{trained.identity}"}
    (checkpoint,) = store.read_all(CHECKPOINTS).to_pylist()
    assert {row["codec"] for row in found} == {checkpoint["digest"]}
    own = load_codec(store.local(f"models/{trained.identity}"))
    assert {row["codec_identity"] for row in found} == {own.identity}
