"""In every form, loading reads each weight once and never holds the model twice, so it needs little more memory than
the weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worlds import audiocraft_files
from tests.worlds.audiocraft_files import conditioner_state, decoder_state, form, write_files
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.loading_memory import measure_loading
from tests.worlds.tiny_models import text_encoder

MOST = 1.2
"""Peak memory of loading, relative to the size of the weights as float32."""

BIG = replace(SHAPES["mono"], width=768, heads=12, layers=4, feedforward=3_072)


@pytest.mark.parametrize(
    ("shard", "dtype"),
    [
        pytest.param("5GB", torch.float32, marks=pytest.mark.slow),
        ("20MB", torch.float16),
        pytest.param("5GB", torch.float16, marks=pytest.mark.slow),
        pytest.param("20MB", torch.float32, marks=pytest.mark.slow),
    ],
)
def test_loading_from_hugging_faces_form_needs_little_more_memory_than_the_weights(
    shard: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    small = save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "small")
    model: Any = random_musicgen(BIG)
    folder = save(model, BIG, tmp_path / "big")
    (folder / "model.safetensors").unlink()
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard == "20MB")
    took = measure_loading(small, folder, small)
    assert took.weights > 150e6
    assert took.ratio <= MOST, took


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float16])
def test_loading_from_audiocrafts_form_needs_little_more_memory_than_the_weights(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    encoder = text_encoder(tmp_path / "t5")
    (tmp_path / "one").mkdir()
    small = audiocraft_files.written(tmp_path / "one", "text").folder
    settings, conditioners = form("text")
    settings["transformer_lm"] |= {"dim": 768, "num_heads": 12, "num_layers": 5}
    state = decoder_state(settings) | conditioner_state(conditioners, 768)
    folder = tmp_path / "big"
    folder.mkdir()
    state = {name: value.to(dtype) for name, value in state.items()}
    write_files(folder, state, settings, audiocraft_files.codec(2, 16))
    took = measure_loading(small, folder, encoder)
    assert took.weights > 150e6
    assert took.ratio <= MOST, took
