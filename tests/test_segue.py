"""The Python interface: it returns what the stages return, and the examples run."""

import json
import re
import runpy
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

import segue
from flows.commands.generate import recipe_of_checkpoint
from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Settings, Store
from schemas.tables import TRACKS
from stages.audio import convert_audio
from tests.worlds.audiocraft_files import written
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.smallest_run import REQUESTED, ROOT, SMALLEST
from tests.worlds.tiny_models import text_encoder

DESCRIPTION = "calm piano at night"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MusicGen in the form of Hugging Face's hub."""
    return save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path_factory.mktemp("hub") / "small")


@pytest.fixture(scope="module")
def model(folder: Path) -> segue.Model:
    return segue.load_model(folder, device="cpu", offline=True)


def test_a_model_and_its_codec_are_loaded_without_bars_and_those_of_others_stay(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(logging, "_tqdm_active", True)  # which an earlier command line in this process turned off
    assert segue.load_model(folder, device="cpu", offline=True).codec.sample_rate
    assert "Loading weights" not in capfd.readouterr().err
    list(logging.tqdm(range(2), desc="a user's own"))
    assert "a user's own" in capfd.readouterr().err


def test_a_clip_has_the_codes_that_a_run_gives_the_same_request(
    folder: Path, model: segue.Model, tmp_path: Path
) -> None:
    lines = [{"description": DESCRIPTION, "seconds": 0.8, "takes": 2}, {"description": "loud drums", "seconds": 0.5}]
    (tmp_path / "order.json").write_text(json.dumps(lines))
    place = tmp_path / "store"
    settings = {"store": str(place), "requests": str(tmp_path / "order.json"), "device": "cpu", "offline": True}
    recipe = recipe_of_checkpoint(str(folder), Store(str(place)))
    run_stages(Run(parse_run_options(["generate"], "musicgen-small", settings, [], recipe_difference=recipe).plan))
    made = "generations JOIN requests USING (request_id) ORDER BY description, take"
    rows = segue.Store(place).query(f"SELECT description, take, codes, generations.seed FROM {made}").to_pylist()
    clips = sorted(model.generate_all(lines), key=lambda clip: (clip.request["description"], clip.take))
    assert [(clip.request["description"], clip.take) for clip in clips] == [
        (row["description"], row["take"]) for row in rows
    ]
    for clip, row in zip(clips, rows, strict=True):
        assert np.array_equal(clip.codes, np.array(row["codes"]))
        assert clip.seed == row["seed"]


def test_generating_one_clip_equals_one_of_all_and_a_text_is_a_description(model: segue.Model) -> None:
    clip = model.generate(DESCRIPTION, seconds=0.5, seed=7)
    (same,) = model.generate_all([{"description": DESCRIPTION, "seconds": 0.5, "seed": 7}])
    assert np.array_equal(clip.codes, same.codes)
    assert clip.samples.shape == (1, round(0.5 * clip.sample_rate))
    assert not np.array_equal(clip.codes, model.generate(DESCRIPTION, seconds=0.5, seed=8).codes)


def test_encoding_and_decoding_are_the_codecs_own(folder: Path, model: segue.Model, tmp_path: Path) -> None:
    clip = model.generate(DESCRIPTION, seconds=1, seed=1)
    assert np.array_equal(model.codec.decode(clip.codes).samples[:, : clip.samples.shape[1]], clip.samples)
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 16_000)).astype(np.float32)
    soundfile.write(tmp_path / "sound.wav", stereo.T, 16_000, subtype="FLOAT")
    codec = segue.load_codec(str(folder), device="cpu", offline=True)
    codes = codec.encode(tmp_path / "sound.wav")
    mono = convert_audio(stereo, 16_000, codec.sample_rate, 1)
    assert np.array_equal(codes, model.codec.encode(segue.Sound(mono, codec.sample_rate)))
    assert codes.shape == (4, round(codec.frame_rate))
    assert codes.dtype == np.uint16


def test_a_sound_is_a_player_in_a_notebook() -> None:
    shown = segue.Sound(np.zeros((2, 100), dtype=np.float32), 8_000)._repr_html_()
    assert re.fullmatch(r'<audio controls src="data:audio/wav;base64,UklGR[A-Za-z0-9+/=]+"></audio>', shown)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"descripton": "x"}, "got 'descripton' (did you mean description?)"),
        ({"description": "x", "seconds": -1}, "seconds: expected greater than 0 seconds, got -1"),
        ({"melody": "file:none.wav"}, "none.wav', got no such file"),
        ({"description": "x", "chords": "C | G", "bpm": 90}, "expected a model that was trained with chords"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason_that_a_run_gives(
    request_: dict[str, Any], told: str, model: segue.Model
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        model.generate(request_)


def test_an_audiocraft_folder_generates_with_the_given_text_encoder(tmp_path: Path) -> None:
    encoder = str(text_encoder(tmp_path / "t5"))
    model = segue.load_model(written(tmp_path, "text").folder, device="cpu", text_encoder=encoder, offline=True)
    assert model.generate(DESCRIPTION, seconds=0.5).samples.shape[0] == 1


def test_a_store_gives_tables_as_arrow_and_pandas(tmp_path: Path) -> None:
    place = Store(str(tmp_path))
    place.require()
    rows = [{"track_id": name, "title": name, "bpm": bpm} for name, bpm in (("a", 100.0), ("b", 140.0))]
    place.write_shard(TRACKS, "v1", "0", pa.Table.from_pylist(rows, schema=TRACKS.schema), "k")
    store = segue.Store(tmp_path)
    assert store.table("tracks").schema.names == TRACKS.schema.names
    assert store.table("tracks", "pandas", where="bpm > 120")["title"].tolist() == ["b"]
    assert store.query("SELECT count(*) AS n FROM tracks").to_pylist() == [{"n": 2}]
    with pytest.raises(ValueError, match=re.escape("got 'trakcs' (did you mean tracks?)")):
        store.table("trakcs")
    assert repr(store) == f"segue.Store({str(tmp_path)!r})"


def test_a_path_that_is_not_a_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "project" / "src").mkdir(parents=True)
    for name, got in (("no", "nothing there"), ("project", "a folder with other content")):
        for opening in (segue.Store, partial(segue.load_model, "checkpoint:language_model")):
            with pytest.raises(ValueError, match=f"expected a store at .*{name}, got {got}"):
                opening(tmp_path / name)


def test_a_sound_and_a_clip_are_described_in_one_line() -> None:
    samples = np.zeros((2, 48_000), np.float32)
    assert repr(segue.Sound(samples, 32_000)) == "segue.Sound(1.50 s, 2 x 32000 Hz)"
    request = {"description": "calm bells", "melody": None, "prompt": None}
    clip = segue.Clip(samples, 32_000, np.zeros((4, 75), np.uint16), request, take=1, seed=7)
    told = "segue.Clip(1.50 s, 2 x 32000 Hz, 4 x 75 codes, description='calm bells', take=1, seed=7)"
    assert repr(clip) == told


def test_the_example_with_a_published_model_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["published_model.py", str(folder)])
    runpy.run_path(str(ROOT / "examples" / "published_model.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["reads description", "1 channel, 2.0 s at 8000 Hz"]
    assert sorted(re.sub("seed .*", "", line) for line in lines[2:5]) == [
        "steady 1: 1.0 s, ",
        "wild 1: 1.0 s, ",
        "wild 2: 1.0 s, ",
    ]
    assert lines[5] == "4 codebooks, 50 frames, 2.0 s"


def test_the_example_with_own_music_runs(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(catalog, store)
    knobs = [f"{name}={value}" for name, value in (SMALLEST | REQUESTED).items()]
    monkeypatch.setattr(sys, "argv", ["own_music.py", str(store / "demo"), str(store), *knobs])
    runpy.run_path(str(ROOT / "examples" / "own_music.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.count(".flac: ") == 3
    assert "2.0 s of new sound, codes 4 x " in out
    assert Settings().store not in out
