"""AudioCraft's files that are damaged, name code or cannot be honoured are refused with the name of the fault."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.audiocraft.checkpoint import model_from_audiocraft, read_audiocraft
from stages.checkpoints.audiocraft.package import CODEC_FILE, LANGUAGE_MODEL_FILE, Package, Section
from tests.worlds.audiocraft_files import (
    CONDITIONERS,
    JOINT,
    change,
    settings_of,
    text_encoders,
    written,
)


def nowhere(reference: WeightsRef) -> LocalWeights:
    raise AssertionError(f"asked for {reference}")


UNREADABLE: list[tuple[str, Any, str]] = [
    ("lm_model", "transformer_lm_magnet", "expected lm_model to be 'transformer_lm', got 'transformer_lm_magnet'"),
    ("transformer_lm.causal", False, "expected transformer_lm.causal to be True, got False"),
    ("transformer_lm.norm", "rms_norm", "expected transformer_lm.norm to be 'layer_norm', got 'rms_norm'"),
    ("transformer_lm.activation", "silu", r"got LanguageModelConfig.activation: Input should be 'gelu' or 'relu'"),
    ("transformer_lm.positional_embedding", "alibi", "expected transformer_lm.positional_embedding among .* 'alibi'"),
    ("transformer_lm.num_layers", None, "expected transformer_lm.num_layers in the configuration, got none"),
    ("transformer_lm.dim", "wide", "expected transformer_lm.dim to be like 128, got 'wide'"),
    ("transformer_lm.num_heads", 3, "expected an even width that 3 heads divide, got 16"),
    ("transformer_lm.moe", 8, r"expected settings of transformer_lm among .*, got \['moe'\]"),
    ("transformer_lm.past_context", 9, "expected transformer_lm.memory_efficient to be False with a past_context"),
    ("codebooks_pattern.modeling", "valle", "expected codebooks_pattern.modeling to be 'delay' or .*, got 'valle'"),
    ("codebooks_pattern.delay.flatten_first", "all", "codebooks_pattern.delay.flatten_first to be like 0, got 'all'"),
    ("codebooks_pattern.delay.empty_initial", -1, "LanguageModelConfig.empty_initial: Input should be greater than or"),
    ("codebooks_pattern.delay.delays", [0], r"expected 2 delays, each 0 or more, got \(0,\)"),
    (
        "codebooks_pattern",
        {"modeling": "unroll", "unroll": {"flattening": [0]}},
        r"expected 2 numbers of flattening, got \(0,\)",
    ),
    ("fuser.ignore", ["genre"], r"expected fuser.ignore to be \[\] or None, got \['genre'\]"),
    ("fuser.prepend", "self_wav", r"expected fuser.prepend to be like \[\], got 'self_wav'"),
    ("fuser.film", [], r"expected settings of fuser among .*, got \['film'\]"),
    ("fuser.sum", ["mood"], r"expected conditions of fuser.sum among \['description', .*\], got mood"),
    ("fuser.prepend", ["description"], r"each condition to join in one way, .* got \['description'\] in several"),
    ("fuser.sum", [], "expected the language model to fuse"),
    ("conditioners.self_wav.model", "style", "expected conditioners.self_wav.model to be 't5' .* got 'style'"),
    ("conditioners.self_wav.chroma_stem.radix2_exp", 12, "chroma_stem.radix2_exp to be 14, got 12"),
    ("conditioners.self_wav.chroma_stem.sample_rate", 16_000, "chroma_stem.sample_rate to be 32000, got 16000"),
    ("conditioners.self_wav.chroma_stem.n_chroma", 24, "chroma_stem.n_chroma to be 12, got 24"),
    ("conditioners.second", CONDITIONERS["self_wav"], "one conditioner of kind chroma_stem, got self_wav and second"),
    ("conditioners.description.t5.name", "byt5", "expected conditioners.description.t5.name to be 't5-small' or"),
    ("conditioners.description.t5.normalize_text", True, "t5.normalize_text to be False, got True"),
    ("conditioners.genre.lut.tokenizer", "whitespace", "to be 'noop', because AudioCraft lemmatises words with"),
    ("conditioners.genre.lut.n_bins", -1, "got LabelConfig.rows: Input should be greater than or equal to 2"),
    ("conditioners.year", CONDITIONERS["genre"], "expected fields among .*, got 'year'"),
    ("conditioners.title", CONDITIONERS["description"], "expected a T5 for description, got one for title"),
    ("conditioners.joint", JOINT | {"clap": JOINT["clap"] | {"normalize": False}}, "clap.normalize to be True"),
    ("dataset.segment_duration", "long", "expected a number above 0 for dataset.segment_duration, got 'long'"),
    ("dataset.segment_duration", None, "expected dataset.segment_duration in the configuration, got none"),
]


def readable() -> dict[str, Any]:
    """A configuration with every kind of conditioner."""
    fusing = {"cross": ["description"], "prepend": ["self_wav"], "sum": ["genre"]}
    return copy.deepcopy(settings_of({}, fusing, CONDITIONERS))


@pytest.mark.parametrize(("place", "value", "message"), UNREADABLE, ids=[one[0] for one in UNREADABLE])
def test_a_setting_that_cannot_be_honoured_is_refused_by_its_name(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    settings = readable()
    change(settings, "dataset.segment_duration", 30)
    change(settings, place, value)
    with pytest.raises(ValueError, match=message):
        model_from_audiocraft(Package({}, Section("", settings)), text_encoders(tmp_path))


def test_conditions_in_another_order_are_refused_where_the_order_matters(tmp_path: Path) -> None:
    settings = readable()
    change(settings, "dataset.segment_duration", 30)
    settings["conditioners"] = {name: settings["conditioners"][name] for name in ("genre", "description", "self_wav")}
    change(settings, "fuser.sum", [])
    change(settings, "fuser.cross", ["description", "genre"])
    find = text_encoders(tmp_path)
    with pytest.raises(
        ValueError, match=r"expected the weights of the language model, got \['"
    ):  # because the order does not matter here
        model_from_audiocraft(Package({}, Section("", settings)), find)
    change(settings, "fuser.cross_attention_pos_emb", True)
    with pytest.raises(ValueError, match=r"conditioners in the order \['description', 'genre'\], got \['genre', 'desc"):
        model_from_audiocraft(Package({}, Section("", settings)), find)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("file", [LANGUAGE_MODEL_FILE, CODEC_FILE])
def test_a_file_that_names_code_is_refused_and_the_code_does_not_run(tmp_path: Path, file: str) -> None:
    folder = written(tmp_path, "unconditional").folder
    content = torch.load(folder / file, weights_only=True)
    torch.save(content | {"bomb": Bomb(tmp_path / "made")}, folder / file)
    with pytest.raises(ValueError, match=r"expected PyTorch weights without code in .*cannot be loaded safely"):
        read_audiocraft(folder, nowhere)
    assert not (tmp_path / "made").exists()


def test_a_configuration_that_names_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "unconditional").folder
    content = torch.load(folder / LANGUAGE_MODEL_FILE, weights_only=True)
    content["xp.cfg"] = f"lm_model: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"
    torch.save(content, folder / LANGUAGE_MODEL_FILE)
    with pytest.raises(ValueError, match=r"expected YAML under 'xp.cfg' in .*could not determine a constructor"):
        read_audiocraft(folder, nowhere)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "expected state_dict.bin in .*, got no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "expected PyTorch weights without code in"),
        (lambda path: path.write_text("weights"), "expected PyTorch weights without code in"),
        (lambda path: torch.save([1], path), "expected a mapping in .*state_dict.bin, got list"),
    ],
    ids=["missing", "cut", "text", "a list"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = written(tmp_path, "unconditional").folder
    damage(folder / LANGUAGE_MODEL_FILE)
    with pytest.raises(ValueError, match=message):
        read_audiocraft(folder, nowhere)


def test_a_folder_without_a_codec_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "unconditional").folder
    (folder / CODEC_FILE).unlink()
    with pytest.raises(ValueError, match=r"expected compression_state_dict.bin in .*, got no such file"):
        read_audiocraft(folder, nowhere)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_state": None}, r"expected tensors by name under 'best_state' in .*, got something else"),
        ({"best_state": {"model": {}}}, "expected tensors by name under 'best_state' in .*, got something else"),
        ({"xp.cfg": "a: [1"}, "expected YAML under 'xp.cfg' in"),
        ({"xp.cfg": 3}, "expected YAML under 'xp.cfg' in"),
        ({"xp.cfg": "text"}, "expected a mapping under 'xp.cfg' in .*, got str"),
        ({"xp.cfg": "a: ${b}\nb: ${a}"}, "expected at most 32 nested settings and references"),
    ],
)
def test_content_not_written_by_audiocraft_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path, "unconditional").folder / LANGUAGE_MODEL_FILE
    torch.save(torch.load(path, weights_only=True) | changes, path)
    with pytest.raises(ValueError, match=message):
        read_audiocraft(path.parent, nowhere)


@pytest.mark.parametrize("key", ["best_state", "xp.cfg"])
def test_a_missing_part_of_a_file_is_named(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, "unconditional").folder / LANGUAGE_MODEL_FILE
    content = torch.load(path, weights_only=True)
    del content[key]
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"expected '{key}' in .*, as AudioCraft's export writes it, got"):
        read_audiocraft(path.parent, nowhere)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"linears.1.weight": None},
            r"expected the weights of the language model, got \['linears.1.weight'\] missing and \[\] unk",
        ),
        ({"emb.1.weight": torch.zeros(3, 4)}, r"expected emb.1.weight of shape \[17, 16\], got \[3, 4\]"),
        ({"emb.2.weight": torch.zeros(17, 16)}, r"got \[\] missing and \['emb.2.weight'\] unknown"),
        ({"depth.weight": torch.zeros(1)}, r"got \[\] missing and \['depth.weight'\] unknown"),
        (
            {"condition_provider.conditioners.year.embed.weight": torch.zeros(1)},
            r"missing and \['condition_provider.*year.*'\] unknown",
        ),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, "unconditional").folder / LANGUAGE_MODEL_FILE
    content = torch.load(path, weights_only=True)
    content["best_state"] |= changes
    content["best_state"] = {name: value for name, value in content["best_state"].items() if value is not None}
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_audiocraft(path.parent, nowhere)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("transformer_lm.n_q", 4, "expected a codec that fits .*, with 4 codebooks of 16, got 2 of 16"),
        ("transformer_lm.card", 8, "expected a codec that fits .*, with 2 codebooks of 8, got 2 of 16"),
        ("sample_rate", 32_000, "expected sample_rate to be 8000, the codec's, got 32000"),
        ("compression_model_n_q", 1, "with 2 codebooks of 16, got 1 of 16"),
        ("interleave_stereo_codebooks.use", True, "with 2 codebooks of 16, got 4 of 16"),
        ("interleave_stereo_codebooks.per_timestep", True, "codebooks.per_timestep to be False, got True"),
    ],
)
def test_a_codec_that_does_not_fit_the_language_model_is_refused(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    folder = written(tmp_path, "unconditional", place, value).folder
    with pytest.raises(ValueError, match=message):
        read_audiocraft(folder, nowhere)
