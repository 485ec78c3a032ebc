"""A checkpoint from elsewhere makes clips: its folder is the language model and the codec at once."""

import csv
from pathlib import Path

import pytest
import soundfile

from flows.recipe import Recipe
from flows.running import Run, in_turn, run_stages
from schemas import Settings, Store
from schemas.database import query
from stages.checkpoints.converting import convert
from stages.checkpoints.forms import Form
from stages.codecs import load_codec
from tests.stages.checkpoints.small_checkpoint import find, small_checkpoint
from tests.stages.codec_world import piece
from tests.stages.tiny_clap import clap_folder
from tests.stages.tiny_codec import SAMPLE_RATE


def settings_in(folder: Path) -> Settings:
    """A store, and requests in words and to go on from a file."""
    soundfile.write(folder / "prompt.wav", piece(3), SAMPLE_RATE)
    with open(folder / "requests.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["description", "prompt", "prompt_seconds", "seconds"])
        writer.writeheader()
        writer.writerow({"description": "slow jazz piano", "seconds": 1.0})
        prompt = {"prompt": f"file:{folder}/prompt.wav", "prompt_seconds": 0.4}
        writer.writerow({"description": "fast rock", "seconds": 1.0} | prompt)
    place = {"store": str(folder / "store"), "requests": str(folder / "requests.csv")}
    return Settings.model_validate(place | {"device": "cpu", "offline": True})


def recipe(folder: Path, checkpoint: Path) -> Recipe:
    """What a user sets: the folder for the model and its codec; nothing else is published here."""
    words = {"separator": None, "clap": None, "vocabulary": None}
    differences = {
        "chroma": {"separator": None},
        "clap": {"model": str(clap_folder(folder / "clap", 4))},
        "tokenize": {"codec": str(checkpoint)},
        "generate": {"checkpoint": str(checkpoint), "codec": str(checkpoint), **words},
        "decode": {"codec": str(checkpoint), "format": "wav"},
    }
    return Recipe.model_validate({"preset": "musicgen-small", **differences})


@pytest.mark.parametrize(("form", "channels"), [("hf", 1), ("hf", 2), ("segue", 1)])
def test_clips_come_of_a_folder_that_holds_model_and_codec(tmp_path: Path, form: Form, channels: int) -> None:
    small = small_checkpoint(tmp_path, codebooks=2 * channels, channels=channels)
    convert(small.folder, tmp_path / "imported", form, find)
    settings = settings_in(tmp_path)
    steps = recipe(tmp_path, tmp_path / "imported").steps("recordings")
    run_stages(steps, settings, ["requests", "generate", "decode"], True, Run(), in_turn)
    joined = "SELECT * FROM clips JOIN generations USING (request_id, take) JOIN requests USING (request_id)"
    rows = query(Store(settings.store), joined).to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert (row["codec"], row["channels"]) == (load_codec(small.codec).identity, channels)
        sound, rate = soundfile.read(Store(settings.store).path(row["path"]), always_2d=True)
        assert (rate, sound.shape) == (SAMPLE_RATE, (SAMPLE_RATE, channels))
        assert row["prompt_frames"] == (10 if row["prompt"] else 0)
