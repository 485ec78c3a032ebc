"""The draws of a training: the tracks, windows and conditions of a step, and how often conditions are dropped."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas import WeightsRef
from schemas.tables import REQUESTS, TRACKS
from stages import train
from stages.checkpoints.conditions import ConditionReader
from stages.checkpoints.facts import CheckpointFacts
from stages.generate import Config as GenerateConfig
from stages.networks.clap import load_joint_embedder
from stages.train.batches import draw_batch, draw_examples, split_tracks, word_embedder
from stages.train.corpus import Corpus
from stages.train.distributed import Rank
from stages.train.initial_model import initial_model
from tests.worlds.clap_models import laion_network, write_laion, write_vocabulary
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.tiny_models import FRAME_RATE, world
from tests.worlds.training_world import LANGUAGE_MODEL, fill, make_context, recipe, world_corpus


@pytest.fixture
def corpus() -> Corpus:
    return world_corpus(world())


def test_examples_are_a_function_of_seed_step_and_item(tmp_path: Path, corpus: Corpus) -> None:
    config, tracks = recipe(tmp_path), list(range(8))
    again = draw_examples(corpus, tracks, config, 3)
    batch = draw_examples(corpus, tracks, config, 3)
    assert torch.equal(batch.codes, again.codes)
    assert [item.description for item in batch.attributes] == [item.description for item in again.attributes]
    larger = draw_examples(corpus, tracks, recipe(tmp_path, batch_size=9), 3)
    assert torch.equal(larger.codes[:6], batch.codes)
    assert not torch.equal(draw_examples(corpus, tracks, config, 4).codes, batch.codes)
    assert not torch.equal(draw_examples(corpus, tracks, recipe(tmp_path, seed=1), 3).codes, batch.codes)


def test_processes_share_the_parts_of_a_step_and_the_weights_sum_to_one(tmp_path: Path, corpus: Corpus) -> None:
    fill(tmp_path)
    config, tracks = recipe(tmp_path, batch_size=7, micro_batch_size=2, smallest_share=0.1), list(range(24))
    model = initial_model(config, make_context(tmp_path, config)[1]).model
    whole = draw_examples(corpus, tracks, config, 3)
    assert len(set(whole.lengths.tolist())) > 1
    alone, *shared = (
        draw_batch(corpus, tracks, config, model, Rank(*rank), 3) for rank in [(0, 1), (0, 3), (1, 3), (2, 3)]
    )
    assert [len(drawn.micro_batches) for drawn in (alone, *shared)] == [4, 2, 1, 1]
    assert torch.equal(torch.cat([micro_batch.batch.codes for micro_batch in alone.micro_batches]), whole.codes)
    torch.testing.assert_close(sum(micro_batch.loss_weights for micro_batch in alone.micro_batches), torch.ones(2))
    assert len({micro_batch.seed for micro_batch in alone.micro_batches}) == 4
    for number, micro_batch in enumerate(alone.micro_batches):
        same = shared[number % 3].micro_batches[number // 3]
        assert torch.equal(same.batch.codes, micro_batch.batch.codes)
        assert torch.equal(same.loss_weights, micro_batch.loss_weights)
        assert same.seed == micro_batch.seed
        lengths = whole.lengths[2 * number : 2 * number + 2]
        assert float(micro_batch.loss_weights[0]) == pytest.approx(int(lengths.sum()) / int(whole.lengths.sum()))
    assert {drawn.frames for drawn in (alone, *shared)} == {int(whole.lengths.sum())}


def test_all_conditions_of_an_item_are_dropped_together_and_items_independently(tmp_path: Path, corpus: Corpus) -> None:
    config = recipe(
        tmp_path, batch_size=1000, condition_dropout=0.3, attribute_dropout={"chroma": 0.0}, segment_seconds=0.2
    )
    attributes = draw_examples(corpus, list(range(24)), config, 0).attributes
    gone = [item.description is None for item in attributes]
    assert gone == [item.chroma is None for item in attributes] == [item.clap is None for item in attributes]
    assert 240 < sum(gone) < 360
    alone = recipe(
        tmp_path, batch_size=1000, condition_dropout=0.0, attribute_dropout={"chroma": 0.5}, segment_seconds=0.2
    )
    attributes = draw_examples(corpus, list(range(24)), alone, 0).attributes
    assert 430 < sum(item.chroma is None for item in attributes) < 570
    assert not any(item.description is None or item.clap is None for item in attributes)


def test_without_a_valid_split_a_share_of_the_training_tracks_is_held_out(tmp_path: Path) -> None:
    tables = world()
    rows = [
        row | {"split": "train" if row["split"] == "valid" else row["split"]} for row in tables["tracks"].to_pylist()
    ]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS.schema)
    corpus = world_corpus(tables | {"tracks": tracks})
    found = split_tracks(corpus, recipe(tmp_path, held_out_share=0.2))
    assert (len(found["train"]), len(found["valid"]), len(found["test"])) == (16, 4, 4)
    assert not set(found["train"]) & set(found["valid"])
    assert corpus.frame_rate == FRAME_RATE


def rate_holds(count: int, total: int, probability: float) -> bool:
    """Whether a count agrees with a probability within five standard deviations; 0 and 1 are exact."""
    return abs(count - total * probability) <= 5 * math.sqrt(total * probability * (1 - probability))


FIELDS_MODEL = {
    "language_model": LANGUAGE_MODEL | {"cross": ("description", "clap", "genre", "bpm"), "prepend": ("chroma",)},
    "description": {"width": 16, "finetune": True},
    "fields": {"bpm": {"kind": "number", "lowest": 40, "highest": 240}, "genre": {"kind": "label"}},
    "chroma": {"frames": 16},
    "clap": {"width": 3},
}


def test_conditions_are_dropped_by_name_with_their_probabilities_and_independently(tmp_path: Path) -> None:
    rows = [row | {"bpm": 92.0} for row in world()["tracks"].to_pylist()]
    corpus = world_corpus(world() | {"tracks": pa.Table.from_pylist(rows, schema=TRACKS.schema)})
    wanted = {"description": 0.0, "genre": 0.25, "bpm": 1.0, "chroma": 0.6, "clap": 0.1}
    config = recipe(
        tmp_path,
        model=FIELDS_MODEL,
        batch_size=2000,
        condition_dropout=0,
        attribute_dropout=wanted,
        segment_seconds=0.2,
    )
    given = [item.names for item in draw_examples(corpus, list(range(24)), config, 0).attributes]
    gone = {name: np.array([name not in names for names in given]) for name in config.model.conditions}
    for name, probability in wanted.items():
        assert rate_holds(int(gone[name].sum()), len(given), probability), name
    for one, other in [("genre", "chroma"), ("chroma", "clap")]:
        assert rate_holds(int((gone[one] & gone[other]).sum()), len(given), wanted[one] * wanted[other])


def test_the_conditions_dropped_of_an_item_do_not_depend_on_other_items(tmp_path: Path, corpus: Corpus) -> None:
    few, many = (recipe(tmp_path, batch_size=size, condition_dropout=0.4, segment_seconds=0.2) for size in (7, 40))
    assert [item.names for item in draw_examples(corpus, [0, 1, 2], few, 5).attributes] == [
        item.names for item in draw_examples(corpus, [0, 1, 2], many, 5).attributes
    ][:7]


def test_a_melody_is_dropped_as_often_as_in_the_published_model_by_default(tmp_path: Path) -> None:
    said_nothing = recipe(tmp_path, attribute_dropout={})
    assert said_nothing.dropouts == {"description": 0.0, "chroma": 0.5, "clap": 0.0}
    assert train.Config().dropouts == {"description": 0.0}
    assert recipe(tmp_path, attribute_dropout={"clap": 0.3}).dropouts["chroma"] == 0.5
    with pytest.raises(ValueError, match=r"expected attribute_dropout of conditions .*\(description\), got chroma"):
        train.Config(attribute_dropout={"chroma": 0.5})
    assert train.Config(attribute_dropout={"chroma": 0.0}).dropouts == {"description": 0.0}
    with pytest.raises(ValueError, match=r"\(description\), got chorma"):
        train.Config(attribute_dropout={"chorma": 0.0})
    with pytest.raises(ValueError, match="less than or equal to 1"):
        recipe(tmp_path, attribute_dropout={"chroma": 1.5})


# -- joint embeddings of words -------------------------------------------------------------------------------------


def joint(tmp_path: Path, probability: float, **changes: object) -> train.Config:
    fill(tmp_path)
    folder = clap_folder(tmp_path / "clap", 3)
    changes = {"captions": {"merge": 0.5}, "condition_dropout": 0.0, "segment_seconds": 0.2} | changes
    return recipe(tmp_path, joint_text=probability, clap=str(folder), **changes)


def test_items_get_the_joint_embedding_of_their_own_caption_as_often_as_asked(tmp_path: Path, corpus: Corpus) -> None:
    config = joint(tmp_path, 0.3, batch_size=400)
    _, context = make_context(tmp_path, config)
    embed = word_embedder(config, context)
    items = draw_examples(corpus, list(range(24)), config, 2, embed).attributes
    plain = draw_examples(corpus, list(range(24)), config, 2).attributes
    changed = [not torch.equal(item.clap, other.clap) for item, other in zip(items, plain, strict=True)]
    assert rate_holds(sum(changed), 400, 0.3)
    for item, other, spoken in zip(items, plain, changed, strict=True):
        assert item.description == other.description
        assert not spoken or torch.equal(item.clap, embed(item.description))
    assert len({item.description for item in items}) > 10  # captions as they were drawn, not one per track


def test_training_and_generation_embed_words_in_the_same_way(tmp_path: Path) -> None:
    config = joint(tmp_path, 1.0)
    _, context = make_context(tmp_path, config)
    facts = CheckpointFacts(
        model=config.model, frame_rate=25.0, segment_seconds=2.0, text_encoder=None, text_encoder_digest=None
    )
    named = GenerateConfig(codec=None, separator=None, clap=config.clap, vocabulary=None)
    words = "slow jazz piano. key: A minor"
    request = dict.fromkeys(REQUESTS.schema.names) | {"clap": f"text:{words}", "seconds": 2.0}
    asked = ConditionReader(context, facts, named).read(request).attributes.clap
    assert torch.equal(asked, word_embedder(config, context)(words))


def test_an_item_without_a_caption_keeps_the_embedding_of_its_sound(tmp_path: Path) -> None:
    rows = [{"track_id": row["track_id"], "split": row["split"]} for row in world()["tracks"].to_pylist()]
    corpus = world_corpus(world() | {"tracks": pa.Table.from_pylist(rows, schema=TRACKS.schema)})
    config = joint(tmp_path, 1.0)
    _, context = make_context(tmp_path, config)
    items = draw_examples(corpus, [0, 1], config, 0, word_embedder(config, context)).attributes
    plain = draw_examples(corpus, [0, 1], config, 0).attributes
    assert all(torch.equal(item.clap, other.clap) for item, other in zip(items, plain, strict=True))


def test_a_laion_checkpoint_embeds_words_with_a_named_vocabulary_and_is_refused_without(
    tmp_path: Path,
) -> None:
    fill(tmp_path)
    write_laion(tmp_path / "laion.pt", laion_network(seed=4))
    model = recipe(tmp_path).model.model_dump() | {"clap": {"width": 512}}
    changes = {"model": model, "joint_text": 1.0, "clap": str(tmp_path / "laion.pt")}
    config = recipe(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"expected train\.vocabulary, with which the LAION checkpoint .* got none"):
        word_embedder(config, make_context(tmp_path, config)[1])
    vocabulary = write_vocabulary(tmp_path / "words")
    config = recipe(tmp_path, vocabulary=str(vocabulary), **changes)
    embed = word_embedder(config, make_context(tmp_path, config)[1])
    expected = load_joint_embedder(tmp_path / "laion.pt", vocabulary=vocabulary).embed_text(["Techno!"])[0]
    assert torch.equal(embed("Techno!"), torch.from_numpy(expected))


def test_words_that_cannot_be_embedded_are_refused_naming_the_setting(tmp_path: Path) -> None:
    fill(tmp_path)
    clap_folder(tmp_path / "wide", 5)
    config = recipe(tmp_path, joint_text=0.5, clap=str(tmp_path / "wide"))
    with pytest.raises(ValueError, match=r"width 3, as train\.model\.clap says, got 5 of train\.clap = "):
        word_embedder(config, make_context(tmp_path, config)[1])
    with pytest.raises(ValueError, match=r"expected clap if and only if joint_text is above 0, got .* None"):
        recipe(tmp_path, joint_text=0.5)
    with pytest.raises(ValueError, match=r"expected clap if and only if joint_text is above 0, got .*wide"):
        recipe(tmp_path, clap=str(tmp_path / "wide"))
    with pytest.raises(ValueError, match="expected clap in addition to vocabulary = words"):
        recipe(tmp_path, vocabulary="words")
    with pytest.raises(ValueError, match="expected a model that reads clap for joint_text"):
        train.Config(joint_text=0.5, clap=WeightsRef("clap"))
    assert word_embedder(recipe(tmp_path), make_context(tmp_path, recipe(tmp_path))[1]) is None
