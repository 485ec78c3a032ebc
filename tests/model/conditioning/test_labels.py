"""Labels and words: rows, masks and vectors equal to AudioCraft's."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model.conditioning.conditioners import TableConditioner, table_row, words
from model.conditioning.config import LabelConfig, MusicModelConfig, WordsConfig
from tests.worlds.oracles import Pack, read_pack


def _conditioner(pack: Pack, kind: type[LabelConfig] | type[WordsConfig]) -> TableConditioner:
    facts = pack.facts["lut"]
    conditioner = TableConditioner(kind(rows=facts["n_bins"], width=facts["dim"]), facts["output_dim"])
    conditioner.table.load_state_dict({"weight": pack.tensors["lut.embed.weight"]})
    conditioner.projection.load_state_dict({n: pack.tensors[f"lut.output_proj.{n}"] for n in ("weight", "bias")})
    return conditioner


def test_rows_of_texts_equal_the_oracle(oracles: Path) -> None:
    tables = read_pack(oracles, "conditioning").facts["hash_bins"]
    assert tables
    for rows, texts in tables.items():
        assert {text: table_row(text, int(rows)) for text in texts} == texts


@pytest.mark.parametrize(
    ("kind", "key", "texts"),
    [(LabelConfig, "lut", "texts_noop"), (WordsConfig, "lut_ws", "texts_whitespace")],
)
def test_labels_and_words_equal_the_oracle(
    oracles: Path, kind: type[LabelConfig] | type[WordsConfig], key: str, texts: str
) -> None:
    pack = read_pack(oracles, "conditioning")
    conditioner = _conditioner(pack, kind)
    for name, given in {key: pack.facts["lut"][texts], f"{key}.allnull": [None, None]}.items():
        prepared = conditioner.prepare(given)
        assert torch.equal(prepared.tokens, pack.tensors[f"{name}.tokens"].long())
        assert torch.equal(prepared.mask.int(), pack.tensors[f"{name}.mask"])
        with torch.no_grad():
            found = conditioner(prepared)
        torch.testing.assert_close(found.embedding, pack.tensors[f"{name}.out"], rtol=1e-5, atol=1e-6)
        assert torch.equal(found.mask.int(), pack.tensors[f"{name}.mask"])


def test_words_are_lower_case_and_have_no_punctuation() -> None:
    assert words("Slow, warm — Don't stop! (drum-and-bass; 120)") == [
        "slow", "warm", "don't", "stop", "drum", "and", "bass", "120",
    ]  # fmt: skip
    assert words("Café 音楽") == ["café", "音楽"]
    assert words(" … ") == []


def test_case_matters_in_a_label_and_not_in_words() -> None:
    labels, pieces = TableConditioner(LabelConfig(), 4), TableConditioner(WordsConfig(), 4)
    texts = ["E Minor", "e minor"]
    assert len(set(labels.prepare(texts).tokens[:, 0].tolist())) == 2
    first, second = pieces.prepare(texts).tokens.tolist()
    assert first == second


def test_a_text_without_words_is_a_null_for_words_and_a_value_for_a_label() -> None:
    assert TableConditioner(WordsConfig(), 4).prepare(["…", "calm"]).mask.tolist() == [[False], [True]]
    assert TableConditioner(LabelConfig(), 4).prepare(["…", ""]).mask.tolist() == [[True], [True]]


def test_only_the_rows_of_the_given_texts_learn() -> None:
    conditioner = TableConditioner(WordsConfig(rows=50, width=3), 4)
    prepared = conditioner.prepare(["calm piano", None, "bass"])
    conditioner(prepared).embedding.square().sum().backward()
    learned = conditioner.table.weight.grad.any(-1).nonzero()[:, 0].tolist()
    assert learned == sorted(table_row(word, 50) for word in ("calm", "piano", "bass"))


def test_fields_that_are_unknown_or_of_the_wrong_kind_are_refused() -> None:
    def config(**fields: dict) -> MusicModelConfig:
        sizes = {"cross": sorted(fields)}
        return MusicModelConfig.model_validate({"description": None, "fields": fields, "language_model": sizes})

    number = {"kind": "number", "lowest": 40, "highest": 240}
    with pytest.raises(ValidationError, match=r"expected fields among .*'genre'.*, got 'colour'"):
        config(colour={"kind": "label"})
    with pytest.raises(ValidationError, match="expected the field bpm to be a number, got the kind label"):
        config(bpm={"kind": "label"})
    with pytest.raises(ValidationError, match="expected the field genre to be a label or words, got the kind number"):
        config(genre=number)
    with pytest.raises(ValidationError, match="'label', 'words', 'number'"):
        config(genre={"kind": "sentence"})
    assert config(bpm=number, genre={"kind": "label"}) == config(genre={"kind": "label"}, bpm=number)
    assert config(bpm=number, genre={"kind": "label"}).conditions == ("genre", "bpm")
