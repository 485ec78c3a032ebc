"""Models that AudioCraft cannot represent are refused with the name of what it lacks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.conditioning.config import (
    ChromaConfig,
    ClapConfig,
    MelodyConfig,
    MusicModelConfig,
    NumberConfig,
    TextConfig,
    WordsConfig,
)
from model.lm.config import LanguageModelConfig
from model.music_model import MusicModel
from stages.checkpoints.audiocraft.checkpoint import write_audiocraft
from stages.checkpoints.audiocraft.package import LANGUAGE_MODEL_FILE
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.native import TrainedModel, describe_codec, load_text_encoder
from tests.worlds.audiocraft_files import codec
from tests.worlds.tiny_models import text_encoder


def own_model(tmp_path: Path, changes: dict[str, Any], decoder: dict[str, Any]) -> TrainedModel:
    """A model with a description, changed."""
    conditions: dict[str, Any] = {"description": TextConfig(width=16)} | changes
    sizes = {"codebooks": 2, "cardinality": 16, "width": 16, "heads": 2, "layers": 1}
    language_model = LanguageModelConfig.model_validate(sizes | decoder)
    config = MusicModelConfig(language_model=language_model, **conditions)
    encoder, tokenizer = load_text_encoder(text_encoder(tmp_path / "encoder"))
    network = codec(2, 16)
    facts = CheckpointFacts(
        model=config,
        frame_rate=50.0,
        segment_seconds=30.0,
        text_encoder="google-t5/t5-base",
        text_encoder_digest="0" * 64,
        codec=describe_codec(network, 2, 1),
    )
    return TrainedModel(MusicModel(config, encoder, tokenizer).eval(), facts, network)


MELODY = MelodyConfig(frames=235, null="first_bin")
WITH_MELODY = {"prepend": ("chroma",)}
UNWRITABLE: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "clap",
        {"clap": ClapConfig(width=4)},
        {"cross": ("description", "clap")},
        r"a joint embedding \(clap\), .* got both",
    ),
    (
        "words",
        {"fields": {"moods": WordsConfig()}},
        {"prepend": ("moods",)},
        "fields that are labels, .* got moods: words",
    ),
    (
        "number",
        {"fields": {"bpm": NumberConfig(lowest=40, highest=240)}},
        {"sum": ("bpm",)},
        "fields that are labels, .* got bpm: number",
    ),
    ("null", {"chroma": MelodyConfig(frames=235)}, WITH_MELODY, "a chroma with null = first_bin, .* got zeros"),
    (
        "match_length",
        {"chroma": MelodyConfig(frames=235, match_length=False)},
        WITH_MELODY,
        "a chroma with null = first_bin, .* got zeros",
    ),
    ("frames", {"chroma": MelodyConfig(frames=80, null="first_bin")}, WITH_MELODY, "with frames = 235, .* got 80"),
    (
        "analysis",
        {"chroma": MelodyConfig(frames=235, null="first_bin", analysis=ChromaConfig(window=8192))},
        WITH_MELODY,
        "with analysis = .*window=16384.* got .*window=8192",
    ),
    (
        "frame_rate",
        {"chroma": MelodyConfig(frames=235, null="first_bin", frame_rate=50.0)},
        WITH_MELODY,
        "with frame_rate = 7.8125, .* got 50.0",
    ),
    ("summed melody", {"chroma": MELODY}, {"sum": ("chroma",)}, "conditions of one vector to be summed, .* got chroma"),
    ("interpolate_steps", {}, {"interpolate": ("description",), "cross": (), "interpolate_steps": 9}, "got 9"),
    ("in two ways", {}, {"prepend": ("description",)}, r"join in one way, as in AudioCraft, got \['description'\]"),
    ("falling delays", {}, {"delays": (1, 0)}, r"expected delays in ascending order, as in AudioCraft, got \(1, 0\)"),
    ("coarse_first", {}, {"pattern": "coarse_first", "delays": (1, 1)}, "first codebook without delay, .* got 1"),
    ("grouped", {}, {"pattern": "grouped", "delays": (0, 1)}, r"no delays in the grouped pattern, .* got \(0, 1\)"),
]


@pytest.mark.parametrize(
    ("changes", "decoder", "message"), [one[1:] for one in UNWRITABLE], ids=[one[0] for one in UNWRITABLE]
)
def test_a_feature_that_audiocraft_lacks_is_refused_by_its_name(
    tmp_path: Path, changes: dict[str, Any], decoder: dict[str, Any], message: str
) -> None:
    trained = own_model(tmp_path, changes, decoder)
    with pytest.raises(ValueError, match=message):
        write_audiocraft(trained, tmp_path)
    assert not (tmp_path / LANGUAGE_MODEL_FILE).exists()


def test_a_text_encoder_that_audiocraft_does_not_name_is_refused(tmp_path: Path) -> None:
    trained = own_model(tmp_path, {}, {})
    unknown = replace(trained, facts=trained.facts.model_copy(update={"text_encoder": "checkpoint:text"}))
    with pytest.raises(ValueError, match=r"by name \(t5-small, .*\), got a T5 of width 16, 1 layers and 22 pieces"):
        write_audiocraft(unknown, tmp_path)


def test_a_model_without_its_own_codec_is_refused(tmp_path: Path) -> None:
    trained = own_model(tmp_path, {}, {})
    with pytest.raises(ValueError, match=f"expected the codec {trained.facts.codec.identity} to write"):  # type: ignore[union-attr]
        write_audiocraft(replace(trained, codec=None), tmp_path)
    with pytest.raises(ValueError, match=r"expected the codec with identity .*, which the model uses, got"):
        write_audiocraft(replace(trained, codec=codec(2, 16, seed=1)), tmp_path)
    with pytest.raises(ValueError, match="expected a model with a known codec, got one that does not state its codec"):
        write_audiocraft(replace(trained, facts=trained.facts.model_copy(update={"codec": None})), tmp_path)
