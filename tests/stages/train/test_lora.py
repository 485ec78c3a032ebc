"""Low-rank adaptation: it starts without effect, moves only the intended weights, and merges into a plain model."""

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from model.music_model import Attributes, MusicModel
from model.optim.config import LoraConfig
from stages.train.lora import add_adapter, merge_adapter, merged, save_adapter
from tests.worlds.tiny_model import CLAP_WIDTH, config, melody, music_model, random_codes

ALL = LoraConfig(rank=3, targets=("attention", "cross_attention", "feedforward"))
ATTRIBUTES = [Attributes("calm piano", melody(0, 4, 7), torch.linspace(-1, 1, CLAP_WIDTH)), Attributes()]


def logits(model: MusicModel) -> torch.Tensor:
    with torch.no_grad():
        return model(random_codes(2, 7), ATTRIBUTES).logits


def adapted(settings: LoraConfig, moved: bool = True) -> MusicModel:
    """The small model with updates that are no longer zero."""
    model = music_model(config(finetune=True))
    torch.manual_seed(1)
    add_adapter(model, settings)
    if moved:
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.add_(0.1 * torch.randn_like(value))
    return model


def test_an_adapted_model_starts_equal_to_the_plain_one() -> None:
    assert torch.equal(logits(adapted(ALL, moved=False)), logits(music_model(config(finetune=True))))


def test_a_merged_model_gives_the_same_logits_and_has_the_weights_of_a_plain_model() -> None:
    model, plain = adapted(ALL), music_model(config(finetune=True))
    before = logits(model)
    assert (before - logits(plain)).abs().max() > 0.1
    merge_adapter(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)
    assert model.weights().keys() == plain.weights().keys()
    plain.load_weights(model.weights())
    torch.testing.assert_close(logits(plain), before, atol=1e-5, rtol=0)


def test_a_temporarily_merged_model_is_restored_bit_for_bit() -> None:
    model, names = adapted(ALL), {name for name, _ in music_model(config(finetune=True)).named_parameters()}
    before, state = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    with merged(model):
        assert {name for name, _ in model.named_parameters()} == names
        torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=0)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("target", "layers"),
    [
        ("attention", {"self_attention.in_projection", "self_attention.out_projection"}),
        ("cross_attention", {"cross_attention.in_projection", "cross_attention.out_projection"}),
        ("feedforward", {"expand", "contract"}),
    ],
)
def test_each_kind_of_layer_is_adapted_on_request_and_affects_the_logits(target: str, layers: set[str]) -> None:
    model = adapted(LoraConfig.model_validate({"targets": [target], "rank": 2}))
    names = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    stem = "language_model.transformer.layers."
    assert names == {f"{stem}{layer}.{name}" for layer in range(2) for name in layers}
    plain = logits(music_model(config(finetune=True)))
    for layer in layers:
        one = adapted(LoraConfig.model_validate({"targets": [target], "rank": 2}))
        with torch.no_grad():
            for name, value in one.named_parameters():
                if "lora_B" in name and layer not in name:
                    value.zero_()
        assert (logits(one) - plain).abs().max() > 1e-3, f"{layer} is bypassed"


def test_only_updates_and_conditioners_are_trained_and_without_conditioners_only_updates() -> None:
    model = adapted(ALL)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"language_model", "description", "chroma", "clap"}
    assert all(".lora_" in name for name in learning if name.startswith("language_model."))
    alone = adapted(ALL.model_copy(update={"conditioners": False}))
    assert all(".lora_" in name for name, value in alone.named_parameters() if value.requires_grad)
    frozen = music_model(config(finetune=False))
    add_adapter(frozen, ALL)
    assert not any(value.requires_grad for value in frozen.description.encoder.parameters())
    assert frozen.description.projection.weight.requires_grad


def test_peft_loads_the_adapter_beside_a_checkpoint_into_the_initial_model(tmp_path: Path) -> None:
    model = adapted(ALL.model_copy(update={"alpha": 5}))
    save_adapter(model, tmp_path / "adapter")
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == {
        f"base_model.model.{name.removeprefix('language_model.').replace('.default', '')}"
        for name, _ in model.named_parameters()
        if ".lora_" in name
    }
    plain = music_model(config(finetune=True))
    peft.PeftModel.from_pretrained(plain.language_model, str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(plain), logits(model))


def test_missing_layers_are_refused_if_no_others_are_asked_for() -> None:
    fusions = {"cross": (), "prepend": ("description", "chroma", "clap")}
    model = music_model(config(**fusions))
    with pytest.raises(ValueError, match=r"expected train\.lora\.targets among the layers .*, got cross_attention"):
        add_adapter(model, LoraConfig(targets=("cross_attention",)))
    add_adapter(model, LoraConfig())  # the default names cross-attention for the models that have it
    assert any("self_attention" in name for name, value in model.named_parameters() if value.requires_grad)
