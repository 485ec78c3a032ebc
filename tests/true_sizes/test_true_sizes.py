"""The published models at their true sizes: they load in little more than their weights, say what transformers says,
and their presets run from recordings to the page within 16 GB."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, MusicgenForConditionalGeneration

from schemas import WeightsRef
from schemas.weights import LocalWeights
from segue import load_model
from stages.checkpoints.codecs import codes_of_checkpoint
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.precision import StoredType
from tests.stages.checkpoints.test_loading_memory import MOST, loading
from tests.true_sizes.published import SIZES, write_audiocraft_form, write_hugging_face_form, write_text_encoder
from tests.true_sizes.runs import run_preset, write_weights
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save

pytestmark = pytest.mark.slow

ALLOWED = 16e9
"""Bytes that any stage of a published preset may have in memory."""

DESCRIPTION, FRAMES, FRAME_RATE = "a calm ambient piece", 25, 50


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """musicgen-small in half precision."""
    return write_hugging_face_form("musicgen-small", tmp_path_factory.mktemp("half") / "small", "float16")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SIZES)
def test_a_published_model_loads_in_little_more_than_its_weights(name: str, dtype: StoredType, tmp_path: Path) -> None:
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "tiny")
    folder = write_hugging_face_form(name, tmp_path / name, dtype, "2GB")
    took = loading(small, folder, small)
    assert took["peak"] <= MOST * took["weights"], took
    assert took["peak"] <= ALLOWED


def test_a_model_in_audiocrafts_form_is_the_same_and_loads_in_little_more_than_its_weights(
    half: Path, tmp_path: Path
) -> None:
    folder = write_audiocraft_form(half, tmp_path / "audiocraft")
    encoder = write_text_encoder(half, tmp_path / "t5")
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "tiny")
    took = loading(small, folder, encoder)
    assert took["peak"] <= MOST * took["weights"], took

    def find(reference: WeightsRef) -> LocalWeights:
        return LocalWeights(str(reference), encoder, "digest")

    one, other = load_checkpoint(half, find).model.weights(), load_checkpoint(folder, find).model.weights()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert codes_of_checkpoint(half, find) == codes_of_checkpoint(folder, find)


def test_greedy_codes_of_musicgen_small_are_those_of_transformers(half: Path) -> None:
    theirs: Any = MusicgenForConditionalGeneration.from_pretrained(half, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(half)([DESCRIPTION], return_tensors="pt")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    steps, decode = FRAMES + SIZES["musicgen-small"].codebooks - 1, theirs.audio_encoder.decode
    seen: list[torch.Tensor] = []

    def record(codes: torch.Tensor, *others: object, **named: object) -> object:
        seen.append(codes[0, 0])
        return decode(codes, *others, **named)

    with patch.object(theirs.audio_encoder, "decode", record):
        theirs.generate(**given, do_sample=False, guidance_scale=3.0, max_new_tokens=steps)
    asked = {"description": DESCRIPTION, "temperature": 0, "guidance": 3, "seconds": FRAMES / FRAME_RATE}
    clip = load_model(half, offline=True).generate(asked)
    assert torch.equal(torch.as_tensor(np.array(clip.codes, dtype=np.int64)), seen[0])


@pytest.mark.parametrize("name", SIZES)
def test_a_published_preset_runs_from_recordings_to_the_page_within_16_gigabytes(name: str, tmp_path: Path) -> None:
    weights = write_weights(name, tmp_path / "weights")
    (tmp_path / "run").mkdir()
    peaks = {stage: taken.peak for stage, taken in run_preset(name, weights, tmp_path / "run")}
    assert max(peaks.values()) <= ALLOWED, peaks
    assert (tmp_path / "run" / "store" / "report" / "index.html").is_file()
