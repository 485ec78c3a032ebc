"""Recipes and presets: given values win, and the preset fills in the rest."""

import pytest
from pydantic import ValidationError

from flows.recipes.presets import PRESETS, describe_preset
from flows.recipes.recipe import GPU_STAGES, STAGES, Recipe, selected_stages, with_source
from model.conditioning.config import ChromaConfig
from schemas import Settings

SIZES = {
    "musicgen-small": (1024, 24, 16),
    "musicgen-medium": (1536, 48, 24),
    "musicgen-large": (2048, 48, 32),
    "musicgen-melody": (1536, 48, 24),
    "musicgen-stereo-small": (1024, 24, 16),
    "musicgen-stereo-medium": (1536, 48, 24),
    "musicgen-stereo-large": (2048, 48, 32),
    "musicgen-stereo-melody": (1536, 48, 24),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_recipe_and_survives_a_round_trip_as_json(preset):
    recipe = Recipe(preset=preset)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert describe_preset(preset)


@pytest.mark.parametrize("preset", SIZES)
def test_the_published_presets_have_the_published_sizes_and_weights(preset):
    recipe = Recipe(preset=preset)
    model = recipe.train.model.language_model
    assert (model.width, model.layers, model.heads) == SIZES[preset]
    assert recipe.tokenize.codec == recipe.decode.codec == "facebook/encodec_32khz"
    assert recipe.train.text_encoder == "google-t5/t5-base"
    assert recipe.chroma.separator == "demucs:htdemucs"
    assert recipe.evaluate.clap == "lukewys/laion_clap/music_audioset_epoch_15_esc_90.14.pt"
    assert not {"demo", "demo_models", "train_codec"} & {stage.name for stage in recipe.configured_stages(None)}


UNMARKED = [name for name in STAGES if name != "watermark"]
"""The stages of a recipe without a watermark."""


def test_only_melody_prepends_chroma_and_text():
    assert Recipe(preset="musicgen-melody").train.model.language_model.prepend == ("description", "chroma")
    assert Recipe(preset="musicgen-melody").train.model.language_model.cross == ()
    assert Recipe(preset="musicgen-small").train.model.language_model.cross == ("description",)
    assert Recipe(preset="musicgen-small").train.model.chroma is None


@pytest.mark.parametrize("name", ["small", "medium", "large", "melody"])
def test_a_stereo_preset_is_the_mono_one_with_the_codes_of_both_sides(name):
    mono, stereo = Recipe(preset=f"musicgen-{name}"), Recipe(preset=f"musicgen-stereo-{name}")
    assert stereo.tokenize.channels == "stereo"
    model = stereo.train.model.language_model
    assert (model.codebooks, model.codebook_delays) == (8, (0, 0, 1, 1, 2, 2, 3, 3))
    assert model.model_copy(update={"codebooks": 4, "delays": None}) == mono.train.model.language_model
    assert stereo.train.condition_dropout == mono.train.condition_dropout


def test_given_values_win_and_the_preset_and_the_stage_fill_in_the_rest():
    plain = Recipe(preset="musicgen-large")
    given = Recipe.model_validate({"preset": "musicgen-large", "train": {"model": {"language_model": {"heads": 8}}}})
    assert given.train.model.language_model.heads == 8
    assert given.train.model.language_model.width == 2048
    partly = Recipe.model_validate(
        {"preset": "musicgen-large", "train_codec": {"training": {"optimization": {"steps": 7}}}}
    )
    before, after = plain.train_codec.training.optimization, partly.train_codec.training.optimization
    assert after == before.model_copy(update={"steps": 7})
    as_config = STAGES["decode"].Config(format="ogg")
    assert Recipe(preset="musicgen-small", decode=as_config).decode.format == "ogg"


def test_a_condition_of_a_preset_can_be_removed():
    model = {"language_model": {"prepend": []}, "clap": None}
    train = {"model": model, "attribute_dropout": {"clap": 0}}
    conditions = Recipe.model_validate({"train": train}).train.model.conditions
    assert conditions == ("description", "key", "bpm", "chroma", "beat", "chords")


@pytest.mark.parametrize("preset", ["miniature", "musicgen-small"])
def test_a_checkpoint_from_elsewhere_brings_its_codec_unless_another_is_named(preset):
    plain = Recipe(preset=preset)
    for own in ("latest", "0123456789abcdef", "checkpoint:0123456789abcdef"):
        given = Recipe.model_validate({"preset": preset, "generate": {"checkpoint": own}})
        assert (given.generate.codec, given.decode) == (plain.generate.codec, plain.decode)
    for checkpoint in ("./small", "/models/small", "facebook/musicgen-small", "s3://models/small"):
        given = Recipe.model_validate({"preset": preset, "generate": {"checkpoint": checkpoint}})
        assert {given.generate.codec, given.decode.codec, given.evaluate.codec} == {checkpoint}
        assert given.tokenize == plain.tokenize
        named = {"preset": preset, "generate": {"checkpoint": checkpoint}, "decode": {"codec": "./codec"}}
        assert Recipe.model_validate(named).decode.codec == "./codec"
        assert Recipe.model_validate(given.model_dump()) == given
    as_config = STAGES["generate"].Config(checkpoint="./small")
    assert Recipe(preset=preset, generate=as_config).decode.codec == "./small"


def test_stages_use_the_weights_of_the_tables_unless_they_are_given_their_own():
    named = {
        "tokenize": {"codec": "./codec"},
        "clap": {"model": "./clap", "vocabulary": "./words"},
        "chroma": {"separator": None, "window": 8192},
    }
    recipe = Recipe.model_validate(named)
    assert {recipe.generate.codec, recipe.decode.codec, recipe.evaluate.codec} == {"./codec"}
    assert {recipe.generate.clap, recipe.evaluate.clap} == {"./clap"}
    assert {recipe.generate.vocabulary, recipe.evaluate.vocabulary} == {"./words"}
    assert recipe.generate.separator is None
    assert recipe.train.model.chroma.analysis == ChromaConfig(window=8192)
    assert (recipe.chroma.window, recipe.chroma.hop) == (8192, 4096)
    assert (recipe.train.clap, recipe.train.vocabulary) == (None, None)
    embedding = Recipe.model_validate(named | {"train": {"joint_text": 0.5}}).train
    assert (embedding.clap, embedding.vocabulary) == ("./clap", "./words")
    own = {"decode": {"codec": "./other"}, "evaluate": {"clap": None}, "generate": {"separator": "demucs:htdemucs"}}
    recipe = Recipe.model_validate(named | own)
    assert (recipe.decode.codec, recipe.evaluate.codec) == ("./other", "./codec")
    assert (recipe.evaluate.clap, recipe.generate.clap) == (None, "./clap")
    assert recipe.generate.separator == "demucs:htdemucs"
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    as_configs = Recipe(
        tokenize=STAGES["tokenize"].Config(codec="./codec"), decode=STAGES["decode"].Config(format="ogg")
    )
    assert (as_configs.decode.codec, as_configs.decode.format) == ("./codec", "ogg")


def names_of(recipe, *requested, all_tables=False):
    return {stage.name for stage in recipe.configured_stages("music", requested, all_tables)}


def test_conditions_that_the_model_does_not_read_are_made_only_on_request():
    small, melody = Recipe(preset="musicgen-small"), Recipe(preset="musicgen-melody")
    assert not {"chroma", "clap"} & names_of(small)
    assert {"chroma", "clap"} & names_of(small, "chroma", "ingest") == {"chroma"}
    assert {"chroma", "clap"} <= names_of(small, all_tables=True)
    assert {"chroma", "clap"} & names_of(melody) == {"chroma"}
    assert {"chroma", "clap"} <= names_of(Recipe())
    separated = Recipe.model_validate({"preset": "musicgen-small", "chroma": {"separator": "checkpoint:separator"}})
    assert "demo_models" not in names_of(separated)
    assert {"chroma", "demo_models"} <= names_of(separated, "chroma")


def test_the_stage_nearest_runs_only_if_clips_and_tracks_are_embedded():
    small = Recipe(preset="musicgen-small")
    assert "nearest" in names_of(Recipe())
    assert "nearest" not in names_of(small)  # its tracks are not embedded
    assert "nearest" in names_of(small, "clap") & names_of(small, all_tables=True)
    assert "nearest" not in names_of(Recipe.model_validate({"evaluate": {"clap": None}}))
    with pytest.raises(ValueError, match="nearest is not part of the preset"):
        selected_stages(small.configured_stages("music"), ["nearest"], "musicgen-small")


def test_weights_for_a_condition_are_named_only_for_a_model_that_reads_it():
    small, melody = Recipe(preset="musicgen-small").generate, Recipe(preset="musicgen-melody").generate
    assert (small.separator, small.clap, small.vocabulary) == (None, None, None)
    assert (melody.separator, melody.clap) == ("demucs:htdemucs", None)
    for other in ("./folder", "0123456789abcdef"):  # it may read any condition, whatever the recipe would train
        generate = Recipe.model_validate({"preset": "musicgen-small", "generate": {"checkpoint": other}}).generate
        assert generate.separator == "demucs:htdemucs"
        assert generate.clap is not None
    given = {"preset": "musicgen-small", "generate": {"separator": "./own"}}
    assert Recipe.model_validate(given).generate.separator == "./own"


def test_a_recipe_without_clap_is_valid_for_a_model_that_does_not_read_it():
    none = {"clap": {"model": None}}
    recipe = Recipe.model_validate({"preset": "musicgen-melody", **none})
    assert (recipe.evaluate.clap, recipe.generate.clap) == (None, None)
    assert "clap" not in names_of(recipe, "clap", all_tables=True)
    with pytest.raises(ValidationError, match=r"expected clap\.model for a model that reads clap"):
        Recipe.model_validate(none)


@pytest.mark.parametrize(
    "wrong", [{"preset": "huge"}, {"trian": {}}, {"train": {"stepz": 1}}, {"preset": 3}, {"generate": 3}]
)
def test_a_wrong_recipe_is_refused(wrong):
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)


def test_the_recipe_has_a_field_for_each_stage_in_the_order_of_a_run():
    assert [name for name in Recipe.model_fields if name not in ("preset", "checks")] == list(STAGES)
    assert set(STAGES) > GPU_STAGES


def test_the_miniature_trains_its_own_models_from_its_own_corpus(tmp_path):
    recipe, settings = Recipe(), Settings(store=str(tmp_path))
    names = [stage.name for stage in recipe.configured_stages(None)]
    assert names == UNMARKED
    assert with_source(settings, names, names).source == str(tmp_path / "demo")
    given = settings.model_copy(update={"source": "/music"})
    assert with_source(given, names, names).source == "/music"


def test_the_study_is_the_miniature_with_more_music_and_longer_training():
    miniature, study = Recipe(), Recipe(preset="study")
    assert [stage.name for stage in study.configured_stages(None)] == UNMARKED
    changed = {name for name in Recipe.model_fields if getattr(miniature, name) != getattr(study, name)}
    # The others follow: a model's melody and codec are those of the stages before it.
    assert {"demo", "train_codec", "train", "requests"} <= changed
    assert study.demo.pieces > 2 * miniature.demo.pieces
    for small, large in ((miniature.train_codec.training, study.train_codec.training), (miniature.train, study.train)):
        assert large.optimization.steps >= 3 * small.optimization.steps
        assert large.optimization.learning_rate == small.optimization.learning_rate
    told, codec = study.train.model, study.train_codec.network
    assert told.conditions == miniature.train.model.conditions
    assert (codec.codebooks, codec.cardinality) == (told.language_model.codebooks, told.language_model.cardinality)


def test_published_presets_expect_a_source():
    names = [stage.name for stage in Recipe(preset="musicgen-small").configured_stages(None)]
    with pytest.raises(ValueError, match="expected --source"):
        with_source(Settings(), names, names)
    assert with_source(Settings(), ["report"], names).source is None


def test_generate_brings_requests_along_and_ingest_the_demo_corpus():
    stages = Recipe().configured_stages(None)
    assert selected_stages(stages, None, "miniature") == UNMARKED
    assert selected_stages(stages, ["report", "generate"], "miniature") == ["requests", "generate", "report"]
    assert selected_stages(stages, ["ingest"], "miniature") == ["demo", "ingest"]
    assert selected_stages(Recipe().configured_stages("recordings"), ["ingest"], "miniature") == ["ingest"]
    assert selected_stages(Recipe(preset="musicgen-small").configured_stages(None), ["ingest"], "musicgen-small") == [
        "ingest"
    ]
    with pytest.raises(ValueError, match=r"unknown stage 'sing' .*; allowed: demo, ingest"):
        selected_stages(stages, ["sing"], "miniature")
    with pytest.raises(ValueError, match="is not part of the preset"):
        selected_stages(Recipe(preset="musicgen-small").configured_stages(None), ["train_codec"], "musicgen-small")
