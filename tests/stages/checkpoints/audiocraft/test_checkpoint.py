"""AudioCraft's checkpoints: what was written is read back, and the files hold everything that AudioCraft asks for."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from model.conditioning.config import MelodyConfig, MusicModelConfig, TextConfig
from model.lm import patterns
from model.lm.config import LanguageModelConfig
from model.lm.patterns import Pattern
from model.music_model import Attributes, MusicModel
from schemas.weights import LocalWeights
from stages.checkpoints.audiocraft.checkpoint import model_from_audiocraft, read_audiocraft, write_audiocraft
from stages.checkpoints.audiocraft.codec import write_codec_reference
from stages.checkpoints.audiocraft.package import CODEC_FILE, LANGUAGE_MODEL_FILE, read_package, write_package
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.loading import detect_form, load_checkpoint
from stages.checkpoints.native import TrainedModel, describe_codec, load_text_encoder
from tests.worlds.audiocraft_files import (
    FORMS,
    JOINT,
    codec,
    conditioner_state,
    decoder_state,
    settings_of,
    text_encoders,
    written,
)
from tests.worlds.oracles import read_pack
from tests.worlds.tiny_models import text_encoder

PROJECTION = ["output_proj.weight", "output_proj.bias"]
CODES = torch.randint(16, (2, 4, 9), generator=torch.Generator().manual_seed(0))


def logits(model: MusicModel) -> Tensor:
    fields = {"genre": "jazz"} if "genre" in model.config.fields else {}
    chroma = torch.eye(12)[[3, 5]] if model.chroma is not None else None
    clap = torch.ones(6) if model.clap is not None else None
    words = "fast jazz" if model.description is not None else None
    given = [Attributes(words, chroma, clap, fields), Attributes()]
    with torch.no_grad():
        return model(CODES[:, : model.config.language_model.codebooks], given).logits


@pytest.mark.parametrize("name", FORMS)
def test_a_model_read_written_and_read_again_is_the_same_bit_for_bit(tmp_path: Path, name: str) -> None:
    there = written(tmp_path, name)
    folder, state = there.folder, there.state
    find, back = text_encoders(tmp_path), tmp_path / "back"
    first = read_audiocraft(folder, find)
    back.mkdir()
    write_audiocraft(first, back)
    content = torch.load(back / LANGUAGE_MODEL_FILE, weights_only=True)
    assert set(content["best_state"]) == set(state)
    assert all(torch.equal(content["best_state"][key], value) for key, value in state.items())
    second = read_audiocraft(back, find)
    assert second.facts == first.facts
    found = second.model.state_dict()
    assert set(found) == set(first.model.state_dict())
    assert all(torch.equal(found[key], value) for key, value in first.model.state_dict().items())
    assert torch.equal(logits(second.model), logits(first.model))
    assert first.codec is not None
    assert second.codec is not None
    assert all(torch.equal(value, second.codec.state_dict()[key]) for key, value in first.codec.state_dict().items())


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("opening", patterns.delayed(6, (0, 1), flatten_first=2, empty_initial=1)),
        ("parallel", patterns.delayed(6, (0, 0), empty_initial=2)),
        ("unrolled in one", patterns.unrolled(6, (0, 0), (0, 1))),
        ("unrolled", patterns.unrolled(6, (0, 1), (0, 0))),
    ],
)
def test_the_layout_of_a_pattern_survives_reading_and_writing(tmp_path: Path, name: str, layout: Pattern) -> None:
    first, back = read_audiocraft(written(tmp_path, name).folder, text_encoders(tmp_path)), tmp_path / "back"
    back.mkdir()
    write_audiocraft(first, back)
    for trained in (first, read_audiocraft(back, text_encoders(tmp_path))):
        assert trained.model.language_model.pattern(6).layout == layout.layout


def test_the_facts_of_a_checkpoint_are_read(tmp_path: Path) -> None:
    folder = written(tmp_path, "melody").folder
    find = text_encoders(tmp_path)
    trained = read_audiocraft(folder, find)
    facts = trained.facts
    assert (facts.segment_seconds, facts.frame_rate, facts.versions) == (30.0, 50.0, {})
    assert facts.text_encoder == "google-t5/t5-base"
    assert facts.text_encoder_digest == find(facts.text_encoder).digest  # type: ignore[arg-type]
    assert facts.codec == describe_codec(codec(2, 16), codebooks=2, channels=1)
    assert facts.model == MusicModelConfig(
        language_model=LanguageModelConfig(
            **{"codebooks": 2, "cardinality": 16, "width": 16, "heads": 2, "layers": 2, "padding": "attended"},
            cross=(),
            prepend=("chroma", "description"),
        ),
        description=TextConfig(width=16),
        chroma=MelodyConfig(frames=235, null="first_bin"),
    )
    assert not trained.model.training
    assert detect_form(folder) == "audiocraft"
    assert load_checkpoint(folder, find).facts == facts


def test_a_stereo_model_with_a_mono_codec_has_two_sets_of_codebooks(tmp_path: Path) -> None:
    trained = read_audiocraft(written(tmp_path, "stereo").folder, text_encoders(tmp_path))
    assert trained.facts.codec == describe_codec(codec(2, 16), codebooks=4, channels=2)
    assert trained.facts.model.language_model.delays == (0, 0, 1, 1)


def test_weights_of_half_precision_become_float32(tmp_path: Path) -> None:
    there = written(tmp_path, "text")
    folder, state = there.folder, there.state
    content = torch.load(folder / LANGUAGE_MODEL_FILE, weights_only=True)
    content["best_state"] = {name: value.half() for name, value in state.items()}
    torch.save(content, folder / LANGUAGE_MODEL_FILE)
    found = read_audiocraft(folder, text_encoders(tmp_path)).model.language_model.heads[0].weight
    assert found.dtype == torch.float32
    assert torch.equal(found, state["linears.0.weight"].half().float())


ASKED_FOR = {
    "": ["lm_model", "codebooks_pattern", "attribute_dropout", "conditioners", "fuser"],
    "transformer_lm": ["n_q", "card", "dim", "num_heads", "num_layers", "hidden_scale", "norm_first", "causal"],
    "classifier_free_guidance": ["training_dropout", "inference_coef"],
    "codebooks_pattern": ["modeling"],
    "dataset": ["segment_duration"],
    "fuser": ["sum", "cross", "prepend", "input_interpolate"],
    "interleave_stereo_codebooks": ["use"],
    "conditioners.description": ["model", "t5"],
    "conditioners.description.t5": ["name", "finetune"],
    "conditioners.self_wav.chroma_stem": ["sample_rate", "n_chroma", "radix2_exp"],
}
ASKED_OF_A_CODEC = {
    "": ["compression_model"],
    "encodec": ["autoencoder", "quantizer", "sample_rate", "channels"],
    "seanet": ["encoder", "decoder", "dimension", "ratios", "n_filters", "n_residual_layers", "norm", "lstm"],
    "rvq": ["n_q", "bins"],
}
"""The settings that AudioCraft's builders read and have no default for, or a default that is not MusicGen's."""


@pytest.mark.parametrize(("file", "asked"), [(LANGUAGE_MODEL_FILE, ASKED_FOR), (CODEC_FILE, ASKED_OF_A_CODEC)])
def test_an_export_holds_every_setting_that_audiocrafts_builders_read(
    tmp_path: Path, file: str, asked: dict[str, list[str]]
) -> None:
    folder = written(tmp_path, "melody").folder
    trained = read_audiocraft(folder, text_encoders(tmp_path))
    back = tmp_path / "back"
    back.mkdir()
    write_audiocraft(trained, back)
    content = torch.load(back / file, weights_only=True)
    assert set(content) == {"best_state", "xp.cfg", "version", "exported"}
    settings = yaml.safe_load(content["xp.cfg"])
    for section, keys in asked.items():
        found = settings
        for part in filter(None, section.split(".")):
            found = found[part]
        assert not set(keys) - set(found), section


def trained_here(tmp_path: Path, reference: str | None = "google-t5/t5-base") -> TrainedModel:
    """A model like those that training here produces."""
    encoder, tokenizer = load_text_encoder(text_encoder(tmp_path / "own"))
    torch.manual_seed(4)
    language_model = LanguageModelConfig(codebooks=2, cardinality=16, width=16, heads=2, layers=1)
    config = MusicModelConfig(language_model=language_model, description=TextConfig(width=16))
    network = codec(2, 16)
    facts = CheckpointFacts(
        model=config,
        frame_rate=50.0,
        segment_seconds=10.0,
        text_encoder=reference,
        text_encoder_digest="0" * 64,
        versions={"tokens": "abc"},
        codec=describe_codec(network, 2, 1, "checkpoint:codec"),
    )
    return TrainedModel(MusicModel(config, encoder, tokenizer).eval(), facts, network)


def test_a_model_trained_here_computes_the_same_after_export_to_audiocraft(tmp_path: Path) -> None:
    trained, folder = trained_here(tmp_path), tmp_path / "export"
    folder.mkdir()
    write_audiocraft(trained, folder)
    read = read_audiocraft(folder, text_encoders(tmp_path))
    decoder = trained.facts.model.language_model.model_copy(update={"padding": "attended"})
    assert read.facts.model == trained.facts.model.model_copy(update={"language_model": decoder})
    assert torch.equal(logits(read.model)[0], logits(trained.model)[0])


def test_a_codec_that_audiocraft_knows_by_name_is_written_by_name(tmp_path: Path) -> None:
    folder = written(tmp_path, "unconditional").folder
    codec(2, 16).save_pretrained(tmp_path / "codec")
    write_codec_reference("facebook/encodec_32khz", folder)

    def find(reference: str) -> LocalWeights:
        assert reference == "facebook/encodec_32khz"
        return LocalWeights(reference, tmp_path / "codec", "0" * 64)

    trained = read_audiocraft(folder, find)
    assert trained.facts.codec == describe_codec(codec(2, 16), 2, 1, "facebook/encodec_32khz")
    back = tmp_path / "back"
    back.mkdir()
    write_audiocraft(trained, back)
    assert torch.load(back / CODEC_FILE, weights_only=True)["pretrained"] == "facebook/encodec_32khz"
    assert read_audiocraft(back, find).facts == trained.facts


@pytest.mark.parametrize("kind", ["lut", "joint"])
def test_conditions_of_an_imported_conditioner_equal_the_oracle(oracles: Path, tmp_path: Path, kind: str) -> None:
    pack = read_pack(oracles, "conditioning")
    place = "condition_provider.conditioners." + ("genre." if kind == "lut" else "description.")
    projection = {f"{place}{name}": pack.tensors[f"{kind}.{name}"] for name in PROJECTION}
    if kind == "lut":
        sizes = pack.facts["lut"]
        conditioner = {"n_bins": sizes["n_bins"], "dim": sizes["dim"], "tokenizer": "noop"}
        conditioners: dict[str, Any] = {"genre": {"model": "lut", "lut": conditioner}}
        state = {f"{place}embed.weight": pack.tensors["lut.embed.weight"]}
        texts = sizes["texts_noop"]
        asked = [row for row, text in enumerate(texts) if text != ""]  # no attribute is an empty text
        given = [Attributes(fields={"genre": texts[row]} if texts[row] else {}) for row in asked]
        name, expected = "genre", pack.tensors["lut.out"][asked]
    else:
        sizes = pack.facts["joint"]
        changes = {"dim": sizes["dim"], "n_q": sizes["n_q"], "bins": sizes["bins"]}
        conditioners = {"description": {"model": "clap", "clap": JOINT["clap"] | changes}}
        state = conditioner_state(conditioners, pack.tensors["joint.quant1.out"].shape[-1])
        for level in range(sizes["n_q"]):
            state[f"{place}quantizer.vq.layers.{level}._codebook.embed"] = pack.tensors[f"joint.codebook.{level}"]
        embedded = pack.tensors["joint.embed"].flatten(1)
        given = [
            Attributes(clap=None if row in sizes["empty_idx"] else embedding) for row, embedding in enumerate(embedded)
        ]
        name, expected = "clap", pack.tensors["joint.quant1.out"]
    settings = settings_of({"dim": expected.shape[-1]}, {"cross": list(conditioners)}, conditioners)
    write_package(tmp_path / LANGUAGE_MODEL_FILE, decoder_state(settings) | state | projection, settings)
    model = model_from_audiocraft(read_package(tmp_path / LANGUAGE_MODEL_FILE), text_encoders(tmp_path)).model
    with torch.no_grad():
        found = model.condition(model.prepare(given))[name].embedding
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
