"""The stage `demo_models`: stand-ins that the loaders of published weights read, and that are reproducible."""

import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ClapModel, T5EncoderModel

from schemas.weights import LocalWeights
from stages.demo import clap
from stages.demo import models as demo_models
from stages.demo.synthesis import caption, compose
from stages.demo.training import FIRST_INDEX, make_music
from stages.networks.clap import load_joint_embedder
from stages.networks.demucs import load_separator
from stages.pipeline.contract import Stopped
from tests.worlds.bars import no_bars_of_transformers
from tests.worlds.world_of_sound import make_context

QUICK = {"steps": 2, "warmup_steps": 0, "precision": "float32"}
SMALL = demo_models.Config.model_validate(
    {
        **{"pieces": 32, "held_out": 4},
        "separator": {
            **{"sample_rate": 8_000, "channels": 8, "bottom_channels": 16, "depth": 3, "heads": 2},
            "training": {"segment_seconds": 1.0, "batch_size": 1, "optimization": QUICK},
        },
        "clap": {
            **{"width": 16, "heads": (2, 4), "text_width": 16, "text_layers": 1, "embedding": 16},
            "training": {"batch_size": 4, "optimization": QUICK},
        },
        "text_encoder": {"width": 16, "layers": 1, "heads": 2},
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    context = make_context(tmp_path_factory.mktemp("models"))
    with no_bars_of_transformers():
        return context, {row["kind"]: row for row in demo_models.reduce(SMALL, context).rows}


def test_every_kind_of_checkpoint_is_made_with_its_measures_next_to_chance(made):
    _, rows = made
    assert tuple(rows) == demo_models.KINDS
    assert len({row["checkpoint_id"] for row in rows.values()}) == 3
    assert all(row["parameters"] > 1000 for row in rows.values())
    assert {"si_sdr", "si_sdr_mix", "chroma_cosine", "chroma_cosine_mix"} == dict(rows["separator"]["metrics"]).keys()
    metrics = dict(rows["clap"]["metrics"])
    assert metrics["genre_chance"] == 1 / 8
    assert 0 <= metrics["genre_accuracy"] <= 1


def test_the_loaders_of_published_weights_read_the_stand_ins(made):
    context, rows = made
    folders = {kind: context.store.local(row["path"]) for kind, row in rows.items()}
    separator = load_separator(LocalWeights("checkpoint:separator", folders["separator"], ""))
    assert separator.bag.sources == ["drums", "bass", "other", "vocals"]
    assert separator.sample_rate == SMALL.separator.sample_rate != SMALL.sample_rate
    embedder = load_joint_embedder(folders["clap"])
    assert embedder.embed_text(["a slow folk song"]).shape == (1, 16)
    assert isinstance(ClapModel.from_pretrained(folders["clap"]), ClapModel)
    encoder = T5EncoderModel.from_pretrained(folders["text_encoder"])
    tokenizer = AutoTokenizer.from_pretrained(folders["text_encoder"])
    batch = tokenizer(["A slow folk song in F# minor", ""], padding=True, return_tensors="pt")
    hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert hidden.shape[:1] + hidden.shape[2:] == (2, 16)
    assert tokenizer.pad_token_id == 0
    assert batch["input_ids"][0, -1] == tokenizer.eos_token_id == 1


def test_the_vocabulary_round_trips_every_caption_and_any_text(made):
    context, rows = made
    for kind in ("clap", "text_encoder"):
        tokenizer = AutoTokenizer.from_pretrained(context.store.local(rows[kind]["path"]))
        for text in (*(caption(compose(0, index)) for index in range(8)), "Ψ – never heard of 🎻!"):
            tokens = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in tokens
            assert str(tokenizer.decode(tokens, skip_special_tokens=True)).strip() == text.lower()


def test_the_same_recipe_gives_the_same_files_bit_for_bit_despite_random_state(made, tmp_path):
    _, rows = made
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    again = {row["kind"]: row for row in demo_models.reduce(SMALL, make_context(tmp_path)).rows}
    assert {kind: row["digest"] for kind, row in again.items()} == {kind: row["digest"] for kind, row in rows.items()}


def test_a_run_killed_between_two_models_trains_only_the_missing_ones(made, tmp_path, monkeypatch):
    _, rows = made
    context = make_context(tmp_path)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clap, "train_clap", killed)
        with pytest.raises(KeyboardInterrupt):
            demo_models.reduce(SMALL, context)
    models = tmp_path / "store" / "models"
    assert [path.name for path in models.iterdir()] == ["identity-separator"]
    before = (models / "identity-separator" / "training.json").stat().st_mtime_ns
    found = {row["kind"]: row for row in demo_models.reduce(SMALL, context).rows}
    assert (models / "identity-separator" / "training.json").stat().st_mtime_ns == before
    assert {kind: row["digest"] for kind, row in found.items()} == {kind: row["digest"] for kind, row in rows.items()}


def test_a_stop_is_obeyed_and_leaves_no_half_model(tmp_path):
    context = make_context(tmp_path)
    context.stop.set()
    with pytest.raises(Stopped):
        demo_models.reduce(SMALL, context)
    assert not list((tmp_path / "store").glob("models/*"))


def test_stand_ins_learn_from_pieces_that_are_in_no_demo_corpus(tmp_path):
    music = make_music(make_context(tmp_path), 0, 3, 2, 16_000)
    assert [piece.index for piece in music.pieces] == [FIRST_INDEX + index for index in range(5)]
    assert (len(music.pieces[music.training]), len(music.pieces[music.held_out])) == (3, 2)
