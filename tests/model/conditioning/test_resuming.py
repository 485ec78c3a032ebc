"""A training of a model with codebooks for joint embeddings: killed and resumed, it ends exactly as an undisturbed
one."""

from dataclasses import replace

import torch

from model.music_model import Attributes, MusicModel, drop_attributes, drop_conditions
from model.objective import Batch, LossModule, accumulate_gradients
from model.optim.config import OptimizationConfig
from model.optim.train_state import TrainState, step_seed
from tests.worlds.every_condition import config, everything, music_model
from tests.worlds.steps import micro_batches_of
from tests.worlds.tiny_model import random_codes

STEPS = 12
OPTIMIZATION = OptimizationConfig(steps=STEPS, warmup_steps=2, learning_rate=1e-2, ema_interval=1, precision="float32")


def _new(seed: int = 0) -> MusicModel:
    """Some codes die within a few steps, so the resumed training must draw the same vectors to replace them."""
    settings = config().model_dump()
    settings["clap"]["quantizer"]["learning"] |= {"decay": 0.5, "dead_code_share": 0.3}
    return music_model(type(config()).model_validate(settings), seed)


def _train(model: MusicModel, train_state: TrainState, steps: range) -> None:
    """Every draw is a function of the step, as in the training stage."""
    model.train()
    for step in steps:
        generator = torch.Generator().manual_seed(step_seed(1, step, 1))
        items: list[Attributes] = [everything(10 * step + item) for item in range(4)]
        items = drop_attributes(items, {"chroma": 0.5, "genre": 0.5}, generator)
        items = drop_conditions(items, 0.2, generator)
        codes = random_codes(4, 6, seed=step, codebooks=2, cardinality=11)
        micro_batches = micro_batches_of(model, Batch(codes, torch.tensor([6, 6, 5, 6]), items), 2)
        seeded = [replace(micro_batch, seed=step_seed(1, step, 2, micro_batch.seed)) for micro_batch in micro_batches]
        accumulate_gradients(LossModule(model, "float32"), seeded)
        train_state.step_and_check()


def test_a_killed_and_resumed_training_with_codebooks_ends_bit_for_bit_as_an_undisturbed_one() -> None:
    undisturbed = _new()
    started = {name: value.clone() for name, value in undisturbed.named_buffers()}
    whole = TrainState(undisturbed, OPTIMIZATION)
    _train(undisturbed, whole, range(STEPS))

    killed = _new()
    before = TrainState(killed, OPTIMIZATION)
    _train(killed, before, range(5))
    kept = {name: value.clone() for name, value in before.state().items()}
    resumed = _new(seed=99)
    after = TrainState(resumed, OPTIMIZATION)
    after.load(kept)
    _train(resumed, after, range(5, STEPS))

    expected, got = whole.state(), after.state()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    moved = [name for name, value in started.items() if not torch.equal(value, expected[f"buffers.{name}"])]
    assert any("codebook.embed" in name for name in moved)
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in undisturbed.weights().items())


def test_the_codebooks_are_part_of_a_checkpoint() -> None:
    trained, other = _new(), _new(seed=3)
    _train(trained, TrainState(trained, OPTIMIZATION), range(2))
    assert any("clap.quantizer" in name for name in trained.weights())
    other.load_weights(trained.weights())
    item, codes = [everything()], random_codes(1, 6, codebooks=2, cardinality=11)
    with torch.no_grad():
        assert torch.equal(trained.eval()(codes, item).logits, other.eval()(codes, item).logits)
