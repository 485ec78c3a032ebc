"""Melody conditions: equal to AudioCraft's with matched and with own lengths."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model.conditioning.conditioners import ChromaConditioner
from model.conditioning.config import MelodyConfig, MusicModelConfig
from tests.worlds.oracles import Pack, read_pack
from tests.worlds.tiny_model import melody


def _conditioner(pack: Pack, match_length: bool) -> ChromaConditioner:
    """A conditioner with the pack's projection, and with the null that its way of matching lengths needs."""
    facts = next(case for case in pack.facts["conditioner_cases"] if case["match_len_on_eval"] == match_length)
    weight, bias = pack.tensors["cond.output_proj.weight"], pack.tensors["cond.output_proj.bias"]
    null = "first_bin" if match_length else "zeros"
    config = MelodyConfig(frames=facts["chroma_len"], match_length=match_length, null=null)
    conditioner = ChromaConditioner(config, len(weight))
    conditioner.projection.load_state_dict({"weight": weight, "bias": bias})
    return conditioner


def _second_melody(pack: Pack, embedding: torch.Tensor, frames: int) -> torch.Tensor:
    """The first frames of the batch's second melody, which the pack leaves out, recovered from the answer [L, D]."""
    weight, bias = pack.tensors["cond.output_proj.weight"], pack.tensors["cond.output_proj.bias"]
    nearest = (embedding[:frames, None] - (weight.T + bias)).abs().amax(-1).argmin(-1)
    return torch.nn.functional.one_hot(nearest, 12).float()


def test_melodies_brought_to_one_length_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "chroma")
    conditioner, whole = _conditioner(pack, match_length=True), pack.tensors["argmax.chroma"][0]
    # The second melody was padded to the length of the first before it was repeated, so the repeated frames are
    # compared.
    second = _second_melody(pack, pack.tensors["cond.match1.batch.embed"][1], len(whole))
    with torch.no_grad():
        for name, melodies in {"null": [None], "with_null": [whole, None], "batch": [whole, second]}.items():
            found = conditioner(conditioner.prepare(melodies))
            torch.testing.assert_close(found.embedding, pack.tensors[f"cond.match1.{name}.embed"])
            assert torch.equal(found.mask.float(), pack.tensors[f"cond.match1.{name}.mask"])


def test_melodies_that_keep_their_length_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "chroma")
    conditioner, whole = _conditioner(pack, match_length=False), pack.tensors["argmax.chroma"][0]
    length = int(pack.tensors["cond.match0.batch.mask"][1].sum())
    second = _second_melody(pack, pack.tensors["cond.match0.batch.embed"][1], length)
    with torch.no_grad():
        for name, melodies in {"with_null": [whole, None], "batch": [whole, second]}.items():
            found = conditioner(conditioner.prepare(melodies))
            torch.testing.assert_close(found.embedding, pack.tensors[f"cond.match0.{name}.embed"])
            assert torch.equal(found.mask.int(), pack.tensors[f"cond.match0.{name}.mask"])
        # A null alone has the length of a window of silence in the reference; there, as here, every vector is masked.
        found = conditioner(conditioner.prepare([None]))
        assert not found.embedding.any()
        assert not pack.tensors["cond.match0.null.embed"].any()
        assert not found.mask.any()
        assert not pack.tensors["cond.match0.null.mask"].any()


def test_a_short_melody_is_repeated_and_a_long_one_cut() -> None:
    conditioner = ChromaConditioner(MelodyConfig(frames=5), 4)
    prepared = conditioner.prepare([melody(1, 2), melody(1, 2, 3, 4, 5, 6, 7)])
    assert prepared.vectors.argmax(-1).tolist() == [[1, 2, 1, 2, 1], [1, 2, 3, 4, 5]]


def test_a_missing_melody_differs_from_every_melody() -> None:
    conditioner = ChromaConditioner(MelodyConfig(frames=4), 8)
    rows = [melody(*[pitch] * 4) for pitch in range(12)]
    found = conditioner(conditioner.prepare([None, *rows]))
    assert (found.embedding[0] == 0).all()
    assert not found.mask[0].any()
    assert (found.embedding[1:].abs().amax(-1) > 0).all()
    assert found.mask[1:].all()


def test_a_melody_that_keeps_its_length_is_cut_at_the_maximum_and_never_repeated() -> None:
    conditioner = ChromaConditioner(MelodyConfig(frames=5, match_length=False), 4)
    prepared = conditioner.prepare([melody(1, 2), melody(1, 2, 3, 4, 5, 6, 7), None])
    assert prepared.vectors.argmax(-1).tolist() == [[1, 2, 0, 0, 0], [1, 2, 3, 4, 5], [0] * 5]
    assert prepared.mask.tolist() == [[True] * 2 + [False] * 3, [True] * 5, [False] * 5]
    assert conditioner.prepare([melody(1, 2, 3)]).vectors.shape == (1, 3, 12)


def test_weaker_pitch_classes_count_only_if_chroma_is_not_one_hot() -> None:
    soft = torch.linspace(0, 1, 12).expand(3, 12)
    hard = melody(11, 11, 11)
    for kept in (False, True):
        conditioner = ChromaConditioner(MelodyConfig(frames=3, one_hot=not kept), 4)
        assert torch.equal(conditioner.prepare([soft]).vectors[0], soft if kept else hard)


def test_invalid_melodies_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a chroma \[F, 12\], got \[0, 12\]"):
        ChromaConditioner(MelodyConfig(), 8).prepare([torch.zeros(0, 12)])
    with pytest.raises(ValueError, match=r"expected a chroma \[F, 12\], got \[4, 11\]"):
        ChromaConditioner(MelodyConfig(), 8).prepare([torch.zeros(4, 11)])
    with pytest.raises(ValueError, match=r"expected a chroma \[F, 12\], got \[12\]"):
        ChromaConditioner(MelodyConfig(), 8).prepare([None, torch.zeros(12)])
    with pytest.raises(ValidationError, match="expected null = zeros for melodies that keep their length"):
        MelodyConfig(match_length=False, null="first_bin")
    with pytest.raises(
        ValidationError, match=r"expected conditions of fixed length in language_model\.sum, got chroma"
    ):
        MusicModelConfig.model_validate(
            {"description": None, "chroma": {"match_length": False}, "language_model": {"cross": [], "sum": ["chroma"]}}
        )
