"""The stage train: exact resume, the contents of its rows, and a checkpoint that is read back."""

import math
import random
import signal
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from model.kernels import float32_products
from model.kernels.processor import multiplies_bfloat16
from schemas import Store
from schemas.tables import CHECKPOINTS, CHROMA, CLAP, TOKENS, TRACKS, TRAINING
from stages import train
from stages.checkpoints.loading import load_checkpoint
from stages.pipeline.contract import Stopped
from stages.pipeline.kernel_file import KernelFile
from stages.pipeline.runner import run_stage
from stages.train.batches import split_tracks
from stages.train.corpus import tiled_windows
from stages.train.evaluation import Evaluator
from tests.worlds.tiny_models import CARDINALITY, CODEBOOKS, world
from tests.worlds.training_world import (
    LANGUAGE_MODEL,
    StopAt,
    deaths_that_change_nothing,
    fill,
    kept_weights,
    make_context,
    recipe,
    train_in,
    world_corpus,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world and a text encoder, for tests that do not affect each other's checkpoints."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder)
    return folder


def test_a_training_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    draw = random.Random(11)
    moments = [(draw.randrange(1, 6), draw.uniform(0, 1)) for _ in range(3)] + [(1, 0.0)]
    deaths = deaths_that_change_nothing(tmp_path, moments, {"optimization": {"steps": 18}})
    assert deaths[-1] == 0
    assert deaths.count(signal.SIGKILL) >= 2


def test_a_stopped_training_loses_no_step_and_its_rows_can_be_read_meanwhile(place: Path) -> None:
    config = recipe(place, seed=5, optimization={"steps": 12}, save_every=100)
    stage, context = make_context(place, config)
    context.progress = StopAt(context, 7)
    with pytest.raises(Stopped):
        run_stage(stage, context)
    assert int(load_file(context.scratch() / "state.safetensors")["updates"]) == 7
    meanwhile = context.store.read(TRAINING, context.fingerprint, [context.identity])
    assert meanwhile.column("step").to_pylist() == [5]
    resumed = train_in(place, config)
    stopped = kept_weights(place, config)
    # The same recipe, never stopped: `save_every` is not part of a recipe, so its checkpoint is removed instead.
    context.store.remove_shard(CHECKPOINTS, context.fingerprint, context.identity)
    again = train_in(place, config)
    assert again["digest"] == resumed["digest"]
    assert all(torch.equal(value, kept_weights(place, config)[name]) for name, value in stopped.items())


def test_only_a_training_in_float32_remembers_which_library_is_faster(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32_products, "SMALLEST_TIMED", 0)
    for precision, count in (("bfloat16", 0), ("float32", 1)):
        train_in(place, recipe(place, seed=9, optimization={"steps": 1, "precision": precision}))
        remembered = KernelFile().path.read_text() if KernelFile().path.exists() else ""
        assert remembered.count("training in float32") == (count if multiplies_bfloat16() else 1)


def test_seeds_give_different_models_and_logging_does_not(place: Path) -> None:
    short = {"steps": 3}
    first = train_in(place, recipe(place, seed=1, optimization=short))
    second = train_in(place, recipe(place, seed=2, optimization=short))
    assert first["digest"] != second["digest"]
    assert first["checkpoint_id"] != second["checkpoint_id"]
    _, one = make_context(place, recipe(place, seed=1, optimization=short))
    _, two = make_context(place, recipe(place, seed=1, optimization=short, log_every=1, valid_every=1, save_every=1))
    assert one.identity == two.identity


def test_another_distribution_of_tracks_over_shards_gives_the_same_id_and_weights_bit_for_bit(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one)
    fill(other)
    store, versions = Store(str(other / "store")), make_context(other, recipe(other))[1].versions
    order = random.Random(3).sample(range(24), 24)
    for table in (TRACKS, CHROMA, CLAP, TOKENS):
        version = versions[table.name]
        rows = store.read(table, version)
        store.remove_shard(table, version, "0")
        for shard, places in enumerate((order[:5], order[5:6], order[6:])):
            store.write_shard(table, version, str(shard), rows.take(places), input_key="all")
    rows = [train_in(folder, recipe(folder, optimization={"steps": 8})) for folder in (one, other)]
    assert rows[0]["checkpoint_id"] == rows[1]["checkpoint_id"]
    assert rows[0]["digest"] == rows[1]["digest"]
    config = [recipe(folder, optimization={"steps": 8}) for folder in (one, other)]
    weights = [kept_weights(folder, each) for folder, each in zip((one, other), config, strict=True)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_facts_of_tracks_that_training_does_not_read_change_no_checkpoint(tmp_path: Path) -> None:
    def identity(config: train.Config, **changes: object) -> str:
        tracks = world()["tracks"].to_pylist()
        fill(tmp_path, tracks=pa.Table.from_pylist([tracks[0] | changes, *tracks[1:]], schema=TRACKS.schema))
        return make_context(tmp_path, config)[1].identity

    fill(tmp_path)
    config = recipe(tmp_path)
    plain = identity(config)
    for unread in ({"artist": "Ada"}, {"title": "Blue"}, {"licence": "CC0"}, {"uri": "elsewhere.wav"}):
        assert identity(config, **unread) == plain
    for read in (
        {"description": "a waltz"},
        {"genre": "folk"},
        {"bpm": 99.0},
        {"split": "test"},
        {"paraphrases": ["a"]},
    ):
        assert identity(config, **read) != plain
    fields = {"artist": {"kind": "label"}}
    decoder = LANGUAGE_MODEL | {"cross": ("description", "clap", "artist")}
    reading = recipe(tmp_path, model=config.model.model_dump() | {"language_model": decoder, "fields": fields})
    assert identity(reading, artist="Ada") != identity(reading)
    decoder = LANGUAGE_MODEL | {"cross": ("clap",)}
    wordless = config.model.model_dump() | {"language_model": decoder, "description": None}
    deaf = recipe(tmp_path, model=wordless, text_encoder=None)
    assert identity(deaf, description="a waltz", genre="folk") == identity(deaf)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The row of a training long enough to learn the small world, with its folder and recipe."""
    folder = tmp_path_factory.mktemp("learned")
    fill(folder)
    config = recipe(folder, optimization={"steps": 220, "learning_rate": 5e-3, "warmup_steps": 10}, save_every=100)
    return train_in(folder, config) | {"folder": folder, "config": config}


def test_held_out_tracks_are_predicted_better_with_right_conditions_than_with_none_or_wrong_ones(learned) -> None:
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


def test_a_loaded_checkpoint_has_the_cross_entropy_stated_in_its_row(learned) -> None:
    _, context = make_context(learned["folder"], learned["config"])
    read = load_checkpoint(context.store.local(learned["path"]), context.weights)
    corpus = world_corpus(world())
    windows = tiled_windows(corpus, split_tracks(corpus, learned["config"])["valid"], 50, 40, 256)
    judge = Evaluator(corpus, windows, 50, 4, "float32")
    told = [dict(learned["metrics"])[f"valid_cross_entropy_codebook_{book}"] for book in range(CODEBOOKS)]
    assert judge.codebooks(read.model) == pytest.approx(told, abs=1e-5)
    assert read.facts.versions == {table.name: f"{table.name}-version" for table in train.READS}


def test_the_training_table_has_the_curve_of_the_loss(learned) -> None:
    _, context = make_context(learned["folder"], learned["config"])
    rows = context.store.read(TRAINING, context.fingerprint).to_pylist()
    train_rows = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(5, 221, 5))
    assert [row["step"] for row in rows if row["split"] == "valid"] == list(range(10, 221, 10))
    assert train_rows[-1]["loss"] < 0.7 * train_rows[0]["loss"]
    assert all(row["loss"] == pytest.approx(sum(row["codebook_loss"]) / CODEBOOKS) for row in rows)
    assert all(row["tokens_per_second"] > 0 and row["learning_rate"] > 0 for row in train_rows)
    assert all(0 < row["model_flops_utilisation"] < 1.5 for row in train_rows)  # the measured rate is noisy
