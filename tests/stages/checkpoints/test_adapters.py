"""Adapters of peft, of any origin: they are read, added with strengths as peft adds them, several at once, and
removed."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.music_model import Attributes
from model.optim.config import LoraConfig
from schemas import Store
from schemas.weights import WeightsLibrary
from stages.checkpoints.adapter_export import export_adapter
from stages.checkpoints.adapter_files import ADAPTER, AdapterChoice, parse_adapters
from stages.checkpoints.adapters import adapted, read_adapter
from stages.checkpoints.loading import load_checkpoint
from stages.train.lora import add_adapter, continue_adapter, merge_adapter, save_adapter
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.tiny_model import tokenizer

SHAPE = SHAPES["mono"]
FRAMES = 9
TEXT = "calm piano"


def their_adapter(folder: Path, seed: int = 0, decoder_alone: bool = False, **settings: Any) -> Any:
    """An adapter that peft makes of transformers' MusicGen, random and saved; returns the adapted model."""
    torch.manual_seed(seed)
    base = random_musicgen(SHAPE)
    chosen = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "out_proj", "fc1"]} | settings
    tuned = peft.get_peft_model(base.decoder if decoder_alone else base, peft.LoraConfig(**chosen))
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_" in name:
                value.normal_(0.0, 0.3)
    tuned.save_pretrained(folder)
    if decoder_alone:
        base.decoder = tuned.base_model.model
        return base.eval()
    return tuned.base_model.model.eval()


def codes() -> Tensor:
    return torch.randint(SHAPE.cardinality, (1, SHAPE.codebooks, FRAMES), generator=torch.Generator().manual_seed(4))


def their_logits(model: Any) -> Tensor:
    """What transformers predicts, [K, T, V]; zeros where the delay pattern gives no prediction within these frames."""
    tokens, sequence = tokenizer()(TEXT, return_tensors="pt"), codes()
    delayed = torch.full((1, SHAPE.codebooks, FRAMES + SHAPE.codebooks - 1), SHAPE.cardinality)
    for book in range(SHAPE.codebooks):
        delayed[:, book, book : book + FRAMES] = sequence[:, book]
    start = torch.full((1, SHAPE.codebooks, 1), SHAPE.cardinality)
    with torch.no_grad():
        inputs = torch.cat([start, delayed], -1)[0, :, :-1]
        logits = model(**tokens, decoder_input_ids=inputs).logits
    predicted = torch.stack([logits[book, book : book + FRAMES] for book in range(SHAPE.codebooks)])
    for book in range(SHAPE.codebooks):
        predicted[book, FRAMES - book :] = 0.0
    return predicted


def our_logits(model: Any) -> Tensor:
    with torch.no_grad():
        prediction = model(codes(), [Attributes(TEXT)])
    logits: Tensor = prediction.logits[0]
    return logits


@pytest.fixture
def ours(tmp_path: Path) -> Any:
    """The base model of `their_adapter` as this project reads it."""
    folder = save(random_musicgen(SHAPE), SHAPE, tmp_path / "base")
    return load_checkpoint(folder, WeightsLibrary(Store(str(tmp_path))).get).model


KINDS: dict[str, dict[str, Any]] = {
    "the whole model": {},
    "its decoder": {"decoder_alone": True},
    "keys, heads and projections": {"target_modules": ["k_proj", "lm_heads.1", "enc_to_dec_proj"]},
    "ranks and scales of their own": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.fc1": 9}},
    "scales by the root of the rank": {"use_rslora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_made_by_peft_changes_logits_like_in_transformers(kind: str, ours: Any, tmp_path: Path) -> None:
    theirs = their_adapter(tmp_path / "adapter", **KINDS[kind])
    plain = our_logits(ours)
    with adapted(ours, [(read_adapter(tmp_path / "adapter", ours), 1.0)]):
        got = our_logits(ours)
    assert (got - plain).abs().max() > 0.1
    torch.testing.assert_close(got, their_logits(theirs), atol=2e-4, rtol=0)


def test_stacked_adapters_act_by_their_strengths_and_leave_no_trace(ours: Any, tmp_path: Path) -> None:
    theirs = their_adapter(tmp_path / "one", seed=1)
    their_adapter(tmp_path / "two", seed=2)
    stacked = random_musicgen(SHAPE)
    with_both = peft.PeftModel.from_pretrained(stacked, str(tmp_path / "one"), adapter_name="one")
    with_both.load_adapter(str(tmp_path / "two"), adapter_name="two")
    with_both.add_weighted_adapter(["one", "two"], [0.7, -0.4], "both", combination_type="cat")
    with_both.set_adapter("both")
    before = {name: value.detach().clone() for name, value in ours.named_parameters()}
    one, two = (read_adapter(tmp_path / name, ours) for name in ("one", "two"))
    with adapted(ours, [(one, 0.7), (two, -0.4)]):
        got = our_logits(ours)
    torch.testing.assert_close(got, their_logits(with_both.base_model.model.eval()), atol=2e-4, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in ours.named_parameters())
    plain = our_logits(ours)
    with adapted(ours, [(one, 0.0)]):
        assert torch.equal(our_logits(ours), plain)
    with adapted(ours, [(one, 1.0)]):
        torch.testing.assert_close(our_logits(ours), their_logits(theirs), atol=2e-4, rtol=0)


def test_an_error_while_adapted_leaves_the_weights_unchanged(ours: Any, tmp_path: Path) -> None:
    their_adapter(tmp_path / "adapter")
    plain = our_logits(ours)
    with pytest.raises(RuntimeError), adapted(ours, [(read_adapter(tmp_path / "adapter", ours), 1.0)]):
        raise RuntimeError
    assert torch.equal(our_logits(ours), plain)


@pytest.mark.parametrize("kind", ["the whole model", "ranks and scales of their own"])
def test_training_continues_another_s_adapter_and_writes_one_that_peft_reads(
    kind: str, ours: Any, tmp_path: Path
) -> None:
    theirs = their_adapter(tmp_path / "adapter", **KINDS[kind])
    continue_adapter(ours, LoraConfig(conditioners=False), tmp_path / "adapter")
    torch.testing.assert_close(our_logits(ours), their_logits(theirs), atol=2e-4, rtol=0)
    learning = {name for name, value in ours.named_parameters() if value.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)
    save_adapter(ours, tmp_path / "ours")
    merge_adapter(ours)
    merged = our_logits(ours)
    again = load_checkpoint(tmp_path / "base", WeightsLibrary(Store(str(tmp_path))).get).model
    with adapted(again, [(read_adapter(tmp_path / "ours", again), 1.0)]):
        torch.testing.assert_close(our_logits(again), merged, atol=2e-4, rtol=0)
    peft.PeftModel.from_pretrained(again.language_model, str(tmp_path / "ours")).eval()
    torch.testing.assert_close(our_logits(again), merged, atol=2e-4, rtol=0)


def learned(ours: Any, folder: Path, kind: str) -> Tensor:
    """Write a checkpoint with an adapter beside it, made here or continued, and return its logits."""
    if kind == "made here":
        add_adapter(ours, LoraConfig(rank=3, alpha=5, targets=("attention", "feedforward"), conditioners=False))
    else:
        their_adapter(folder / "theirs", **KINDS[kind])
        continue_adapter(ours, LoraConfig(conditioners=False), folder / "theirs")
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in ours.named_parameters():
            if ".lora_" in name:
                value += 0.2 * torch.randn_like(value)
    merging = shutil.copytree(folder / "base", folder / "tuned")
    save_adapter(ours, merging / ADAPTER)
    merge_adapter(ours)
    return our_logits(ours)


@pytest.mark.parametrize("kind", ["made here", "the whole model", "ranks and scales of their own"])
def test_peft_loads_an_exported_adapter_into_transformers_musicgen(kind: str, ours: Any, tmp_path: Path) -> None:
    expected = learned(ours, tmp_path, kind)
    find = WeightsLibrary(Store(str(tmp_path))).get
    count = export_adapter(tmp_path / "tuned", tmp_path / "peft", find, "somebody/musicgen")
    theirs = random_musicgen(SHAPE)
    assert (their_logits(theirs.eval()) - expected).abs().max() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # about keys that are missing or unknown
        tuned = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "peft"))
    torch.testing.assert_close(their_logits(tuned.base_model.model.eval()), expected, atol=2e-4, rtol=0)
    assert count == sum(value.numel() for name, value in tuned.named_parameters() if ".lora_" in name)
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["base_model_name_or_path"]
    again = load_checkpoint(tmp_path / "base", find).model
    with adapted(again, [(read_adapter(tmp_path / "peft", again), 1.0)]):
        torch.testing.assert_close(our_logits(again), expected, atol=2e-4, rtol=0)


def test_a_checkpoint_without_updates_is_not_exported_as_an_adapter(ours: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a checkpoint that learned by low-rank updates"):
        export_adapter(tmp_path / "base", tmp_path / "peft", WeightsLibrary(Store(str(tmp_path))).get)
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"peft_type": "IA3"}, "expected an adapter of type LORA in .*, got 'IA3'"),
        ({"use_dora": True}, r"separate magnitudes \(DoRA\)"),
        ({"bias": "all"}, "got biases"),
        ({"modules_to_save": ["lm_heads"]}, "whole modules in addition to the updates"),
    ],
)
def test_an_adapter_that_is_not_a_sum_of_updates_is_refused(
    change: dict[str, Any], told: str, ours: Any, tmp_path: Path
) -> None:
    their_adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=told):
        read_adapter(tmp_path / "adapter", ours)


def test_an_adapter_of_another_model_is_refused(ours: Any, tmp_path: Path) -> None:
    their_adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.zeros(3, 99)}, file)
    with pytest.raises(ValueError, match="it belongs to another model"):
        read_adapter(tmp_path / "adapter", ours)
    save_file({name.replace("layers.0", "layers.77"): value for name, value in tensors.items()}, file)
    with pytest.raises(ValueError, match="expected only updates of layers that the model has"):
        read_adapter(tmp_path / "adapter", ours)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="expected an adapter of peft in"):
        read_adapter(tmp_path / "nothing", ours)


def test_strengths_are_read_in_any_spelling_and_printed_in_one_order() -> None:
    assert parse_adapters(" strings : 0.4;noir,") == (AdapterChoice("noir"), AdapterChoice("strings", 0.4))
    assert [str(choice) for choice in parse_adapters("b:-1, a:.25")] == ["a:0.25", "b:-1"]
    for wrong in ("noir:loud", "noir:11", ":1", "noir:nan"):
        with pytest.raises(ValueError, match="expected adapters with strengths from -10 to 10"):
            parse_adapters(wrong)
    with pytest.raises(ValueError, match="expected each adapter once, got 'noir' twice"):
        parse_adapters("noir, noir:2")
