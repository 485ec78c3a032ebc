"""The draws of a training: which tracks, windows and conditions a step sees, and how often something is dropped."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from schemas.tables import TRACKS
from stages.drawing import draw_batch, split_tracks
from stages.examples import Corpus
from tests.stages.tiny_models import FRAME_RATE, world
from tests.stages.training_world import recipe, world_corpus


@pytest.fixture
def corpus() -> Corpus:
    return world_corpus(world())


def test_examples_are_a_function_of_seed_step_and_item(tmp_path: Path, corpus: Corpus) -> None:
    config, tracks = recipe(tmp_path), list(range(8))
    again = draw_batch(corpus, tracks, config, 3)
    batch = draw_batch(corpus, tracks, config, 3)
    assert torch.equal(batch.codes, again.codes)
    assert [item.description for item in batch.attributes] == [item.description for item in again.attributes]
    larger = draw_batch(corpus, tracks, recipe(tmp_path, batch=9), 3)
    assert torch.equal(larger.codes[:6], batch.codes)
    assert not torch.equal(draw_batch(corpus, tracks, config, 4).codes, batch.codes)
    assert not torch.equal(draw_batch(corpus, tracks, recipe(tmp_path, seed=1), 3).codes, batch.codes)


def test_all_conditions_of_an_item_are_dropped_together_and_items_on_their_own(tmp_path: Path, corpus: Corpus) -> None:
    config = recipe(tmp_path, batch=1000, condition_dropout=0.3, attribute_dropout={"chroma": 0.0}, segment_seconds=0.2)
    attributes = draw_batch(corpus, list(range(24)), config, 0).attributes
    gone = [item.description is None for item in attributes]
    assert gone == [item.chroma is None for item in attributes] == [item.clap is None for item in attributes]
    assert 240 < sum(gone) < 360
    alone = recipe(tmp_path, batch=1000, condition_dropout=0.0, attribute_dropout={"chroma": 0.5}, segment_seconds=0.2)
    attributes = draw_batch(corpus, list(range(24)), alone, 0).attributes
    assert 430 < sum(item.chroma is None for item in attributes) < 570
    assert not any(item.description is None or item.clap is None for item in attributes)


def test_without_a_valid_split_the_same_share_of_training_tracks_is_held_out(tmp_path: Path) -> None:
    tables = world()
    rows = [
        row | {"split": "train" if row["split"] == "valid" else row["split"]} for row in tables["tracks"].to_pylist()
    ]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS.schema)
    corpus = Corpus(tracks, tables["chroma"], tables["clap"], tables["tokens"])
    found = split_tracks(corpus, recipe(tmp_path, held_out_share=0.2))
    assert (len(found["train"]), len(found["valid"]), len(found["test"])) == (16, 4, 4)
    assert not set(found["train"]) & set(found["valid"])
    assert corpus.frame_rate == FRAME_RATE
