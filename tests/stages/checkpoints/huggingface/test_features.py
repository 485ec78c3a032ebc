"""A model that transformers' MusicGen cannot represent is refused by its feature, before a file is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.codec.codec import Codec
from model.conditioning.config import ChromaConfig, ClapConfig, LabelConfig, MelodyConfig, MusicModelConfig, TextConfig
from model.lm.config import LanguageModelConfig
from model.music_model import MusicModel
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.huggingface.checkpoint import read_hugging_face, write_hugging_face
from stages.checkpoints.native import TrainedModel
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.tiny_model import text_encoder, tokenizer


def trained(codec: Any, **model: Any) -> TrainedModel:
    """A model of the codec's codes; `model` are fields of its configuration."""
    sizes = {"codebooks": 4, "cardinality": 16, "width": 24, "heads": 4, "layers": 2}
    language = LanguageModelConfig.model_validate(sizes | model.pop("language_model", {}))
    config = MusicModelConfig(language_model=language, **{"description": TextConfig(width=16)} | model)
    read = config.description is not None
    music_model = MusicModel(config, text_encoder() if read else None, tokenizer() if read else None)
    facts = CheckpointFacts(
        model=config, frame_rate=25.0, segment_seconds=4.0, text_encoder=None, text_encoder_digest=None
    )
    return TrainedModel(music_model.eval(), facts, codec)


MELODY = {"cross": (), "prepend": ("description", "chroma")}
CHROMA = MelodyConfig(frames=6, null="first_bin")
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "rotary positions": (
        {"language_model": {"positions": "rotary"}},
        "expected a model with positions = sinusoidal, which Hugging Face's MusicGen has, got rotary",
    ),
    "both positions": ({"language_model": {"positions": "both"}}, "positions = sinusoidal, .* got both"),
    "another period": ({"language_model": {"position_period": 500.0}}, "position_period = 10000.0, .* got 500.0"),
    "norms after": ({"language_model": {"norm": "after"}}, "norm = before, .* got after"),
    "attention's biases": ({"language_model": {"attention_bias": True}}, "attention_bias = false, .* got true"),
    "feed-forward biases": ({"language_model": {"feedforward_bias": True}}, "feedforward_bias = false, .* got true"),
    "biases of the heads": ({"language_model": {"head_bias": True}}, "head_bias = false, .* got true"),
    "layer scale": ({"language_model": {"layer_scale": 0.1}}, "layer_scale = none, .* got 0.1"),
    "query-key norm": ({"language_model": {"query_key_norm": True}}, "query_key_norm = false, .* got true"),
    "grouped heads": ({"language_model": {"key_value_heads": 2}}, "key_value_heads = 4, .* got 2"),
    "past context": ({"language_model": {"past_context": 10}}, "past_context = none, .* got 10"),
    "another pattern": ({"language_model": {"pattern": "unroll"}}, "pattern = delay, .* got unroll"),
    "other delays": ({"language_model": {"delays": (0, 0, 0, 0)}}, r"delays = \(0, 1, 2, 3\), .* got \(0, 0, 0, 0\)"),
    "positions of conditions": ({"language_model": {"cross_positions": True}}, "cross_positions = false, .* got true"),
    "a summed melody": (
        {"language_model": {"sum": ("chroma",)}, "chroma": CHROMA},
        r"expected a model with cross = none, which Hugging Face's MusicGen-melody has, got \(?\[?'description'",
    ),
    "a stretched melody": (
        {"language_model": {"cross": (), "prepend": ("description",), "interpolate": ("chroma",)}, "chroma": CHROMA},
        "expected a model with prepend = .*, which Hugging Face's MusicGen-melody has, got",
    ),
    "a text before the codes": (
        {"language_model": {"cross": (), "prepend": ("description",)}},
        "expected a model with cross = .*description.*, which Hugging Face's MusicGen has, got none",
    ),
    "no melody as zeros": (
        {"language_model": MELODY, "chroma": MelodyConfig(frames=6)},
        "expected a model with chroma.null = first_bin, .* got zeros",
    ),
    "a melody of more than one class": (
        {"language_model": MELODY, "chroma": CHROMA.model_copy(update={"one_hot": False})},
        "chroma.one_hot = true, .* got false",
    ),
    "a melody at the codec's rate": (
        {"language_model": MELODY, "chroma": CHROMA.model_copy(update={"frame_rate": 25.0})},
        "chroma.frame_rate = 7.8125, .* got 25.0",
    ),
    "a melody that is measured in another way": (
        {"language_model": MELODY, "chroma": CHROMA.model_copy(update={"analysis": ChromaConfig(window=8192)})},
        "chroma.analysis = .*16384.*, .* got .*8192",
    ),
    "a joint embedding": (
        {"language_model": {"cross": ("description", "clap")}, "clap": ClapConfig(width=8)},
        "expected a model that reads descriptions, or descriptions and melodies, .* got one that reads clap",
    ),
    "fields": (
        {"language_model": {"cross": ("description", "genre")}, "fields": {"genre": LabelConfig(rows=4, width=4)}},
        "got one that reads genre",
    ),
    "no text": (
        {"language_model": {"cross": ()}, "description": None},
        "expected a model that reads descriptions, as Hugging Face's MusicGen does, got one without",
    ),
    "a projection between equal widths": (
        {"language_model": {"width": 16}},
        r"expected no projection of a condition as wide as the decoder \(16\), .* no enc_to_dec_proj between equal",
    ),
}


@pytest.mark.parametrize(("model", "message"), FEATURES.values(), ids=FEATURES)
def test_a_model_that_the_form_cannot_express_is_refused_by_its_feature(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    codec = random_musicgen(SHAPES["mono"]).audio_encoder
    with pytest.raises(ValueError, match=message):
        write_hugging_face(trained(codec, **dict(model)), tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_codec_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    codec = random_musicgen(SHAPES["mono"]).audio_encoder
    with pytest.raises(ValueError, match=r"expected a codec to write with the model, .* got none"):
        write_hugging_face(trained(None), tmp_path)
    with pytest.raises(ValueError, match="expected a codec of cardinality 32, as the decoder in the model uses"):
        write_hugging_face(trained(codec, language_model={"cardinality": 32}), tmp_path)
    model = trained(codec)
    with pytest.raises(ValueError, match=r"expected a codec of 50.0 frames a second, got 25.0"):
        write_hugging_face(replace(model, facts=model.facts.model_copy(update={"frame_rate": 50.0})), tmp_path)
    known = read_hugging_face(save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "theirs"))
    other = random_musicgen(SHAPES["mono"], seed=1).audio_encoder
    with pytest.raises(
        ValueError, match=r"expected the codec with identity [0-9a-f]{64}, which the model uses, got one with"
    ):
        write_hugging_face(replace(known, codec=other), tmp_path)
    with pytest.raises(ValueError, match="got one whose weight norm is folded in"):
        write_hugging_face(trained(Codec(codec).network), tmp_path)
