"""Held-out cross-entropy and gradients of parts of a batch, compared with the whole batch or a naive computation."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from model.music_model import Attributes
from model.objective import LossModule, accumulate_gradients, held_out_cross_entropy
from schemas.tables import TRACKS
from stages.train.corpus import Corpus, TrackWindow, tiled_windows
from stages.train.evaluation import Evaluator
from stages.train.initial_model import initial_model
from tests.worlds.steps import micro_batches_of
from tests.worlds.tiny_models import CODEBOOKS, world
from tests.worlds.training_world import LANGUAGE_MODEL, fill, make_context, recipe, world_corpus

ALL_DROPPED = {"condition_dropout": 1.0, "captions": {"merge": 0.0, "drop_words": 0.0}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world and a text encoder."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder)
    return folder


@pytest.fixture
def corpus() -> Corpus:
    return world_corpus(world())


def test_validation_equals_a_naive_sum_over_single_predictions(place: Path, corpus: Corpus) -> None:
    config = recipe(place, segment_seconds=1.5)
    _, context = make_context(place, config)
    torch.manual_seed(0)
    model = initial_model(config, context).model
    windows = tiled_windows(corpus, [0, 1], 37, 10, 100)
    attributes = [Attributes() for _ in windows]  # texts of equal length, so that alone and together are the same
    batch = corpus.batch(windows, 37, attributes)
    assert sorted(set(batch.lengths.tolist())) == [26, 37]
    found = held_out_cross_entropy(
        model, [micro_batch.batch for micro_batch in micro_batches_of(model, batch, 2)], "float32"
    )
    model.eval()
    sums, counts = [0.0] * CODEBOOKS, [0] * CODEBOOKS
    for codes, length in zip(batch.codes, batch.lengths.tolist(), strict=True):
        logits = model(codes[None], [Attributes()], torch.tensor([length])).logits[0].detach().log_softmax(-1)
        for book in range(CODEBOOKS):
            for frame in range(min(length, 37 - book)):  # codebook k is k steps late, so its last k frames are not seen
                sums[book] -= float(logits[book, frame, codes[book, frame]])
                counts[book] += 1
    assert found.tolist() == pytest.approx([total / count for total, count in zip(sums, counts, strict=True)], abs=1e-5)


def test_gradients_of_unequal_parts_add_up_to_those_of_the_whole_batch(place: Path, corpus: Corpus) -> None:
    config = recipe(place, **ALL_DROPPED)
    _, context = make_context(place, config)
    model = initial_model(config, context).model.eval()
    windows = [TrackWindow(0, 95), TrackWindow(1, 0), TrackWindow(2, 60), TrackWindow(3, 97), TrackWindow(4, 10)]
    batch = corpus.batch(windows, 50, [Attributes() for _ in windows])
    found = []
    for items in (5, 2, 1):
        model.zero_grad()
        codebooks = accumulate_gradients(LossModule(model, "float32"), micro_batches_of(model, batch, items))
        gradients = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        found.append((codebooks, gradients))
    expected = model.loss(batch.codes, batch.attributes, batch.lengths)
    for codebooks, gradients in found:
        torch.testing.assert_close(codebooks, expected.codebooks.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(gradients, found[0][1], atol=1e-6, rtol=1e-4)


def test_each_field_is_shuffled_alone_with_that_of_another_track(place: Path) -> None:
    decoder = LANGUAGE_MODEL | {"cross": ("description", "clap", "genre", "instrument")}
    fields = {"genre": {"kind": "label"}, "instrument": {"kind": "words"}}
    config = recipe(place, model=recipe(place).model.model_dump() | {"language_model": decoder, "fields": fields})
    rows = world()["tracks"].to_pylist()
    rows = [row | {"genre": f"genre {number}", "instrument": "piano"} for number, row in enumerate(rows)]
    corpus = world_corpus(world() | {"tracks": pa.Table.from_pylist(rows, schema=TRACKS.schema)})
    model = initial_model(config, make_context(place, config)[1]).model
    windows = tiled_windows(corpus, [0, 6, 12], 50, 40, 100)
    metrics = Evaluator(corpus, windows, 50, 4, "float32").metrics(model, "valid", [1, 2])
    right = metrics["valid_cross_entropy"]
    assert metrics["valid_cross_entropy_shuffled_instrument"] == right  # all tracks have the same
    assert metrics["valid_cross_entropy_shuffled_genre"] != pytest.approx(right, abs=1e-5)
    assert {f"valid_cross_entropy_shuffled_{name}" for name in model.config.conditions} <= metrics.keys()
