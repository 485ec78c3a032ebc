"""The stage train: exact resume, its draws, what it measures, and what it refuses before it begins."""

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from model.music_model import Attributes
from model.objective import accumulate_gradients, held_out_cross_entropy
from schemas.tables import CHECKPOINTS, CHROMA, CLAP, TOKENS, TRACKS, TRAINING
from stages import language_training, train
from stages.captions import CaptionConfig, drawn_caption, plain_caption
from stages.checkpoints.loading import load_checkpoint
from stages.contract import Progress, Stopped
from stages.examples import Corpus, Window, code_frequencies, tiled_windows
from stages.judging import Judging
from stages.runner import StageFailed, run_stage
from tests.stages.tiny_models import CARDINALITY, CODEBOOKS, FRAME_RATE, world
from tests.stages.training_world import fill, make_context, recipe, train_in

ROOT = Path(__file__).resolve().parents[2]
ALL_DROPPED = {"condition_dropout": 1.0, "captions": {"merge": 0.0, "drop_words": 0.0}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world and a text encoder, for tests that do not mind each other's checkpoints."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder)
    return folder


@pytest.fixture
def corpus() -> Corpus:
    tables = world()
    return Corpus(tables["tracks"], tables["chroma"], tables["clap"], tables["tokens"])


def tables(folder: Path, config: train.Config) -> dict[str, list[dict]]:
    """What a training left in the store, without what tells the time."""
    _, context = make_context(folder, config)
    found = {}
    for table in (CHECKPOINTS, TRAINING):
        rows = context.store.read(table, context.fingerprint, [context.identity])
        found[table.name] = rows.drop_columns(
            [{"checkpoints": "created_at", "training": "tokens_per_second"}[table.name]]
        )
    return {name: rows.to_pylist() for name, rows in found.items()}


def weights(folder: Path, config: train.Config) -> dict[str, torch.Tensor]:
    _, context = make_context(folder, config)
    return load_file(folder / "store" / "models" / context.identity / "model.safetensors")


# -- resume -------------------------------------------------------------------------------------------------------


def test_a_training_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        fill(folder)
    config = recipe(undisturbed)  # the same files under another path are the same weights, so this is one recipe
    draw = random.Random(11)
    moments = [(draw.randrange(1, 6), draw.uniform(0, 0.1)) for _ in range(5)] + [(1, 0.0)]
    arguments = [str(killed), str(undisturbed), json.dumps(moments)]
    command = [sys.executable, "-m", "tests.stages.training_world", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    deaths = json.loads(done.stdout)
    assert deaths[-1] == 0
    assert deaths.count(signal.SIGKILL) >= 4
    expected, got = weights(undisturbed, config), weights(killed, recipe(killed))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert tables(undisturbed, config) == tables(killed, recipe(killed))
    assert not list((killed / "store" / "scratch").iterdir())


class StopAt(Progress):
    def __init__(self, context: object, step: int) -> None:
        self.context, self.step, self.done = context, step, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.done >= self.step:
            self.context.stop.set()  # type: ignore[attr-defined]


def test_a_training_that_is_asked_to_stop_loses_no_step_and_its_rows_can_be_read_meanwhile(place: Path) -> None:
    config = recipe(place, seed=5, optimization={"steps": 12}, save_every=100)
    step, context = make_context(place, config)
    context.progress = StopAt(context, 7)
    with pytest.raises(Stopped):
        run_stage(step, context)
    assert int(load_file(context.scratch() / "state.safetensors")["step"]) == 7
    meanwhile = context.store.read(TRAINING, context.fingerprint, [context.identity])
    assert meanwhile.column("step").to_pylist() == [5]
    resumed = train_in(place, config)
    stopped = weights(place, config)
    # The same recipe, never stopped: `save_every` is not part of a recipe, so make its work undone instead.
    context.store.remove_shard(CHECKPOINTS, context.fingerprint, context.identity)
    again = train_in(place, config)
    assert again["digest"] == resumed["digest"]
    assert all(torch.equal(value, weights(place, config)[name]) for name, value in stopped.items())


def test_seeds_give_different_models_and_logging_does_not(place: Path) -> None:
    short = {"steps": 3}
    first = train_in(place, recipe(place, seed=1, optimization=short))
    second = train_in(place, recipe(place, seed=2, optimization=short))
    assert first["digest"] != second["digest"]
    assert first["checkpoint_id"] != second["checkpoint_id"]
    _, one = make_context(place, recipe(place, seed=1, optimization=short))
    _, two = make_context(place, recipe(place, seed=1, optimization=short, log_every=1, valid_every=1, save_every=1))
    assert one.identity == two.identity


# -- what it learns and measures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The row of a training long enough to learn the small world, with its folder and recipe."""
    folder = tmp_path_factory.mktemp("learned")
    fill(folder)
    config = recipe(folder, optimization={"steps": 220, "learning_rate": 5e-3, "warmup_steps": 10}, save_every=100)
    return train_in(folder, config) | {"folder": folder, "config": config}


def test_held_out_tracks_are_predicted_better_with_the_right_conditions_than_with_none_or_wrong_ones(learned) -> None:
    metrics = dict(learned["metrics"])
    assert metrics["uniform_cross_entropy"] == pytest.approx(math.log(CARDINALITY))
    for split in ("valid", "test"):
        right = metrics[f"{split}_cross_entropy"]
        none = metrics[f"{split}_cross_entropy_unconditional"]
        assert right < none - 0.05
        assert none < metrics[f"{split}_cross_entropy_shuffled"] - 0.05
        assert right < metrics[f"{split}_cross_entropy_unigram"] - 0.5
        for condition in ("description", "chroma"):
            assert right < metrics[f"{split}_cross_entropy_shuffled_{condition}"] - 0.02
        books = [metrics[f"{split}_cross_entropy_codebook_{book}"] for book in range(CODEBOOKS)]
        assert right == pytest.approx(sum(books) / CODEBOOKS)


def test_a_checkpoint_read_back_has_the_cross_entropy_that_its_row_tells(learned) -> None:
    _, context = make_context(learned["folder"], learned["config"])
    read = load_checkpoint(context.store.local(learned["path"]), context.weights)
    tables = world()
    corpus = Corpus(tables["tracks"], tables["chroma"], tables["clap"], tables["tokens"])
    windows = tiled_windows(corpus, language_training.split_tracks(corpus, learned["config"])["valid"], 50, 40, 256)
    judge = Judging(corpus, windows, 50, 4, "float32")
    told = [dict(learned["metrics"])[f"valid_cross_entropy_codebook_{book}"] for book in range(CODEBOOKS)]
    assert judge.codebooks(read.model) == pytest.approx(told, abs=1e-5)
    assert read.facts.versions == {name: f"{name}-version" for name in ("tracks", "chroma", "clap", "tokens")}


def test_the_training_table_tells_the_curve(learned) -> None:
    _, context = make_context(learned["folder"], learned["config"])
    rows = context.store.read(TRAINING, context.fingerprint).to_pylist()
    train_rows = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(5, 221, 5))
    assert [row["step"] for row in rows if row["split"] == "valid"] == list(range(10, 221, 10))
    assert train_rows[-1]["loss"] < 0.7 * train_rows[0]["loss"]
    assert all(row["loss"] == pytest.approx(sum(row["codebook_loss"]) / CODEBOOKS) for row in rows)
    assert all(row["tokens_per_second"] > 0 and row["learning_rate"] > 0 for row in train_rows)


def test_validation_equals_a_naive_sum_over_single_predictions(place: Path, corpus: Corpus) -> None:
    config = recipe(place, segment_seconds=1.5)
    _, context = make_context(place, config)
    torch.manual_seed(0)
    model = language_training._initial_model(config, context)
    windows = tiled_windows(corpus, [0, 1], 37, 10, 100)
    attributes = [Attributes() for _ in windows]  # texts of one length, so that alone and together are the same
    batch = corpus.batch(windows, 37, attributes)
    assert sorted(set(batch.lengths.tolist())) == [26, 37]
    found = held_out_cross_entropy(model, batch.parts(2), "float32")
    model.eval()
    sums, counts = [0.0] * CODEBOOKS, [0] * CODEBOOKS
    for codes, length in zip(batch.codes, batch.lengths.tolist(), strict=True):
        logits = model(codes[None], [Attributes()], torch.tensor([length])).logits[0].detach().log_softmax(-1)
        for book in range(CODEBOOKS):
            for frame in range(min(length, 37 - book)):  # codebook k is k steps late, so its last k frames are not seen
                sums[book] -= float(logits[book, frame, codes[book, frame]])
                counts[book] += 1
    assert found.tolist() == pytest.approx([total / count for total, count in zip(sums, counts, strict=True)], abs=1e-5)


def test_gradients_of_parts_add_up_to_those_of_the_whole_batch_however_unequal_they_are(
    place: Path, corpus: Corpus
) -> None:
    config = recipe(place, **ALL_DROPPED)
    _, context = make_context(place, config)
    model = language_training._initial_model(config, context).eval()
    windows = [Window(0, 95), Window(1, 0), Window(2, 60), Window(3, 97), Window(4, 10)]
    batch = corpus.batch(windows, 50, [Attributes() for _ in windows])
    found = []
    for items in (5, 2, 1):
        model.zero_grad()
        codebooks = accumulate_gradients(model, batch, items, "float32")
        gradients = torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])
        found.append((codebooks, gradients))
    expected = model.loss(batch.codes, batch.attributes, batch.lengths)
    for codebooks, gradients in found:
        torch.testing.assert_close(codebooks, expected.codebooks.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(gradients, found[0][1], atol=1e-6, rtol=1e-4)


# -- examples -----------------------------------------------------------------------------------------------------


def test_examples_are_a_function_of_seed_step_and_item(place: Path, corpus: Corpus) -> None:
    config, tracks = recipe(place), list(range(8))
    again = language_training.draw_batch(corpus, tracks, config, 3)
    batch = language_training.draw_batch(corpus, tracks, config, 3)
    assert torch.equal(batch.codes, again.codes)
    assert [item.description for item in batch.attributes] == [item.description for item in again.attributes]
    larger = language_training.draw_batch(corpus, tracks, recipe(place, batch=9), 3)
    assert torch.equal(larger.codes[:6], batch.codes)
    assert not torch.equal(language_training.draw_batch(corpus, tracks, config, 4).codes, batch.codes)
    assert not torch.equal(language_training.draw_batch(corpus, tracks, recipe(place, seed=1), 3).codes, batch.codes)


def test_an_example_holds_the_codes_melody_and_embedding_of_one_span_of_time(place: Path) -> None:
    tables = world(tracks=2, seconds=12.0)
    clap = tables["clap"].to_pylist()
    clap[0] |= {"starts": [0.0, 5.0, 10.0], "embeddings": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]}
    corpus = Corpus(
        *(tables[name] for name in ("tracks", "chroma")),
        pa.Table.from_pylist(clap, schema=CLAP.schema),
        tables["tokens"],
    )
    model = recipe(place).model
    found = corpus.attributes(Window(0, 150), 50, model, "text")  # from second 6 on, for 2 s
    assert found.clap.tolist() == [0, 1, 0]
    assert found.chroma.shape == (16, 12)
    melody = np.array(tables["chroma"]["chroma"][0].as_py(), dtype=np.float32)
    assert np.array_equal(found.chroma.numpy(), melody[47:63])  # 6 s at 7.8125 frames a second
    assert corpus.attributes(Window(0, 290), 50, model, "text").chroma.shape == (3, 12)  # the track ends
    codes = corpus.batch([Window(0, 150), Window(1, 280)], 50, [found, found])
    whole = np.array(tables["tokens"]["codes"][0].as_py())
    assert np.array_equal(codes.codes[0].numpy(), whole[:, 150:200])
    assert codes.lengths.tolist() == [50, 20]


def test_a_track_without_chroma_or_embeddings_trains_with_null_there(place: Path) -> None:
    tables = world(tracks=4)
    corpus = Corpus(
        tables["tracks"], tables["chroma"].slice(1), tables["clap"].slice(0, 3), tables["tokens"].slice(0, 4)
    )
    model = recipe(place).model
    assert corpus.attributes(Window(0, 0), 50, model, None).chroma is None
    assert corpus.attributes(Window(1, 0), 50, model, None).chroma is not None
    assert corpus.attributes(Window(3, 0), 50, model, None).clap is None
    assert corpus.attributes(Window(0, 0), 50, model, None).clap is not None


def test_all_conditions_of_an_item_are_dropped_together_and_each_item_on_its_own(place: Path, corpus: Corpus) -> None:
    config = recipe(place, batch=1000, condition_dropout=0.3, chroma_dropout=0.0, segment_seconds=0.2)
    attributes = language_training.draw_batch(corpus, list(range(24)), config, 0).attributes
    gone = [item.description is None for item in attributes]
    assert gone == [item.chroma is None for item in attributes] == [item.clap is None for item in attributes]
    assert 240 < sum(gone) < 360
    alone = recipe(place, batch=1000, condition_dropout=0.0, chroma_dropout=0.5, segment_seconds=0.2)
    attributes = language_training.draw_batch(corpus, list(range(24)), alone, 0).attributes
    assert 430 < sum(item.chroma is None for item in attributes) < 570
    assert not any(item.description is None or item.clap is None for item in attributes)


def test_captions_merge_and_drop_as_often_as_asked() -> None:
    track = {"description": "A slow waltz.", "genre": "jazz", "moods": ["dark", "calm"], "keywords": None}
    track |= {"instrument": None, "key": "A minor", "bpm": 92.0}
    random = np.random.default_rng(0)
    config = CaptionConfig(merge=0.5, drop_description=0.25, drop_other=0.2, drop_words=0.0)
    texts = [drawn_caption(track, config, random) or "" for _ in range(2000)]
    merged = [text for text in texts if ":" in text]
    assert 0.45 < len(merged) / 2000 < 0.55
    assert 0.7 < sum(text.startswith("A slow waltz") for text in merged) / len(merged) < 0.8
    assert 0.75 < sum("bpm: 92" in text for text in merged) / len(merged) < 0.85
    assert len({text.index("key") < text.index("genre") for text in merged if "key" in text and "genre" in text}) == 2
    assert {text for text in texts if ":" not in text} == {"A slow waltz."}
    words = [drawn_caption(track, CaptionConfig(merge=0, drop_words=0.5), random) or "" for _ in range(500)]
    assert 1.3 < sum(len(text.split()) for text in words) / 500 < 1.7
    assert plain_caption(track) == "A slow waltz."
    assert plain_caption(track | {"description": None}) == "genre: jazz. moods: dark, calm. key: A minor. bpm: 92"
    assert plain_caption(dict.fromkeys(track)) is None


def test_windows_of_a_split_lie_side_by_side_and_are_thinned_evenly(corpus: Corpus) -> None:
    assert tiled_windows(corpus, [3], 40, 30, 100) == [Window(3, 0), Window(3, 40)]
    assert tiled_windows(corpus, [3], 40, 20, 100) == [Window(3, 0), Window(3, 40), Window(3, 80)]
    assert tiled_windows(corpus, [3], 500, 400, 100) == [Window(3, 0)]
    thinned = tiled_windows(corpus, list(range(24)), 10, 10, 12)
    assert [window.track for window in thinned] == list(range(0, 24, 2))


def test_code_frequencies_count_every_code_of_the_given_tracks(corpus: Corpus) -> None:
    found = code_frequencies(corpus, [2, 5])
    codes = np.concatenate([corpus.window_codes(Window(track, 0), 10_000) for track in (2, 5)], axis=1)
    naive = [[int((codes[book] == value).sum()) for value in range(CARDINALITY)] for book in range(CODEBOOKS)]
    assert found.tolist() == naive


# -- what is refused before training begins -----------------------------------------------------------------------


def failing(folder: Path, config: train.Config, **changed: pa.Table) -> str:
    fill(folder, **changed)
    with pytest.raises(StageFailed) as caught:
        train_in(folder, config)
    assert not (folder / "store" / "models").exists()
    return str(caught.value)


def test_data_that_cannot_be_trained_on_is_refused_with_what_was_expected_and_what_came(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    assert "expected codes of at least one track in tokens, got none" in failing(
        tmp_path, config, tokens=TOKENS.schema.empty_table()
    )
    assert "expected rows in chroma for a model that reads chroma, got none" in failing(
        tmp_path, config, chroma=CHROMA.schema.empty_table()
    )
    assert "expected rows in clap" in failing(tmp_path, config, clap=CLAP.schema.empty_table())
    test_only = [row | {"split": "test"} for row in world()["tracks"].to_pylist()]
    message = failing(tmp_path, config, tracks=pa.Table.from_pylist(test_only, schema=TRACKS.schema))
    assert "expected tracks of the split train that last at least 1.0 s, got 0 of 24 tracks in it" in message
    assert "(the longest lasts 0.52 s)" in failing(tmp_path, config, **world(seconds=0.52))
    other = recipe(
        tmp_path,
        model=config.model.model_dump()
        | {"language_model": config.model.language_model.model_dump() | {"cardinality": 9}},
    )
    assert "expected tokens of 2 codebooks with 9 codes" in failing(tmp_path, other)
    assert "expected segments longer than the largest delay of 1 frames, got 1" in failing(
        tmp_path, recipe(tmp_path, segment_seconds=0.04)
    )
    wide = recipe(tmp_path, model=config.model.model_dump() | {"clap": {"width": 5}})
    assert "expected joint embeddings of width 5, got 3" in failing(tmp_path, wide)


def test_tokens_that_contradict_themselves_are_refused(corpus: Corpus) -> None:
    tables = world(tracks=3)

    def build(**changed: object) -> None:
        rows = tables["tokens"].to_pylist()
        rows[1] |= changed
        Corpus(tables["tracks"], tables["chroma"], tables["clap"], pa.Table.from_pylist(rows, schema=TOKENS.schema))

    with pytest.raises(ValueError, match=r"expected one cardinality in all rows, got \[12, 16\]"):
        build(cardinality=16)
    with pytest.raises(ValueError, match=r"expected one number of codebooks, got \[1, 2\] \(track 0001\)"):
        build(codes=[[0] * 100])
    with pytest.raises(ValueError, match="expected 100 codes in each codebook of 0001, got 99"):
        build(codes=[[0] * 100, [0] * 99])
    with pytest.raises(ValueError, match="expected codes below the cardinality 12, got 12"):
        build(codes=[[12] * 100, [0] * 100])
    with pytest.raises(ValueError, match="expected a row in tracks for every row of tokens, got none for 0000"):
        Corpus(tables["tracks"].slice(1), tables["chroma"], tables["clap"], tables["tokens"])


def test_a_model_reads_text_exactly_where_it_has_a_text_encoder(place: Path) -> None:
    with pytest.raises(ValueError, match="expected a text encoder exactly where the model reads text"):
        recipe(place, text_encoder=None)


def test_without_a_valid_split_the_same_share_of_training_tracks_is_held_out(place: Path) -> None:
    tables = world()
    rows = [
        row | {"split": "train" if row["split"] == "valid" else row["split"]} for row in tables["tracks"].to_pylist()
    ]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS.schema)
    corpus = Corpus(tracks, tables["chroma"], tables["clap"], tables["tokens"])
    found = language_training.split_tracks(corpus, recipe(place, held_out_share=0.2))
    assert (len(found["train"]), len(found["valid"]), len(found["test"])) == (16, 4, 4)
    assert not set(found["train"]) & set(found["valid"])
    assert corpus.frame_rate == FRAME_RATE
