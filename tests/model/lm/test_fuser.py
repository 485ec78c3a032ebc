"""Fusing conditions into the decoder: against AudioCraft's fuser, frame by frame, and with padding that is not read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.lm.config import LanguageModelConfig
from model.lm.fuser import Condition, fuse
from model.lm.language_model import LanguageModel
from model.lm.patterns import delayed
from tests.worlds.oracles import language_model, read_pack
from tests.worlds.plain_transformer import disturb
from tests.worlds.tiny_model import random_codes

CASES = ["none", "cross", "cross_pos_emb", "prepend", "sum", "input_interpolate", "sum_prepend_cross"]
WIDTH = 16
SIZES = {"codebooks": 3, "cardinality": 24, "width": WIDTH, "heads": 2, "layers": 2, "cross": ()}


def _config(**changes: object) -> LanguageModelConfig:
    return LanguageModelConfig.model_validate(SIZES | changes)


def _model(**changes: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(_config(**changes)).eval()


def _condition(*lengths: int, width: int = WIDTH) -> Condition:
    """Rows of random vectors, zeros past their lengths."""
    mask = torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]
    return Condition(torch.randn(*mask.shape, width) * mask[..., None], mask)


@pytest.mark.parametrize("name", CASES)
def test_inputs_with_fused_conditions_equal_the_oracle(oracles: Path, name: str) -> None:
    pack = read_pack(oracles, "lm_forward")
    case = pack.case(name)
    model = language_model(oracles, case)
    codes = pack.tensors["codes"]
    pattern = model.pattern(codes.shape[-1])
    embedded = model.embed(pattern.build(codes, model.special, "valid"))
    torch.testing.assert_close(embedded, pack.tensors[f"{name}.emb_sum"], rtol=1e-5, atol=1e-5)
    fused = model.fuse(pack.conditions(case), pattern, "valid")
    inputs = embedded if fused.added is None else embedded + fused.added
    inputs = inputs if fused.prefix is None else torch.cat([fused.prefix, inputs], dim=1)
    torch.testing.assert_close(inputs, pack.tensors[f"{name}.fused"], rtol=1e-5, atol=1e-5)
    assert (fused.cross is None) == (f"{name}.cross_src" not in pack.tensors)
    if fused.cross is not None:
        torch.testing.assert_close(fused.cross, pack.tensors[f"{name}.cross_src"], rtol=1e-5, atol=1e-5)


def test_positions_of_cross_attention_are_scaled_and_have_their_own_period() -> None:
    given, pattern = {"text": _condition(3)}, delayed(4, (0, 1, 2))
    plain = fuse(_config(cross=("text",), cross_positions=True), given, pattern).cross
    other = fuse(_config(cross=("text",), cross_positions=True, position_period=50.0), given, pattern).cross
    doubled = fuse(_config(cross=("text",), cross_positions=True, cross_position_scale=2.0), given, pattern).cross
    embedding = given["text"].embedding
    assert plain is not None
    assert torch.equal(plain, other)
    torch.testing.assert_close(doubled - embedding, 2 * (plain - embedding))
    assert not torch.equal(plain, embedding)


def test_cross_attention_reads_what_the_mask_keeps_and_one_zero_vector_of_a_null() -> None:
    given = {"text": _condition(3, 0, 1), "clap": _condition(1, 1, 0)}
    pattern, names = delayed(4, (0, 1, 2)), ("text", "clap")
    masked = fuse(_config(cross=names), given, pattern).cross_mask
    attended = fuse(_config(cross=names, padding="attended"), given, pattern).cross_mask
    assert masked is not None
    assert masked.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert torch.equal(attended, torch.ones(3, 4, dtype=torch.bool))
    assert fuse(_config(sum=names), {"text": _condition(1), "clap": _condition(1)}, pattern).cross_mask is None


@pytest.mark.parametrize("form", [{}, {"cross_positions": True}, {"attention_bias": True, "norm": "after"}])
def test_a_batch_of_conditions_of_different_lengths_equals_each_row_alone(form: dict) -> None:
    model = _model(cross=("text", "clap"), **form)
    disturb(model)
    lengths, codes = (5, 2, 0, 1), random_codes(4, 9)
    text, clap = _condition(*lengths), _condition(1, 0, 1, 0)

    def alone(row: int, condition: Condition) -> Condition:
        length = max(1, int(condition.mask[row].sum()))
        return Condition(condition.embedding[row : row + 1, :length], condition.mask[row : row + 1, :length])

    with torch.no_grad():
        together = model(codes, {"text": text, "clap": clap}).logits
        for row in range(4):
            found = model(codes[row : row + 1], {"text": alone(row, text), "clap": alone(row, clap)}).logits
            torch.testing.assert_close(found, together[row : row + 1], rtol=0, atol=5e-6)


def test_padding_is_masked_or_read_as_zeros_as_the_config_says() -> None:
    codes, short, padded = random_codes(1, 6), _condition(2), _condition(2, 5)
    padded = Condition(torch.cat([short.embedding, torch.zeros(1, 3, WIDTH)], dim=1), padded.mask[:1])
    for padding, same in (("masked", True), ("attended", False)):
        model = _model(cross=("text",), padding=padding)
        with torch.no_grad():
            first, second = model(codes, {"text": short}).logits, model(codes, {"text": padded}).logits
        assert torch.allclose(first, second, rtol=0, atol=1e-6) == same


def test_a_null_is_read_as_zeros_whether_padding_is_masked_or_attended() -> None:
    codes = random_codes(1, 6)
    with torch.no_grad():
        masked, attended = (
            _model(cross=("text",), padding=padding)(codes, {"text": _condition(0)}).logits
            for padding in ("masked", "attended")
        )
    assert masked.isfinite().all()
    torch.testing.assert_close(masked, attended, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pattern", ["delay", "unroll", "coarse_first", "grouped"])
def test_a_frame_of_a_summed_condition_reaches_its_own_codes_and_none_before(pattern: str) -> None:
    model = _model(sum=("melody",), pattern=pattern, group=3)
    codes, frames = random_codes(1, 6), 6
    layout = model.pattern(frames).layout
    order = {coordinate: step for step, together in enumerate(layout) for coordinate in together}
    firsts = model.pattern(frames).first_steps
    given = _condition(frames)
    with torch.no_grad():
        before = model(codes, {"melody": given}, mode="full").logits[0]
        for frame in range(frames):
            embedding = given.embedding.clone()
            embedding[0, frame] += 1.0
            after = model(codes, {"melody": Condition(embedding, given.mask)}, mode="full").logits[0]
            moved = (after != before).any(-1)
            assert moved[:, frame].any()
            for codebook in range(3):
                for other in range(frames):
                    assert bool(moved[codebook, other]) == (order[(other, codebook)] >= firsts[frame])


def test_a_summed_vector_goes_to_every_step_and_a_longer_condition_is_cut_to_the_clip() -> None:
    config, pattern = _config(sum=("melody",)), delayed(5, (0, 1, 2))
    one, long = _condition(1), _condition(9)
    added = fuse(config, {"melody": one}, pattern).added
    assert torch.equal(added, one.embedding.expand(-1, pattern.steps(), -1))
    added = fuse(config, {"melody": long}, pattern).added
    assert torch.equal(added, long.embedding[:, [0, 1, 2, 3, 4, 4, 4, 4]])


def test_the_sum_added_in_valid_mode_is_the_beginning_of_that_in_full_mode() -> None:
    config, pattern = _config(sum=("melody",), interpolate=("chroma",)), delayed(7, (0, 1, 2))
    given = {"melody": _condition(7), "chroma": _condition(3)}
    valid, full = fuse(config, given, pattern, "valid").added, fuse(config, given, pattern).added
    assert valid is not None
    assert full is not None
    assert (valid.shape[1], full.shape[1]) == (8, 10)
    assert torch.equal(full[:, :8], valid)


def test_a_stretched_condition_with_given_steps_keeps_its_pace_at_any_length() -> None:
    config, condition = _config(interpolate=("chroma",), interpolate_steps=40), _condition(10)
    # In valid mode there is one step more than frames.
    whole, short, long = (
        fuse(config, {"chroma": condition}, delayed(frames, (0, 1, 2)), "valid").added for frames in (39, 24, 49)
    )
    assert torch.equal(whole, condition.embedding.repeat_interleave(4, dim=1))
    assert torch.equal(short, whole[:, :25])
    assert torch.equal(long[:, :40], whole)
    assert torch.equal(long[:, 40:], whole[:, -1:].expand(-1, 10, -1))


def _raises(given: dict[str, Condition], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _model(sum=("genre",))(random_codes(2, 5), given)


def test_invalid_conditions_are_refused() -> None:
    genre = _condition(1, 1)
    _raises({}, r"expected conditions \['genre'\], got \[\]")
    _raises({"genre": genre, "mood": genre}, r"expected conditions \['genre'\], got \['genre', 'mood'\]")
    _raises({"genre": _condition(1, 1, width=8)}, r"expected genre of \[2, 1 or more, 16\], got \[2, 1, 8\]")
    _raises({"genre": _condition(1, 1, 1)}, "expected genre of 2 rows, as the codes, got 3")
    _raises({"genre": _condition(2, 2)}, r"genre of length 1 or at least 5 \(one vector a frame\) to be summed, got 2")
    empty = Condition(torch.zeros(2, 0, WIDTH), torch.zeros(2, 0, dtype=torch.bool))
    _raises({"genre": empty}, r"expected genre of \[2, 1 or more, 16\], got \[2, 0, 16\]")


def test_conditions_with_different_numbers_of_rows_are_refused() -> None:
    given = {"genre": _condition(1, 1), "mood": _condition(1)}
    with pytest.raises(ValueError, match=r"expected mood of \[2, 1 or more, 16\], got \[1, 1, 16\]"):
        fuse(_config(sum=("genre", "mood")), given, delayed(5, (0, 1, 2)))


def test_no_gradient_of_a_step_reaches_a_later_code_and_the_whole_prefix_is_read() -> None:
    for form in ({}, {"positions": "rotary"}, {"positions": "both", "xpos": True}, {"norm": "after"}):
        model = _model(prepend=("text",), cross=("clap",), **form)
        text, clap = _condition(4).embedding.requires_grad_(), _condition(1).embedding.requires_grad_()
        inputs = torch.randn(1, 7, WIDTH, requires_grad=True)
        hidden = model.transformer(torch.cat([text, inputs], dim=1), clap)[:, 4:]
        for step in range(7):
            target = (hidden[0, step] * torch.randn(WIDTH)).sum()
            ahead, prefix, source = torch.autograd.grad(target, (inputs, text, clap), retain_graph=True)
            assert torch.equal(_moved(ahead), torch.arange(7) <= step)
            assert _moved(prefix).all()
            assert _moved(source).all()


def _moved(gradient: Tensor) -> Tensor:
    return gradient[0].abs().amax(-1) > 0
