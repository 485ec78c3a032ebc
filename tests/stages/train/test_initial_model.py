"""The start of a training: a checkpoint in any form, with conditions added, widened to stereo, or refused."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from model.conditioning.config import MusicModelConfig
from model.music_model import MusicModel
from model.optim.train_state import step_seed
from schemas.tables import TOKENS, TRACKS
from schemas.weights import folder_digest
from stages import train
from stages.checkpoints.audiocraft.checkpoint import write_audiocraft
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.huggingface.checkpoint import write_hugging_face
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import TrainedModel, describe_codec, load_encodec, load_text_encoder, save_checkpoint
from stages.pipeline.runner import StageFailed
from stages.train.batches import INITIAL_WEIGHTS
from stages.train.initial_model import initial_model
from stages.train.lora import add_adapter
from tests.worlds.loading_memory import peak_of, peak_of_beginning
from tests.worlds.tiny_codec import CARDINALITY, codec_folder
from tests.worlds.tiny_models import FRAME_RATE, world
from tests.worlds.training_world import LANGUAGE_MODEL, fill, kept_weights, make_context, recipe, train_in

STILL = {"steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
"""A training that leaves the weights unchanged except for rounding."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the small world in which a model was trained."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> dict:
    """The row of that model, with its recipe."""
    config = recipe(place, optimization={"steps": 8})
    return train_in(place, config) | {"config": config}


def going_on(place: Path, first: dict, **changes: object) -> train.Config:
    """A recipe that starts from the first model, with the text encoder that was trained with it."""
    changes = {"text_encoder": None, "initial": f"checkpoint:{first['checkpoint_id']}"} | changes
    return recipe(place, **changes)


def model_with(config: train.Config, **changes: object) -> dict:
    """The model of a recipe with some of its fields changed; those of the decoder individually."""
    decoder = config.model.language_model.model_dump() | changes.pop("language_model", {})  # type: ignore[operator]
    return config.model.model_dump() | {"language_model": decoder} | changes


# -- from the store ------------------------------------------------------------------------------------------------


def test_a_training_starts_from_a_checkpoint_of_the_store_and_names_it(place: Path, first: dict) -> None:
    config = going_on(place, first, optimization=STILL)
    row = train_in(place, config)
    assert row["parents"] == [first["checkpoint_id"]]
    before, after = kept_weights(place, first["config"]), kept_weights(place, config)
    assert before.keys() == after.keys()
    assert all(
        torch.allclose(before[name], after[name], atol=1e-6) for name in before
    )  # the averaged weights, so training began with them
    told, got = dict(first["metrics"]), dict(row["metrics"])
    assert got["valid_cross_entropy"] == pytest.approx(told["valid_cross_entropy"], abs=1e-4)


def test_other_initial_weights_change_the_fingerprint(place: Path, first: dict) -> None:
    other = train_in(place, recipe(place, seed=3, optimization={"steps": 1}))
    one, two = (make_context(place, going_on(place, row))[1] for row in (first, other))
    fresh = make_context(place, recipe(place))[1]
    assert len({one.fingerprint, two.fingerprint, fresh.fingerprint}) == 3
    copied = place / "copied"
    shutil.copytree(place / "store" / first["path"], copied)
    assert make_context(place, going_on(place, first, initial=str(copied)))[1].fingerprint == one.fingerprint


def test_conditions_that_the_checkpoint_lacks_start_fresh_and_are_named(place: Path, first: dict, caplog) -> None:
    fields = {"genre": {"kind": "label", "rows": 10, "width": 4}}
    decoder = {"cross": ("description", "clap", "genre")}
    model = model_with(first["config"], language_model=decoder, fields=fields)
    config = going_on(place, first, model=model, optimization=STILL)
    train_in(place, config)
    assert "conditions that train.initial lacks start with random weights: genre" in caplog.text
    before, after = kept_weights(place, first["config"]), kept_weights(place, config)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
    assert {name.rpartition("genre")[0] for name in after.keys() - before.keys()} == {"fields."}
    frozen = going_on(place, first, model=model, lora={"conditioners": False})
    with pytest.raises(StageFailed, match=r"expected train\.lora\.conditioners = true .*, got \['genre'\] frozen"):
        train_in(place, frozen)


def test_a_field_without_values_is_refused_unless_the_checkpoint_knows_it(tmp_path: Path) -> None:
    fill(tmp_path)
    fields = {"genre": {"kind": "label", "rows": 10, "width": 4}}
    model = model_with(recipe(tmp_path), language_model={"cross": ("description", "clap", "genre")}, fields=fields)
    begun = train_in(tmp_path, recipe(tmp_path, model=model, optimization=STILL))
    untold = [row | {"genre": None} for row in world()["tracks"].to_pylist()]
    fill(tmp_path, tracks=pa.Table.from_pylist(untold, schema=TRACKS.schema))
    further = train_in(tmp_path, going_on(tmp_path, begun, model=model, optimization=STILL))
    assert further["checkpoint_id"] != begun["checkpoint_id"]
    both = model_with(
        recipe(tmp_path),
        language_model={"cross": ("description", "clap", "genre", "artist")},
        fields=fields | {"artist": fields["genre"]},
    )
    with pytest.raises(StageFailed, match="expected artist in at least one track"):
        train_in(tmp_path, going_on(tmp_path, begun, model=both, optimization=STILL))


def test_a_model_unlike_the_checkpoint_is_refused_field_by_field(place: Path, first: dict) -> None:
    changes = {"language_model": {"width": 64, "layers": 3}, "description": {"width": 16, "finetune": False}}
    changes |= {"chroma": {"frames": 20, "null": "first_bin"}}
    config = going_on(place, first, model=model_with(first["config"], **changes))
    with pytest.raises(StageFailed) as caught:
        train_in(place, config)
    message = str(caught.value)
    assert f"expected the model of train.initial = {config.initial}, got another" in message
    assert "train.model.language_model.width: expected 32, got 64" in message
    assert "train.model.language_model.layers: expected 2, got 3" in message
    assert "train.model.chroma.null: expected zeros, got first_bin" in message
    assert "finetune" not in message  # how it learns, and how much it is given, is up to the recipe
    assert "frames" not in message
    without = model_with(first["config"], language_model={"prepend": ()}, chroma=None)
    with pytest.raises(StageFailed, match=r"language_model\.prepend: expected \['chroma'\], got \[\]"):
        train_in(place, going_on(place, first, model=without, attribute_dropout={}))


def test_cross_attention_that_the_checkpoint_lacks_is_refused(place: Path) -> None:
    prepended = recipe(
        place,
        model=model_with(recipe(place), language_model={"cross": (), "prepend": ("description", "clap")}, chroma=None),
        attribute_dropout={},
        optimization={"steps": 1},
    )
    row = train_in(place, prepended)
    decoder = {"cross": ("chroma",), "prepend": ("description", "clap")}
    config = going_on(place, row, model=model_with(prepended, language_model=decoder, chroma={"frames": 16}))
    with pytest.raises(StageFailed, match=r"language_model\.cross: expected none, as it has no cross-attention"):
        train_in(place, config)


def test_low_rank_updates_start_with_the_same_values_as_beside_a_random_model(place: Path, first: dict) -> None:
    config = going_on(place, first, lora={"rank": 2})
    begun = initial_model(config, make_context(place, config)[1]).model
    torch.manual_seed(step_seed(config.seed, 0, INITIAL_WEIGHTS))
    expected = MusicModel(config.model, *load_text_encoder(place / "encoder"))
    add_adapter(expected, config.lora)
    updates = {name: value for name, value in expected.state_dict().items() if "lora_A" in name}
    assert updates
    assert all(torch.equal(begun.state_dict()[name], value) for name, value in updates.items())


def test_a_checkpoint_is_in_memory_only_once_when_a_training_begins_and_ends(
    place: Path, first: dict, tmp_path: Path
) -> None:
    decoder = PLAIN | {"width": 640, "heads": 8, "layers": 6, "cross": ("description",)}
    model = {"language_model": decoder, "description": {"width": 16}}
    trained = brought_in(place, model, codec_folder(tmp_path / "codec"))
    folder, size = tmp_path / "large", sum(value.nbytes for value in trained.model.weights().values())
    folder.mkdir()
    assert size > 150e6
    assert peak_of(lambda: save_checkpoint(folder, trained.model, trained.facts)) < 0.2 * size
    changes = {"text_encoder": None, "initial": str(folder), "attribute_dropout": {}, "lora": {"conditioners": False}}
    config = recipe(place, model=model, **changes)
    small = going_on(place, first, lora={"rank": 2})
    assert 0.9 * size < peak_of_beginning(place, small, config) < 1.2 * size


# -- text encoders -------------------------------------------------------------------------------------------------


def test_an_encoder_trained_with_the_checkpoint_is_not_replaced(place: Path, first: dict) -> None:
    config = going_on(place, first, text_encoder=str(place / "encoder"))
    with pytest.raises(
        StageFailed, match=r"expected train\.text_encoder = null, because the text encoder .* learned with it"
    ):
        train_in(place, config)


def test_a_trained_encoder_may_be_frozen_and_is_saved_in_the_new_checkpoint(place: Path, first: dict) -> None:
    frozen = model_with(first["config"], description={"width": 16, "finetune": False})
    config = going_on(place, first, model=frozen, optimization=STILL)
    row = train_in(place, config)
    _, context = make_context(place, config)
    folder = context.store.local(row["path"])
    read = load_checkpoint(folder, context.weights)
    assert read.facts.text_encoder is None
    assert (folder / "text_encoder" / "model.safetensors").exists()
    learned = kept_weights(place, first["config"])
    for name, value in read.model.description.encoder.state_dict().items():
        assert torch.equal(value, learned[f"description.encoder.{name}"])


def test_a_frozen_encoder_stored_elsewhere_stays_there(place: Path) -> None:
    model = model_with(recipe(place), description={"width": 16, "finetune": False})
    frozen = recipe(place, model=model, optimization={"steps": 1})
    row = train_in(place, frozen)
    config = going_on(place, row, model=frozen.model.model_dump(), optimization=STILL)
    begun = initial_model(config, make_context(place, config)[1])
    assert begun.text_encoder == str(place / "encoder") == frozen.text_encoder
    learning = going_on(place, row, model=model_with(frozen, description={"width": 16, "finetune": True}))
    assert initial_model(learning, make_context(place, learning)[1]).text_encoder is None  # now among the weights


# -- other forms, and other codecs ---------------------------------------------------------------------------------


def told_codec(tokens: pa.Table, codec: Path, channels: int = 1) -> pa.Table:
    """Tokens that state the facts of their codec."""
    facts = describe_codec(load_encodec(codec), len(tokens["codes"][0]), channels)
    said = {"codec_identity": facts.identity, "channels": channels, "sample_rate": facts.sample_rate}
    said["cardinality"] = facts.cardinality
    return pa.Table.from_pylist([row | said for row in tokens.to_pylist()], schema=TOKENS.schema)


def brought_in(folder: Path, model: dict, codec: Path) -> TrainedModel:
    """A model with its codec and, if it reads text, a frozen encoder, like a model from elsewhere."""
    config = MusicModelConfig.model_validate(model)
    encoder, tokenizer = load_text_encoder(folder / "encoder") if config.description else (None, None)
    torch.manual_seed(6)
    network = load_encodec(codec)
    facts = CheckpointFacts(
        model=config,
        frame_rate=FRAME_RATE,
        segment_seconds=2.0,
        text_encoder=None,
        text_encoder_digest=None,
        codec=describe_codec(network, config.language_model.codebooks, 1),
    )
    return TrainedModel(MusicModel(config, encoder, tokenizer).eval(), facts, network)


PLAIN = LANGUAGE_MODEL | {"cardinality": CARDINALITY, "dropout": 0.0, "cross": (), "prepend": ()}


@pytest.mark.parametrize("form", ["hf", "audiocraft", "segue"])
def test_a_checkpoint_in_any_form_can_be_trained_further_and_keeps_its_codec(tmp_path: Path, form: str) -> None:
    codec = codec_folder(tmp_path / "codec")
    fill(tmp_path, tokens=told_codec(world()["tokens"], codec))
    model = {"language_model": PLAIN | {"cross": ("description",)}, "description": {"width": 16}}
    if form == "audiocraft":  # which has only published frozen encoders
        model = {"language_model": PLAIN | {"prepend": ("chroma",), "padding": "attended"}, "description": None}
        model["chroma"] = {"frames": 16, "null": "first_bin"}
    trained = brought_in(tmp_path, model, codec)
    (tmp_path / "outside").mkdir()
    match form:
        case "hf":
            write_hugging_face(trained, tmp_path / "outside")
        case "audiocraft":
            write_audiocraft(trained, tmp_path / "outside")
        case _:
            save_checkpoint(tmp_path / "outside", trained.model, trained.facts, trained.codec)
    changes = {"text_encoder": None, "initial": str(tmp_path / "outside"), "attribute_dropout": {}}
    # The way in which padded texts are attended to is part of training, so the recipe need not follow AudioCraft in it.
    model["language_model"] = model["language_model"] | {"padding": "masked"}
    config = recipe(tmp_path, model=model, optimization=STILL, **changes)
    row = train_in(tmp_path, config)
    assert row["parents"] == [folder_digest(tmp_path / "outside")]  # the name that `weights` has for it
    _, context = make_context(tmp_path, config)
    read = load_checkpoint(context.store.local(row["path"]), context.weights)
    before = trained.model.weights()
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in read.model.weights().items())
    if trained.model.description is not None:
        ours = read.model.description.encoder.state_dict()
        theirs = trained.model.description.encoder.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert read.facts.codec.identity == trained.facts.codec.identity
    assert read.codec is not None


def test_tokens_of_another_codec_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    codec = codec_folder(tmp_path / "codec")
    other = tmp_path / "other"
    network = load_encodec(codec)
    with torch.no_grad():
        network.quantizer.layers[0].codebook.embed.add_(1.0)
    network.save_pretrained(other)
    model = {"language_model": PLAIN | {"cross": ("description",)}, "description": {"width": 16}}
    fill(tmp_path, tokens=told_codec(world()["tokens"], other))
    trained = brought_in(tmp_path, model, codec)
    (tmp_path / "outside").mkdir()
    save_checkpoint(tmp_path / "outside", trained.model, trained.facts, trained.codec)
    changes = {"text_encoder": None, "initial": str(tmp_path / "outside"), "attribute_dropout": {}}
    config = recipe(tmp_path, model=model, optimization=STILL, **changes)
    with pytest.raises(StageFailed, match=rf"expected tokens of the codec .*{trained.facts.codec.identity[:16]}"):
        train_in(tmp_path, config)
    faster = [row | {"frame_rate": 50.0, "cardinality": CARDINALITY} for row in world()["tokens"].to_pylist()]
    fill(tmp_path, tokens=pa.Table.from_pylist(faster, schema=TOKENS.schema))
    with pytest.raises(StageFailed, match=r"expected tokens of 25 frames a second, as train\.initial = .* got 50"):
        train_in(tmp_path, config)


def test_a_mono_checkpoint_becomes_stereo_if_the_recipe_has_twice_its_codebooks(place: Path, first: dict) -> None:
    rows = world()["tokens"].to_pylist()
    sides = [row | {"codes": [codes for codes in row["codes"] for _ in ("left", "right")]} for row in rows]
    stereo = place / "stereo"
    fill(stereo, tokens=pa.Table.from_pylist(sides, schema=TOKENS.schema))
    shutil.copytree(place / "store" / first["path"], stereo / "mono")
    decoder = {"codebooks": 4, "delays": (0, 0, 1, 1)}
    model = model_with(first["config"], language_model=decoder)
    config = going_on(stereo, first, initial=str(stereo / "mono"), model=model, optimization=STILL)
    told, got = dict(first["metrics"]), dict(train_in(stereo, config)["metrics"])
    assert got["valid_cross_entropy"] == pytest.approx(told["valid_cross_entropy"], abs=1e-4)
    wrong = model_with(first["config"], language_model=decoder | {"delays": (0, 1, 2, 3)})
    with pytest.raises(StageFailed, match=r"delays: expected \(0, 0, 1, 1\), got \(0, 1, 2, 3\)"):
        train_in(stereo, going_on(stereo, first, initial=str(stereo / "mono"), model=wrong))


def test_recipes_that_start_from_themselves_or_adapt_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the id of one checkpoint in initial \(checkpoint:<id>\), got"):
        recipe(tmp_path, initial="checkpoint:language_model")
    with pytest.raises(ValueError, match="expected initial, the checkpoint that lora adapts, got none"):
        recipe(tmp_path, lora={})
