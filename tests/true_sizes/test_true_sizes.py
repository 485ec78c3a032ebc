"""The published models at their true sizes: they load in little more than their weights, say what transformers says,
and their presets run from recordings to the page within 16 GB."""

from pathlib import Path

import pytest
import torch

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.codecs import codes_of_checkpoint
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.precision import StoredType
from tests.stages.checkpoints.test_loading_memory import MOST
from tests.true_sizes.greedy import measure_codes
from tests.true_sizes.published import SIZES, write_audiocraft_form, write_hugging_face_form, write_text_encoder
from tests.true_sizes.runs import Weights, maker_of, run_preset
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.loading_memory import measure_loading

pytestmark = pytest.mark.slow

ALLOWED = 16e9
"""Bytes that any stage of a published preset may have in memory."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """musicgen-small in half precision."""
    return write_hugging_face_form("musicgen-small", tmp_path_factory.mktemp("half") / "small", "float16")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SIZES)
def test_a_published_model_loads_in_little_more_than_its_weights(name: str, dtype: StoredType, tmp_path: Path) -> None:
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "tiny")
    folder = write_hugging_face_form(name, tmp_path / name, dtype, "2GB")
    took = measure_loading(small, folder, small)
    assert took.ratio <= MOST, took
    assert took.peak <= ALLOWED


def test_a_model_in_audiocrafts_form_is_the_same_and_loads_in_little_more_than_its_weights(
    half: Path, tmp_path: Path
) -> None:
    folder = write_audiocraft_form(half, tmp_path / "audiocraft")
    encoder = write_text_encoder(half, tmp_path / "t5")
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "tiny")
    took = measure_loading(small, folder, encoder)
    assert took.ratio <= MOST, took

    def find(reference: WeightsRef) -> LocalWeights:
        return LocalWeights(str(reference), encoder, "digest")

    one, other = load_checkpoint(half, find).model.weights(), load_checkpoint(folder, find).model.weights()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert codes_of_checkpoint(half, find) == codes_of_checkpoint(folder, find)


@pytest.mark.parametrize("name", SIZES)
def test_greedy_codes_of_a_published_model_are_those_of_transformers_in_each_form(name: str, tmp_path: Path) -> None:
    folder = write_hugging_face_form(name, tmp_path / name, "float32")
    audiocraft, encoder = write_audiocraft_form(folder, tmp_path / "audiocraft"), tmp_path / "t5"
    expected = measure_codes("transformers", folder).codes
    by = maker_of(name)
    assert measure_codes(by, folder).codes == expected
    assert measure_codes(by, audiocraft, write_text_encoder(folder, encoder)).codes == expected


@pytest.mark.parametrize("name", SIZES)
def test_a_published_preset_runs_from_recordings_to_the_page_within_16_gigabytes(name: str, tmp_path: Path) -> None:
    for folder in ("weights", "run"):
        (tmp_path / folder).mkdir()
    weights = Weights(name, tmp_path / "weights")
    peaks = {stage: taken.peak for stage, taken in run_preset(name, weights, tmp_path / "run")}
    assert max(peaks.values()) <= ALLOWED, peaks
    assert (tmp_path / "run" / "store" / "report" / "index.html").is_file()
