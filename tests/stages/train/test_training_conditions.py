"""The stage train with every kind of condition: codebooks of joint embeddings are started, trained and restored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, strategies
from safetensors.torch import load_file

from model.conditioning.captions import MERGED, CaptionConfig, drawn_caption, plain_caption, request_text
from model.music_model import Attributes
from schemas.tables import CHECKPOINTS
from stages import train
from stages.checkpoints.loading import load_checkpoint
from stages.pipeline.contract import Stopped
from stages.pipeline.runner import StageFailed, run_stage
from tests.worlds.tiny_models import world
from tests.worlds.training_world import LANGUAGE_MODEL, StopAt, fill, make_context, recipe, train_in

STEPS = 9


def _recipe(folder: Path, **changes: object) -> train.Config:
    """A recipe whose model also reads labels, words, a number and quantised joint embeddings."""
    quantizer = {"codebooks": 2, "cardinality": 2, "learning": {"decay": 0.9}}
    model = {
        "language_model": LANGUAGE_MODEL | {"cross": ("description", "genre", "moods", "bpm", "clap")},
        "description": {"width": 16},
        "fields": {
            "genre": {"kind": "label", "rows": 20, "width": 4},
            "moods": {"kind": "words", "rows": 20, "width": 4},
            "bpm": {"kind": "number", "lowest": 40, "highest": 240},
        },
        "chroma": {"frames": 16},
        "clap": {"width": 3, "quantizer": quantizer},
    }
    settings = {"model": model, "optimization": {"steps": STEPS}, "save_every": 100} | changes
    return recipe(folder, **settings)


def _fill(folder: Path) -> None:
    tracks = world()["tracks"].to_pylist()
    rows = [row | {"bpm": 60.0 + 5 * number} for number, row in enumerate(tracks)]
    fill(folder, tracks=world()["tracks"].from_pylist(rows, schema=world()["tracks"].schema))


NAMES = ("description", *MERGED, "paraphrases")
TEXT = strategies.none() | strategies.text(" \t.,é音ab", max_size=6)
LISTS = strategies.none() | strategies.lists(strategies.text(" .ab", max_size=3), max_size=3)
NUMBERS = strategies.none() | strategies.floats(20, 300)


@example(track=dict.fromkeys(NAMES) | {"description": " \t"}, seed=0)
@given(
    track=strategies.fixed_dictionaries(
        {
            name: {"moods": LISTS, "keywords": LISTS, "paraphrases": LISTS, "bpm": NUMBERS}.get(name, TEXT)
            for name in NAMES
        }
    ),
    seed=strategies.integers(0, 2**32),
)
def test_a_text_is_never_blank_for_any_metadata(track: dict, seed: int) -> None:
    """A blank description would be refused in the middle of a training."""
    texts = [plain_caption(track), request_text(track["description"], track["key"], track["bpm"])]
    config = CaptionConfig(merge=0.5, drop_words=0.5)
    texts += [drawn_caption(track, config, np.random.default_rng([seed, draw])) for draw in range(5)]
    for text in texts:
        Attributes(text)


def test_codebooks_of_joint_embeddings_are_restored_bit_for_bit_after_a_stop(tmp_path: Path) -> None:
    _fill(tmp_path)
    config = _recipe(tmp_path)
    stage, context = make_context(tmp_path, config)
    context.progress = StopAt(context, 4)
    with pytest.raises(Stopped):
        run_stage(stage, context)
    kept = load_file(context.scratch() / "state.safetensors")
    assert any(name.startswith("buffers.clap.quantizer") for name in kept)
    resumed = train_in(tmp_path, config)
    context.store.remove_shard(CHECKPOINTS, context.fingerprint, context.identity)
    undisturbed = train_in(tmp_path, config)
    assert resumed["digest"] == undisturbed["digest"]

    model = load_checkpoint(context.store.local(undisturbed["path"]), context.weights).model
    assert model.clap is not None
    assert model.clap.started
    name = "clap.quantizer.layers.0.codebook.embed"
    assert not torch.equal(model.weights()[name], kept[f"buffers.{name}"])


def test_codebooks_larger_than_the_data_are_refused_before_training(tmp_path: Path) -> None:
    _fill(tmp_path)
    settings = _recipe(tmp_path).model.model_dump()
    settings["clap"]["quantizer"]["cardinality"] = 1024
    with pytest.raises(StageFailed, match=r"expected at least 1024 joint embeddings of width 3 .* got 16 of width 3"):
        train_in(tmp_path, _recipe(tmp_path, model=settings))
