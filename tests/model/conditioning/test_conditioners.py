"""Conditioners against AudioCraft's, and that a condition and its absence are never the same."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from model.conditioning.configuration import ChromaConfig, ClapConfig, TextConfig
from model.conditioning.joint import ClapConditioner
from model.conditioning.melody import ChromaConditioner
from model.conditioning.text import TextConditioner
from tests.model.oracles import Pack, read_pack
from tests.model.tiny_model import melody, text_encoder, tokenizer


def _text_conditioner(pack: Pack) -> TextConditioner:
    """The pack's encoder and projection, and a tokenizer that gives the ids the pack was made with."""
    facts = pack.facts["t5"]
    ids = pack.tensors["t5.mix.input_ids"]
    words = {"<pad>": 0, "</s>": 1}
    for text, row in zip(facts["texts"]["mix"], ids.tolist(), strict=True):
        words |= dict(zip((text or "").split(), row, strict=False))
    plain = Tokenizer(models.WordLevel(words, "<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")
    encoder = T5EncoderModel(T5Config(feed_forward_proj=facts["feed_forward_proj"], **facts["config"]))
    start = "t5.weights."
    encoder.load_state_dict({k.removeprefix(start): v for k, v in pack.tensors.items() if k.startswith(start)})
    output, width = pack.tensors["t5.output_proj.weight"].shape
    conditioner = TextConditioner(TextConfig(width=width), output, encoder, fast)
    conditioner.projection.load_state_dict({n: pack.tensors[f"t5.output_proj.{n}"] for n in ("weight", "bias")})
    return conditioner.eval()


@pytest.mark.parametrize("texts", ["mix", "allnull"])
def test_text_conditions_equal_the_oracle(oracles: Path, texts: str) -> None:
    pack = read_pack(oracles, "conditioning")
    conditioner, key = _text_conditioner(pack), f"t5.{texts}"
    prepared = conditioner.prepare(pack.facts["t5"]["texts"][texts])
    assert torch.equal(prepared.tokens, pack.tensors[f"{key}.input_ids"])
    assert torch.equal(prepared.mask.long(), pack.tensors[f"{key}.attention_mask_after_zeroing"])
    with torch.no_grad():
        found = conditioner(prepared)
    torch.testing.assert_close(found.embedding, pack.tensors[f"{key}.out"], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.mask.long(), pack.tensors[f"{key}.out_mask"])


def test_joint_conditions_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "conditioning")
    output, width = pack.tensors["joint.output_proj.weight"].shape
    conditioner = ClapConditioner(ClapConfig(width=width), output)
    conditioner.projection.load_state_dict({n: pack.tensors[f"joint.output_proj.{n}"] for n in ("weight", "bias")})
    embeddings: list[torch.Tensor | None] = list(pack.tensors["joint.embed"][:, 0])
    for row in pack.facts["joint"]["empty_idx"]:
        embeddings[row] = None
    with torch.no_grad():
        found = conditioner(conditioner.prepare(embeddings))
    torch.testing.assert_close(found.embedding, pack.tensors["joint.quant0.out"], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.mask.float(), pack.tensors["joint.quant0.mask"])


def test_melody_conditions_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "chroma")
    facts = next(case for case in pack.facts["conditioner_cases"] if case["match_len_on_eval"])
    weight, bias = pack.tensors["cond.output_proj.weight"], pack.tensors["cond.output_proj.bias"]
    conditioner = ChromaConditioner(ChromaConfig(frames=facts["chroma_len"], null="first_bin"), len(weight))
    conditioner.projection.load_state_dict({"weight": weight, "bias": bias})
    whole = pack.tensors["argmax.chroma"][0]
    with torch.no_grad():
        for name, melodies in {"null": [None], "with_null": [whole, None]}.items():
            found = conditioner(conditioner.prepare(melodies))
            torch.testing.assert_close(found.embedding, pack.tensors[f"cond.match1.{name}.embed"])
            assert torch.equal(found.mask.float(), pack.tensors[f"cond.match1.{name}.mask"])
        # The pack leaves out the second melody of this case, which was padded to the length of the first before it was
        # repeated: its first frames are read off the answer, the repeated ones are compared.
        expected = pack.tensors["cond.match1.batch.embed"]
        nearest = (expected[1, :, None] - (weight.T + bias)).abs().amax(-1).argmin(-1)
        second = torch.nn.functional.one_hot(nearest[: len(whole)], 12).float()
        found = conditioner(conditioner.prepare([whole, second]))
        torch.testing.assert_close(found.embedding, expected)


def test_a_short_melody_is_repeated_and_a_long_one_cut() -> None:
    conditioner = ChromaConditioner(ChromaConfig(frames=5), 4)
    prepared = conditioner.prepare([melody(1, 2), melody(1, 2, 3, 4, 5, 6, 7)])
    assert prepared.vectors.argmax(-1).tolist() == [[1, 2, 1, 2, 1], [1, 2, 3, 4, 5]]


def test_no_melody_differs_from_every_melody() -> None:
    conditioner = ChromaConditioner(ChromaConfig(frames=4), 8)
    rows = [melody(*[pitch] * 4) for pitch in range(12)]
    found = conditioner(conditioner.prepare([None, *rows]))
    assert (found.embedding[0] == 0).all()
    assert not found.mask[0].any()
    assert (found.embedding[1:].abs().amax(-1) > 0).all()
    assert found.mask[1:].all()


def test_no_joint_embedding_differs_from_an_embedding_of_zeros() -> None:
    conditioner = ClapConditioner(ClapConfig(width=3), 8)
    found = conditioner(conditioner.prepare([None, torch.zeros(3)]))
    assert (found.embedding[0] == 0).all()
    assert (found.embedding[1] != 0).any()
    assert found.mask.tolist() == [[False], [True]]


def test_the_empty_text_and_no_text_are_the_same_null() -> None:
    conditioner = TextConditioner(TextConfig(width=16), 8, text_encoder(), tokenizer()).eval()
    found = conditioner(conditioner.prepare([None, "", "calm piano"]))
    assert torch.equal(found.embedding[0], found.embedding[1])
    assert (found.embedding[0] == 0).all()
    assert found.mask.tolist() == [[False] * 3, [False] * 3, [True] * 3]


def test_a_long_text_is_cut_and_still_ends() -> None:
    conditioner = TextConditioner(TextConfig(width=16, max_tokens=4), 8, text_encoder(), tokenizer())
    tokens = conditioner.prepare(["calm piano at night drums " * 50]).tokens
    assert tokens.shape == (1, 4)
    assert tokens[0, -1] == 1


def test_a_frozen_encoder_neither_learns_nor_drops_out_and_a_finetuned_one_does_both() -> None:
    for finetune in (False, True):
        config = TextConfig(width=16, finetune=finetune)
        conditioner = TextConditioner(config, 8, text_encoder(), tokenizer()).train()
        prepared = conditioner.prepare(["calm piano at night"])
        found = conditioner(prepared)
        again = conditioner(prepared)
        assert torch.equal(found.embedding, again.embedding) != finetune
        found.embedding.square().sum().backward()
        learns = [weight.grad is not None and bool(weight.grad.any()) for weight in conditioner.encoder.parameters()]
        assert any(learns) == finetune
        assert conditioner.projection.weight.grad is not None


def test_conditions_of_the_wrong_width_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="expected a text encoder of width 768, got 16"):
        TextConditioner(TextConfig(), 8, text_encoder(), tokenizer())
    with pytest.raises(ValueError, match=r"expected a CLAP embedding \[512\], got \[3\]"):
        ClapConditioner(ClapConfig(), 8).prepare([torch.zeros(3)])
    with pytest.raises(ValueError, match=r"expected a chroma \[F, 12\], got \[0, 12\]"):
        ChromaConditioner(ChromaConfig(), 8).prepare([torch.zeros(0, 12)])
