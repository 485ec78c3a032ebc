"""Text conditions: equal to AudioCraft's, and the behaviour of the encoder in training."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from model.conditioning.conditioners import TextConditioner
from model.conditioning.config import TextConfig
from tests.worlds.oracles import Pack, read_pack
from tests.worlds.tiny_model import text_encoder, tokenizer


def _text_conditioner(pack: Pack) -> TextConditioner:
    """The pack's encoder and projection, with a tokenizer that returns the ids that the pack was made with."""
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


def test_the_empty_text_and_no_text_are_the_same_null() -> None:
    conditioner = TextConditioner(TextConfig(width=16), 8, text_encoder(), tokenizer()).eval()
    found = conditioner(conditioner.prepare([None, "", "calm piano"]))
    assert torch.equal(found.embedding[0], found.embedding[1])
    assert (found.embedding[0] == 0).all()
    assert found.mask.tolist() == [[False] * 3, [False] * 3, [True] * 3]


def test_a_long_text_is_cut_and_keeps_its_end_token() -> None:
    conditioner = TextConditioner(TextConfig(width=16, max_tokens=4), 8, text_encoder(), tokenizer())
    tokens = conditioner.prepare(["calm piano at night drums " * 50]).tokens
    assert tokens.shape == (1, 4)
    assert tokens[0, -1] == 1


def test_a_frozen_encoder_has_no_dropout_and_no_gradient_and_a_finetuned_one_has_both() -> None:
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


def test_each_row_of_a_batch_gets_the_vectors_and_gradients_that_it_gets_alone() -> None:
    """The encoder sees no padding, so neither vectors nor gradients depend on longer rows of the batch."""
    texts = ["calm piano at night with strings", "bass", None, "loud drums"]
    conditioner = TextConditioner(TextConfig(width=16, finetune=True), 8, text_encoder(), tokenizer()).eval()
    weight = torch.randn(8, generator=torch.Generator().manual_seed(3))

    def gradients() -> dict[str, torch.Tensor]:
        found = {name: value.grad.clone() for name, value in conditioner.named_parameters() if value.grad is not None}
        conditioner.zero_grad()
        return found

    together = conditioner(conditioner.prepare(texts))
    (together.embedding @ weight).sum().backward()
    of_batch = gradients()
    for row, text in enumerate(texts):
        alone = conditioner(conditioner.prepare([text]))
        (alone.embedding @ weight).sum().backward()
        length = alone.embedding.shape[1]
        torch.testing.assert_close(together.embedding[row, :length], alone.embedding[0], rtol=0, atol=1e-6)
        assert not together.embedding[row, length:].any()
        assert torch.equal(together.mask[row, :length], alone.mask[0])
        assert not together.mask[row, length:].any()
    of_rows = gradients()
    assert any("encoder" in name for name in of_rows)
    assert of_rows.keys() == of_batch.keys()
    for name, value in of_rows.items():
        torch.testing.assert_close(value, of_batch[name], rtol=1e-5, atol=1e-6)


def test_an_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a text encoder of width 768, got 16"):
        TextConditioner(TextConfig(), 8, text_encoder(), tokenizer())
