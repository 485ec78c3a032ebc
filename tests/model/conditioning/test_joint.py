"""Joint embeddings: equal to AudioCraft's with and without codebooks, and how the codebooks learn."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model.codec.config import QuantizerConfig
from model.codec.quantizer import codebooks_of
from model.conditioning.conditioners import ClapConditioner
from model.conditioning.config import ClapConfig, JointQuantizerConfig
from tests.worlds.oracles import Pack, read_pack

WIDTH, ENTRIES = 6, 8


def _of_pack(pack: Pack, quantized: bool) -> ClapConditioner:
    facts, (output, width) = pack.facts["joint"], pack.tensors["joint.output_proj.weight"].shape
    quantizer = JointQuantizerConfig(codebooks=facts["n_q"], cardinality=facts["bins"]) if quantized else None
    conditioner = ClapConditioner(ClapConfig(width=width, quantizer=quantizer), output)
    conditioner.projection.load_state_dict({n: pack.tensors[f"joint.output_proj.{n}"] for n in ("weight", "bias")})
    if conditioner.quantizer is not None:
        for level, codebook in enumerate(codebooks_of(conditioner.quantizer)):
            codebook.embed.copy_(pack.tensors[f"joint.codebook.{level}"])
            codebook.inited.fill_(1)
    return conditioner.eval()


def _embeddings(count: int, seed: int = 0) -> torch.Tensor:
    """Points around eight centres, like the embeddings of a catalog of eight styles."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(9))
    styles = torch.randint(8, (count,), generator=generator)
    return centres[styles] + 0.3 * torch.randn(count, WIDTH, generator=generator)


def _quantized(codebooks: int = 2, started: bool = True, **learning: float) -> ClapConditioner:
    torch.manual_seed(0)
    config = JointQuantizerConfig(
        codebooks=codebooks, cardinality=ENTRIES, learning=QuantizerConfig.model_validate(learning)
    )
    conditioner = ClapConditioner(ClapConfig(width=WIDTH, quantizer=config), 5)
    if started:
        conditioner.start(_embeddings(200), torch.Generator().manual_seed(1))
    return conditioner


def _buffers(conditioner: ClapConditioner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in conditioner.named_buffers()}


@pytest.mark.parametrize("quantized", [False, True])
def test_joint_conditions_equal_the_oracle(oracles: Path, quantized: bool) -> None:
    pack = read_pack(oracles, "conditioning")
    conditioner, key = _of_pack(pack, quantized), f"joint.quant{int(quantized)}"
    embeddings: list[torch.Tensor | None] = list(pack.tensors["joint.embed"][:, 0])
    for row in pack.facts["joint"]["empty_idx"]:
        embeddings[row] = None
    with torch.no_grad():
        found = conditioner(conditioner.prepare(embeddings))
    torch.testing.assert_close(found.embedding, pack.tensors[f"{key}.out"], rtol=1e-4, atol=1e-5)
    assert torch.equal(found.mask.float(), pack.tensors[f"{key}.mask"])


def test_codes_and_quantised_embeddings_equal_the_oracle(oracles: Path) -> None:
    pack = read_pack(oracles, "conditioning")
    quantizer = _of_pack(pack, quantized=True).quantizer
    assert quantizer is not None
    codes = quantizer.encode(pack.tensors["joint.embed"].transpose(1, 2))
    assert torch.equal(codes.transpose(0, 1), pack.tensors["joint.codes"])
    torch.testing.assert_close(quantizer.decode(codes)[..., 0], pack.tensors["joint.quantized"], rtol=1e-4, atol=1e-6)


def test_a_missing_joint_embedding_differs_from_an_embedding_of_zeros() -> None:
    conditioner = ClapConditioner(ClapConfig(width=3), 8)
    found = conditioner(conditioner.prepare([None, torch.zeros(3)]))
    assert (found.embedding[0] == 0).all()
    assert (found.embedding[1] != 0).any()
    assert found.mask.tolist() == [[False], [True]]


def test_started_codebooks_keep_the_style_of_an_embedding_and_drop_the_rest() -> None:
    conditioner = _quantized(codebooks=1).eval()
    quantizer, unseen = conditioner.quantizer, _embeddings(300, seed=5)
    assert quantizer is not None
    kept = quantizer.decode(quantizer.encode(unseen[..., None]))[..., 0]
    assert (unseen - kept).square().mean() < 0.25 * unseen.var(0).mean()
    assert len(kept.unique(dim=0)) <= ENTRIES


def test_codebooks_move_in_training_and_stay_in_evaluation_or_when_frozen() -> None:
    conditioner = _quantized()
    prepared = conditioner.prepare(list(_embeddings(20, seed=2)))
    before = _buffers(conditioner)
    conditioner.eval()(prepared)
    frozen = conditioner.train().requires_grad_(False)
    frozen(prepared)
    assert all(torch.equal(value, before[name]) for name, value in conditioner.named_buffers())
    conditioner.requires_grad_(True)(prepared)
    moved = {
        name.rsplit(".", 1)[1] for name, value in conditioner.named_buffers() if not torch.equal(value, before[name])
    }
    assert moved == {"embed", "embed_avg", "cluster_size"}


def test_training_returns_the_codebook_vectors_from_before_they_moved() -> None:
    conditioner = _quantized()
    prepared = conditioner.prepare([*_embeddings(5, seed=2), None])
    expected = conditioner.eval()(prepared)
    found = conditioner.train()(prepared)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=0, atol=1e-5)
    assert torch.equal(found.mask, expected.mask)


def test_codebooks_learn_in_full_precision_under_autocast() -> None:
    half, full = _quantized().train(), _quantized().train()
    prepared = half.prepare(list(_embeddings(20, seed=2)))
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half(prepared).embedding.dtype == torch.bfloat16
    torch.manual_seed(0)
    full(prepared)
    expected = _buffers(full)
    assert all(torch.equal(value, expected[name]) for name, value in half.named_buffers())


def test_a_null_moves_no_codebook() -> None:
    together, alone = _quantized().train(), _quantized().train()
    embeddings = list(_embeddings(6, seed=2))
    for seed in range(5):
        torch.manual_seed(seed)
        together(together.prepare([None, *embeddings[:3], None, *embeddings[3:]]))
        torch.manual_seed(seed)
        alone(alone.prepare(embeddings))
    expected = _buffers(alone)
    assert all(torch.equal(value, expected[name]) for name, value in together.named_buffers())
    torch.manual_seed(0)
    together(together.prepare([None, None]))
    assert all(torch.equal(value, expected[name]) for name, value in together.named_buffers())


def test_codebooks_follow_embeddings_that_move() -> None:
    conditioner = _quantized(decay=0.8).train()
    quantizer, moved = conditioner.quantizer, _embeddings(100) + 4
    assert quantizer is not None

    def error() -> float:
        kept = quantizer.decode(quantizer.encode(moved[..., None]))[..., 0]
        return (moved - kept).square().mean().item()

    first = error()
    for step in range(30):
        torch.manual_seed(step)
        conditioner(conditioner.prepare(list(moved)))
    assert error() < first / 10


def test_codebooks_start_once_and_depend_only_on_the_generator() -> None:
    first, second = _quantized(), _quantized()
    assert all(torch.equal(value, _buffers(first)[name]) for name, value in second.named_buffers())
    before = _buffers(first)
    first.start(_embeddings(200, seed=8), torch.Generator().manual_seed(8))
    assert all(torch.equal(value, before[name]) for name, value in first.named_buffers())
    loaded = _quantized(started=False)
    assert not loaded.started
    loaded.load_state_dict(first.state_dict())
    assert loaded.started


def test_without_codebooks_there_is_nothing_to_start() -> None:
    conditioner = ClapConditioner(ClapConfig(width=WIDTH), 5)
    assert conditioner.started
    conditioner.start(_embeddings(1), torch.Generator())
    assert not list(conditioner.buffers())


def test_invalid_embeddings_and_codebooks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a CLAP embedding \[512\], got \[3\]"):
        ClapConditioner(ClapConfig(), 8).prepare([torch.zeros(3)])
    empty = _quantized(started=False)
    for mode in (True, False):
        with pytest.raises(ValueError, match="expected codebooks that were set from joint embeddings, got empty ones"):
            empty.train(mode)(empty.prepare([None, torch.zeros(WIDTH)]))
        assert not empty(empty.prepare([None, None])).embedding.any()
    with pytest.raises(ValueError, match=r"expected at least 8 joint embeddings of width 6 .* got 7 of width 6"):
        empty.start(_embeddings(7), torch.Generator())
    with pytest.raises(ValueError, match="got 20 of width 5"):
        empty.start(torch.zeros(20, 5), torch.Generator())
    with pytest.raises(ValidationError, match=r"learning\.dropout = 0 for joint embeddings, got 0\.5"):
        JointQuantizerConfig(learning=QuantizerConfig(dropout=0.5))
