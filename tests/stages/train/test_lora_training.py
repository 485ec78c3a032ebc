"""A training of low-rank updates: exact resume, frozen weights, and a checkpoint that needs no other files."""

import signal
from pathlib import Path

import peft
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from model.lm.transformer import Transformer
from stages import train
from stages.checkpoints.loading import load_checkpoint
from stages.pipeline.runner import StageFailed
from stages.train.corpus import TrackWindow
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.tiny_models import world
from tests.worlds.training_world import (
    deaths_that_change_nothing,
    fill,
    kept_rows,
    kept_weights,
    make_context,
    recipe,
    train_in,
    world_corpus,
)

LORA = {"rank": 2, "dropout": 0.1, "targets": ["attention", "cross_attention", "feedforward"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world, and beside it the folder `initial` of a model trained for a few steps."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder)
    row = train_in(folder, recipe(folder, optimization={"steps": 6}))
    (folder / "store" / row["path"]).rename(folder / "initial")
    return folder


def adapting(place: Path, **changes: object) -> train.Config:
    return recipe(place, **({"initial": str(place / "initial"), "text_encoder": None, "lora": LORA} | changes))


def test_only_updates_and_conditioners_move_and_the_rest_of_the_decoder_stays(place: Path) -> None:
    before = load_file(place / "initial" / "model.safetensors")
    config = adapting(place, optimization={"steps": 4}, lora={"rank": 2, "targets": ["attention"]})
    train_in(place, config)
    after = kept_weights(place, config)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in moved if name.startswith("language_model.")}
    stems = ("self_attention.in_projection.weight", "self_attention.out_projection.weight")
    assert decoder == {f"language_model.transformer.layers.{layer}.{stem}" for layer in range(2) for stem in stems}
    assert {"description.projection.weight", "chroma.projection.weight", "clap.projection.weight"} <= moved
    alone = adapting(
        place, optimization={"steps": 4}, lora={"rank": 2, "targets": ["attention"], "conditioners": False}
    )
    train_in(place, alone)
    after = kept_weights(place, alone)
    assert {name for name in before if not torch.equal(before[name], after[name])} == decoder


def test_the_checkpoint_is_a_plain_model_and_its_adapter_gives_the_same_on_the_initial_one(
    place: Path,
) -> None:
    lora = LORA | {"conditioners": False}
    config = adapting(place, lora=lora, optimization={"steps": 6, "learning_rate": 3e-2})
    row = train_in(place, config)
    _, context = make_context(place, config)
    folder = context.store.local(row["path"])
    kept, initial = load_checkpoint(folder, context.weights), load_checkpoint(place / "initial", context.weights)
    corpus = world_corpus(world())
    windows = [TrackWindow(0, 0), TrackWindow(5, 20)]
    attributes = [corpus.attributes(window, 50, config.model, "slow jazz piano") for window in windows]
    batch = corpus.batch(windows, 50, attributes)
    with torch.no_grad():
        got, plain = (one.model(batch.codes, attributes).logits for one in (kept, initial))
        peft.PeftModel.from_pretrained(initial.model.language_model, str(folder / "adapter")).eval()
        adapted = initial.model(batch.codes, attributes).logits
    assert (got - plain).abs().max() > 0.05
    torch.testing.assert_close(adapted, got, atol=1e-5, rtol=0)
    updates = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert row["parameters"] == sum(value.numel() for value in updates.values())


def test_two_steps_with_the_published_averaging_interval_change_the_checkpoint(place: Path) -> None:
    before = load_file(place / "initial" / "model.safetensors")
    optimization = {"steps": 2, "ema_decay": 0.99, "ema_interval": 10}
    config = adapting(place, lora=LORA | {"conditioners": False}, optimization=optimization)
    train_in(place, config)
    after = kept_weights(place, config)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == 2 * 6  # every matrix of both layers


def test_a_training_that_stops_improving_ends_early_and_keeps_its_best_weights(place: Path) -> None:
    optimization = {"steps": 40, "learning_rate": 0.5, "ema_decay": 0.0}
    config = adapting(place, lora=LORA, optimization=optimization, early_stop={"every": 2, "patience": 2})
    row = train_in(place, config)
    losses = {r["step"]: r["loss"] for r in kept_rows(place, config)["training"] if r["split"] == "valid"}
    metrics = dict(row["metrics"])
    best = min((step for step in losses if step), key=losses.__getitem__)
    assert sorted(losses) == list(range(0, best + 5, 2))  # the start, and two validations after the best
    assert row["steps"] == metrics["best_step"] == best
    assert metrics["valid_cross_entropy"] == pytest.approx(losses[best], abs=1e-6)
    assert metrics["valid_cross_entropy_initial"] == losses[0]


def test_early_stopping_without_held_out_tracks_is_refused(tmp_path: Path) -> None:
    tables = world(tracks=1)
    column = tables["tracks"].schema.get_field_index("split")
    alone = tables["tracks"].set_column(column, "split", pa.array(["train"]))
    fill(tmp_path, tracks=alone, tokens=tables["tokens"])
    with pytest.raises(StageFailed, match="expected held-out tracks for early stopping"):
        train_in(tmp_path, recipe(tmp_path, early_stop={}))


def test_a_checkpoint_equal_to_its_start_is_an_error(place: Path) -> None:
    optimization = {"steps": 3, "learning_rate": 1e-20}
    config = adapting(place, lora=LORA | {"conditioners": False}, optimization=optimization)
    with pytest.raises(
        StageFailed, match="expected 3 steps of training to change the weights, got exactly the initial"
    ):
        train_in(place, config)
    _, context = make_context(place, config)
    assert not context.store.exists(f"models/{context.identity}")


@pytest.mark.slow  # a test of `segue finetune` has a training that fails midway and continues
def test_a_killed_training_of_updates_ends_with_the_same_weights_bit_for_bit(place: Path, tmp_path: Path) -> None:
    changes = {"initial": str(place / "initial"), "text_encoder": None, "lora": LORA, "checkpoint_layers": True}
    changes |= {"joint_text": 0.5, "clap": str(clap_folder(tmp_path / "clap", 3))}
    changes |= {"optimization": {"steps": 12}, "early_stop": {"every": 2, "patience": 9}}
    deaths = deaths_that_change_nothing(tmp_path, [(3, 0.0), (6, 0.5)], changes)
    assert deaths == [signal.SIGKILL, signal.SIGKILL, 0]
    names = {file.name for file in (tmp_path / "killed" / "store" / "models").glob("*/adapter/*")}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


def test_recomputing_layers_changes_no_weight(place: Path) -> None:
    found = []
    for again in (False, True):
        config = recipe(place, seed=9, checkpoint_layers=again, optimization={"steps": 3})
        context = make_context(place, config)[1]
        context.store.remove("models")
        context.store.remove("checkpoints")
        train_in(place, config)
        found.append((context.identity, kept_weights(place, config)))
    assert found[0][0] == found[1][0]  # the same recipe, so the same checkpoint
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_layers_are_compiled_on_request_without_changing_the_recipes_identity(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    # Shapes are checked in this process, which no compiler can read through; tests.worlds.compiled_layers compiles.
    monkeypatch.setattr(Transformer, "compile_layers", lambda transformer: compiled.append(transformer))
    identities = set()
    for compiles in (False, True):
        config = recipe(place, seed=31, compile=compiles, optimization={"steps": 2})
        context = make_context(place, config)[1]
        context.store.remove("models")
        context.store.remove("checkpoints")
        train_in(place, config)
        identities.add(context.identity)
        assert len(compiled) == compiles
    assert len(identities) == 1
