"""A checkpoint from elsewhere makes clips: its folder holds both the language model and the codec."""

import csv
from pathlib import Path
from typing import Any

import pytest
import soundfile

from flows.recipes.recipe import Recipe
from flows.runs.running import Run, RunPlan, run_stages
from schemas import Settings, Store
from schemas.queries.database import query
from schemas.weights import MissingWeights
from stages.checkpoints.codecs import load_codec
from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.loading import Form
from tests.worlds.audiocraft_files import written
from tests.worlds.codec_world import piece
from tests.worlds.open_gate import OPEN_LIMITS
from tests.worlds.small_checkpoint import find, small_checkpoint
from tests.worlds.tiny_codec import SAMPLE_RATE
from tests.worlds.tiny_models import text_encoder


def settings_in(folder: Path) -> Settings:
    """Settings for a store, with one request in words and one that continues a file."""
    soundfile.write(folder / "prompt.wav", piece(3), SAMPLE_RATE)
    with open(folder / "requests.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["description", "prompt", "prompt_seconds", "seconds"])
        writer.writeheader()
        writer.writerow({"description": "slow jazz piano", "seconds": 1.0})
        prompt = {"prompt": f"file:{folder}/prompt.wav", "prompt_seconds": 0.4}
        writer.writerow({"description": "fast rock", "seconds": 1.0} | prompt)
    place = {"store": str(folder / "store"), "requests": str(folder / "requests.csv")}
    return Settings.model_validate(place | {"device": "cpu", "offline": True})


def recipe(checkpoint: Path, preset: str = "musicgen-small", **others: Any) -> Recipe:
    """A user's recipe: the folder, which brings its codec; published weights are not available here."""
    differences = {"generate": {"checkpoint": str(checkpoint)}, "decode": {"format": "wav"}}
    differences |= {"gate": {"limits": OPEN_LIMITS}}
    return Recipe.model_validate({"preset": preset, **differences, **others})


@pytest.mark.parametrize(("form", "channels"), [("hf", 1), pytest.param("hf", 2, marks=pytest.mark.slow), ("segue", 1)])
def test_clips_are_made_from_a_folder_that_holds_model_and_codec(tmp_path: Path, form: Form, channels: int) -> None:
    small = small_checkpoint(tmp_path, codebooks=2 * channels, channels=channels)
    convert_checkpoint(small.folder, tmp_path / "imported", form, find)
    settings = settings_in(tmp_path)
    stages = recipe(tmp_path / "imported").configured_stages("recordings")
    run_stages(Run(RunPlan(stages, ["requests", "generate", "gate", "decode"], settings, True)))
    joined = "SELECT * FROM clips JOIN generations USING (request_id, take) JOIN requests USING (request_id)"
    rows = query(Store(settings.store), joined).to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert (row["codec_identity"], row["channels"]) == (load_codec(small.codec).identity, channels)
        sound, rate = soundfile.read(Store(settings.store).path(row["path"]), always_2d=True)
        assert (rate, sound.shape) == (SAMPLE_RATE, (SAMPLE_RATE, channels))
        assert row["prompt_frames"] == (10 if row["prompt"] else 0)


def test_a_store_without_recordings_has_scores_and_a_page_of_its_clips(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "imported", "segue", find)
    settings = settings_in(tmp_path)
    # The weights that musicgen-small is trained and measured with (EnCodec, T5, Demucs and CLAP) are not available
    # here.
    stages = recipe(tmp_path / "imported").configured_stages("recordings")
    run_stages(Run(RunPlan(stages, ["requests", "generate", "gate", "decode", "report"], settings, True)))
    page = tmp_path / "store" / "report" / "index.html"
    assert page.read_text().count("<audio controls") == 2
    run_stages(Run(RunPlan(stages, ["requests", "generate", "gate", "decode", "evaluate", "report"], settings, True)))
    assert query(Store(settings.store), "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 2}]


def audiocraft_settings(folder: Path) -> Settings:
    """Settings for a store, with a request in words."""
    (folder / "requests.csv").write_text("description,seconds\nslow jazz piano,0.5\n")
    place = {"store": str(folder / "store"), "requests": str(folder / "requests.csv")}
    return Settings.model_validate(place | {"device": "cpu", "offline": True})


def test_a_missing_text_encoder_of_an_audiocraft_folder_is_reported_with_its_field(tmp_path: Path) -> None:
    folder = written(tmp_path, "text").folder
    stages = recipe(folder).configured_stages("recordings")
    plan = RunPlan(stages, ["requests", "generate"], audiocraft_settings(tmp_path), True)
    told = r"missing weights google-t5/t5-base \(generate\.text_encoder\): .*--set generate\.text_encoder=/path"
    for work in (plan.stage_plans, lambda: run_stages(Run(plan))):
        with pytest.raises(MissingWeights, match=told):
            work()


def test_an_audiocraft_folder_makes_clips_with_the_given_text_encoder(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "text").folder
    given = {"generate": {"checkpoint": str(checkpoint), "text_encoder": str(text_encoder(tmp_path / "t5"))}}
    stages = Recipe.model_validate(
        {"preset": "musicgen-small", "gate": {"limits": OPEN_LIMITS}, **given}
    ).configured_stages("recordings")
    settings, names = audiocraft_settings(tmp_path), ["requests", "generate", "gate", "decode", "evaluate", "report"]
    run_stages(Run(RunPlan(stages, names, settings, True)))
    rows = query(Store(settings.store), "SELECT * FROM clips").to_pylist()
    assert [row["seconds"] for row in rows] == [0.5]


def test_a_clip_continues_a_track_exactly_as_it_continues_its_file(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "imported", "hf", find)
    settings = settings_in(tmp_path).model_copy(update={"source": str(tmp_path / "recordings")})
    (tmp_path / "recordings").mkdir()
    (tmp_path / "prompt.wav").rename(tmp_path / "recordings" / "prompt.wav")
    stages = recipe(tmp_path / "imported", preset="miniature").configured_stages(settings.source)
    run_stages(Run(RunPlan(stages, ["ingest"], settings, True)))
    (track,) = query(Store(settings.store), "SELECT track_id, uri FROM tracks").to_pylist()
    with open(tmp_path / "requests.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "prompt", "prompt_seconds", "seconds", "seed"])
        writer.writeheader()
        for prompt in (f"track:{track['track_id']}", f"file:{tmp_path}/recordings/prompt.wav"):
            writer.writerow({"name": prompt[:5], "prompt": prompt, "prompt_seconds": 0.4, "seconds": 1.0, "seed": 3})
    run_stages(Run(RunPlan(stages, ["requests", "generate"], settings, True)))
    rows = query(Store(settings.store), "SELECT codes, prompt_frames FROM generations").to_pylist()
    assert [row["prompt_frames"] for row in rows] == [10, 10]
    assert rows[0]["codes"] == rows[1]["codes"]
