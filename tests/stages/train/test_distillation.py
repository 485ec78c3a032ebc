"""A training that learns guidance: it starts from its teacher, continues bit for bit after a kill, and produces a plain
model that states it."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

from model.conditioning.captions import plain_caption
from model.decoding.generation import GenerationRequest, generate
from model.guidance import num_cfg_branches
from model.music_model import MusicModel
from schemas import Store
from schemas.tables import TRAINING
from stages.checkpoints.audiocraft.package import read_settings
from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.generation import guidance_of
from stages.checkpoints.loading import Form, load_checkpoint
from stages.checkpoints.model_card import CARD
from stages.pipeline.runner import StageFailed
from stages.train.corpus import TrackWindow
from tests.worlds.small_checkpoint import find, small_checkpoint
from tests.worlds.tiny_models import world
from tests.worlds.training_world import (
    LANGUAGE_MODEL,
    deaths_that_change_nothing,
    fill,
    kept_rows,
    kept_weights,
    recipe,
    train_in,
    world_corpus,
)

PLAIN: dict = {"condition_dropout": 0.2, "attribute_dropout": {}, "captions": {"merge": 0.0, "drop_words": 0.0}}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small world, and the folder `teacher` of a model trained on it for a few steps."""
    folder = tmp_path_factory.mktemp("teacher")
    fill(folder)
    row = train_in(folder, recipe(folder, **PLAIN, optimization={"steps": 12}))
    shutil.copytree(folder / "store" / row["path"], folder / "teacher")
    return folder


def changes(teacher: Path, steps: int, **further: object) -> dict:
    """Changes to a recipe so that it learns the guidance of a model in a folder."""
    rates = {"steps": steps, "learning_rate": 2e-3}
    start = {"initial": str(teacher), "text_encoder": None, "distill_guidance": {"coefficient": 3.0}}
    return PLAIN | start | {"optimization": rates, "save_every": 3, "log_every": 2, "micro_batch_size": 2} | further


def test_a_student_starts_from_its_teacher_and_becomes_a_plain_model_that_states_the_guidance(taught: Path) -> None:
    config = recipe(taught, **changes(taught / "teacher", 6))
    row = train_in(taught, config)
    folder = taught / "store" / row["path"]
    got, teacher = (load_file(path / "model.safetensors") for path in (folder, taught / "teacher"))
    assert {name: value.shape for name, value in got.items()} == {name: value.shape for name, value in teacher.items()}
    assert any(not torch.equal(value, teacher[name]) for name, value in got.items())
    assert load_checkpoint(folder, find).facts.distilled_guidance == 3.0
    assert "guidance 3 by distillation" in (folder / CARD).read_text()
    rows = [row for row in Store(str(taught / "store")).read_all(TRAINING).to_pylist() if row["split"] == "train"]
    mine = [line for line in rows if line["checkpoint_id"] == row["checkpoint_id"]]
    assert mine[0]["loss"] > mine[-1]["loss"] > 0  # a divergence, which is 0 for a perfect student


@pytest.mark.slow
def test_a_killed_training_of_guidance_ends_with_the_same_weights_bit_for_bit(taught: Path, tmp_path: Path) -> None:
    assert deaths_that_change_nothing(tmp_path, [(4, 0.0)], changes(taught / "teacher", 7)) == [signal.SIGKILL, 0]


@pytest.mark.slow
def test_two_processes_learn_the_same_guidance_as_one(taught: Path, tmp_path: Path) -> None:
    folders = tmp_path / "alone", tmp_path / "together"
    given = changes(taught / "teacher", 4)
    for processes, folder in enumerate(folders, start=1):
        fill(folder)
        train_in(folder, recipe(folder, **given), processes=processes)
    expected, got = (kept_weights(folder, recipe(folder, **given)) for folder in folders)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-5)
    losses = [
        [row["loss"] for row in kept_rows(folder, recipe(folder, **given))["training"] if row["split"] == "train"]
        for folder in folders
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_a_recipe_without_a_suitable_teacher_is_refused(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected initial, the checkpoint that distill_guidance learns from"):
        recipe(taught, distill_guidance={})
    with pytest.raises(ValueError, match="greater than 1"):
        recipe(taught, **changes(taught / "teacher", 1, distill_guidance={"coefficient": 1.0}))
    learned = tmp_path / "learned"
    shutil.copytree(taught / "teacher", learned)
    facts = json.loads((learned / "config.json").read_text()) | {"distilled_guidance": 2.0}
    (learned / "config.json").write_text(json.dumps(facts))
    with pytest.raises(StageFailed, match="which has learned guidance 2"):
        train_in(taught, recipe(taught, **changes(learned, 1)))
    wider = recipe(taught, **changes(taught / "teacher", 1)).model.model_dump()
    wider["fields"] = {"genre": {"kind": "label"}}
    wider["language_model"]["cross"] = ("description", "genre", "clap")
    with pytest.raises(StageFailed, match=r"expected, for train.distill_guidance, the conditions of"):
        train_in(taught, recipe(taught, **changes(taught / "teacher", 1, model=wider)))


@pytest.mark.parametrize("form", ["hf", "audiocraft"])
def test_learned_guidance_survives_other_forms_and_their_readers_add_none(tmp_path: Path, form: Form) -> None:
    small = small_checkpoint(tmp_path, reads=form == "hf")
    facts = json.loads((small.folder / "config.json").read_text()) | {"distilled_guidance": 2.5}
    (small.folder / "config.json").write_text(json.dumps(facts))
    convert_checkpoint(small.folder, tmp_path / "there", form, find)
    if form == "hf":
        assert GenerationConfig.from_pretrained(tmp_path / "there").guidance_scale == 1.0
    else:
        settings = read_settings(tmp_path / "there" / "state_dict.bin").section("classifier_free_guidance")
        assert settings.values["inference_coef"] == 1.0
    convert_checkpoint(tmp_path / "there", tmp_path / "back", "segue", find)
    assert load_checkpoint(tmp_path / "back", find).facts.distilled_guidance == 2.5


def test_the_probability_of_dropping_all_conditions_comes_from_the_distillation(taught: Path) -> None:
    config = recipe(taught, **changes(taught / "teacher", 1))
    assert (config.condition_dropout, config.all_dropout) == (0.2, 0.1)
    assert recipe(taught, **PLAIN).all_dropout == 0.2


def test_a_model_with_learned_guidance_is_guided_only_if_a_request_asks(taught: Path) -> None:
    plain = load_checkpoint(taught / "teacher", find).facts
    learned = plain.model_copy(update={"distilled_guidance": 3.0})
    for asked in (True, False, None):
        request = {"guidance": 4.0, "guidance_asked": asked}
        assert guidance_of(request, plain) == 4.0
        assert guidance_of(request, learned) == (4.0 if asked else 1.0)


def agreement(model: MusicModel, guidance: float, tracks: int = 120, frames: int = 25) -> float:
    """How often generated codes equal those that the conditions of unseen tracks ask for, in the codebook that follows
    from text and embedding."""
    corpus = world_corpus(world(tracks=tracks, seed=9))
    requests, expected = [], []
    for track in range(tracks):
        window = TrackWindow(track, 0)
        conditions = corpus.attributes(window, frames, model.config, plain_caption(corpus.metadata(track)))
        requests.append(GenerationRequest(conditions, frames, seed=track, guidance=guidance, top_k=0))
        expected.append(corpus.window_codes(window, frames))
    made = generate(model, requests)
    return float(np.mean([codes.numpy()[1] == code[1] for codes, code in zip(made, expected, strict=True)]))


@pytest.mark.slow
def test_a_student_follows_conditions_in_one_pass_as_well_as_its_teacher_in_two(tmp_path: Path) -> None:
    fill(tmp_path)

    def training(steps: int, dropout: float, **further: object) -> MusicModel:
        network = LANGUAGE_MODEL | {"prepend": (), "dropout": dropout}
        reads = {"description": {"width": 16, "finetune": True}, "clap": {"width": 3}}
        sizes = {"segment_seconds": 1.0, "optimization": {"steps": steps}, "valid_every": 1000}
        row = train_in(
            tmp_path, recipe(tmp_path, **PLAIN, **sizes, model={"language_model": network} | reads, **further)
        )
        shutil.copytree(tmp_path / "store" / row["path"], tmp_path / f"after {steps}")
        return load_checkpoint(tmp_path / f"after {steps}", find).model

    teacher = training(80, 0.1)
    student = training(
        200, 0.0, initial=str(tmp_path / "after 80"), text_encoder=None, distill_guidance={"coefficient": 3.0}
    )
    unguided, guided, learned = agreement(teacher, 1.0), agreement(teacher, 3.0), agreement(student, 1.0)
    print(f"agreement: teacher {unguided:.3f}, with guidance 3 {guided:.3f}; student {learned:.3f}")
    assert guided > unguided + 0.04
    assert learned > guided - 0.03
    assert 2 * num_cfg_branches(1.0, 1.0) == num_cfg_branches(3.0, 1.0)  # half the rows
