"""From recordings to clips with a DAC and with a Mimi: sizes, rate and length are the codec's."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import DacConfig, MimiConfig

from flows.recipes.recipe import Recipe
from flows.runs.running import Run, RunPlan, run_stages
from schemas import Settings, Store
from stages.checkpoints.codecs import load_codec
from stages.checkpoints.loading import load_checkpoint
from stages.pipeline.runner import StageFailed
from tests.worlds import melody_world
from tests.worlds.codec_world import piece
from tests.worlds.melody_world import PROMPT_SECONDS, SECONDS, STAGES, continued, filled_store, melody_recipe, rows_of
from tests.worlds.small_checkpoint import refuse
from tests.worlds.small_codecs import CARDINALITY, HOPS, LEVELS, RATE, small_codec


def recipe(folder: Path, kind: str, codebooks: int = LEVELS) -> Recipe:
    """A recipe for a model of a small codec's codes."""
    small_codec(kind).save_pretrained(folder / "codec")
    preset = f"{kind}-{'44khz' if kind == 'dac' else '24khz'}"
    sizes = {"codebooks": codebooks, "cardinality": CARDINALITY}
    return melody_recipe(preset, folder / "codec", sizes, {"codebooks": None})


def settings_of(folder: Path) -> Settings:
    """Four recordings in a folder, and the settings for a store beside them."""
    return melody_world.settings_of(folder, {str(number): piece(number) for number in range(4)}, RATE)


@pytest.fixture(scope="module", params=["dac", pytest.param("mimi", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def store(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog, and clips of a model trained on it."""
    folder = tmp_path_factory.mktemp(kind)
    return filled_store(recipe(folder, kind), settings_of(folder))


def test_clips_have_the_sizes_the_rate_and_the_length_of_the_codec(store: Store, kind: str) -> None:
    rows = rows_of(store, "SELECT * FROM clips JOIN generations USING (request_id, take)")
    assert len(rows) == 3, rows_of(store, "SELECT message FROM rejects")
    codec = load_codec(Path(store.root).parent / "codec")
    for row in rows:
        codes = np.array(row["codes"])
        assert codes.shape == (LEVELS, -(-round(SECONDS * RATE) // HOPS[kind]))
        assert (row["frame_rate"], row["cardinality"], row["codec_identity"]) == (
            RATE / HOPS[kind],
            CARDINALITY,
            codec.identity,
        )
        sound, rate = soundfile.read(store.path(row["path"]), always_2d=True)
        assert (rate, sound.shape) == (RATE, (round(SECONDS * RATE), 1))
        assert sound.std() > 0


def test_a_prompt_has_the_recordings_own_codes_as_a_track_and_as_a_file(store: Store, kind: str) -> None:
    found = continued(store, round(PROMPT_SECONDS * RATE / HOPS[kind]))
    assert np.array_equal(found["from a track"], found["recording"])
    assert np.array_equal(found["from a file"], found["recording"])


def test_a_melody_score_has_a_ceiling_through_the_codec_and_an_untrained_control(store: Store) -> None:
    rows = rows_of(store, "SELECT * FROM scores WHERE chroma_similarity IS NOT NULL")
    assert len(rows) == 1
    assert rows[0]["chroma_similarity_ceiling"] is not None
    untrained = rows_of(store, "SELECT * FROM controls WHERE sounds = 'untrained'")
    assert len(untrained) == 1
    assert untrained[0]["seconds"] == pytest.approx(rows[0]["seconds"])


def test_the_checkpoint_names_the_sizes_of_its_codec(store: Store, kind: str) -> None:
    row = rows_of(store, "SELECT checkpoint_id FROM checkpoints")[0]
    codec = load_checkpoint(store.local(f"models/{row['checkpoint_id']}"), refuse).facts.codec
    assert codec is not None
    assert (codec.codebooks, codec.cardinality, codec.channels) == (LEVELS, CARDINALITY, 1)
    assert (codec.sample_rate, codec.frame_rate) == (RATE, RATE / HOPS[kind])


def test_a_language_model_of_other_sizes_than_the_codec_is_refused(tmp_path: Path, kind: str) -> None:
    settings = settings_of(tmp_path)
    stages = recipe(tmp_path, kind, codebooks=4).configured_stages(settings.source)
    with pytest.raises(
        StageFailed, match=r"expected tokens of 4 codebooks .*, as train.model.language_model says, got 3 "
    ):
        run_stages(Run(RunPlan(stages, STAGES[:4], settings, True)))


def test_presets_name_published_codecs_and_have_their_sizes() -> None:
    dac, mimi = Recipe(preset="dac-44khz"), Recipe(preset="mimi-24khz")
    for chosen, name in ((dac, "descript/dac_44khz"), (mimi, "kyutai/mimi")):
        assert {chosen.tokenize.codec, chosen.generate.codec, chosen.decode.codec, chosen.evaluate.codec} == {name}
    sizes = dac.train.model.language_model
    assert (sizes.codebooks, sizes.cardinality) == (DacConfig().n_codebooks, DacConfig().codebook_size)
    sizes = mimi.train.model.language_model
    assert (sizes.codebooks, sizes.cardinality) == (mimi.tokenize.codebooks, MimiConfig().codebook_size)
