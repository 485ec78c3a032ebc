"""The music model: from attributes to the loss, the contents of a checkpoint, and refused input."""

import pytest
import torch
from pydantic import ValidationError

from model.conditioning.config import ClapConfig, MusicModelConfig
from model.lm.config import LanguageModelConfig
from model.music_model import Attributes, MusicModel
from tests.worlds.tiny_model import (
    CLAP_WIDTH,
    config,
    melody,
    music_model,
    random_codes,
    text_encoder,
    tokenizer,
)

FULL = Attributes("calm piano", melody(0, 4, 7), torch.ones(CLAP_WIDTH))


def test_the_defaults_are_those_of_musicgen_small() -> None:
    sizes = MusicModelConfig().language_model
    assert (sizes.codebooks, sizes.cardinality, sizes.width, sizes.heads, sizes.layers) == (4, 2048, 1024, 16, 24)
    assert sizes.codebook_delays == (0, 1, 2, 3)
    assert MusicModelConfig().conditions == ("description",)


@pytest.mark.parametrize(
    "other",
    [
        Attributes("loud drums", FULL.chroma, FULL.clap),
        Attributes(None, FULL.chroma, FULL.clap),
        Attributes(FULL.description, melody(1, 5, 8), FULL.clap),
        Attributes(FULL.description, None, FULL.clap),
        Attributes(FULL.description, FULL.chroma, -torch.ones(CLAP_WIDTH)),
        Attributes(FULL.description, FULL.chroma, None),
    ],
)
def test_every_condition_and_its_absence_change_the_prediction(other: Attributes) -> None:
    model, codes = music_model(), random_codes(2, 7)
    with torch.no_grad():
        logits = model(codes[:1].expand(2, -1, -1), [FULL, other]).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_the_loss_is_the_mean_over_codebooks_and_falls_in_training() -> None:
    model, codes = music_model(config(finetune=True)).train(), random_codes(4, 9)
    items, lengths = [FULL, Attributes(), FULL, Attributes("bass")], torch.tensor([9, 7, 9, 5])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(codes, items, lengths)
        torch.testing.assert_close(loss.mean, loss.codebooks.mean())
        optimizer.zero_grad()
        loss.mean.backward()
        optimizer.step()
        losses.append(loss.mean.item())
    assert losses[-1] < 0.7 * losses[0]


def test_prepared_attributes_give_the_same_loss() -> None:
    model, codes, items = music_model(), random_codes(2, 7), [FULL, Attributes("bass")]
    assert model.loss(codes, items).mean == model.loss(codes, model.prepare(items)).mean


def test_a_checkpoint_holds_everything_but_a_frozen_encoder() -> None:
    frozen, finetuned = music_model(config()), music_model(config(finetune=True))
    assert not any("encoder" in name for name in frozen.weights())
    assert any("encoder" in name for name in finetuned.weights())
    codes, other = random_codes(1, 7), music_model(config(), seed=1)
    assert other.loss(codes, [FULL]).mean != frozen.loss(codes, [FULL]).mean
    other.load_weights(frozen.weights())
    assert other.loss(codes, [FULL]).mean == frozen.loss(codes, [FULL]).mean


def _without_memory(like: MusicModel) -> MusicModel:
    encoder = text_encoder()
    with torch.device("meta"):
        return MusicModel(like.config, encoder, tokenizer()).eval()


@pytest.mark.parametrize("finetune", [False, True])
def test_a_model_on_the_meta_device_takes_the_weights_without_a_copy(finetune: bool) -> None:
    known, codes, items = music_model(config(finetune=finetune)).eval(), random_codes(2, 7), [FULL, Attributes()]
    weights, other = known.weights(), _without_memory(known)
    other.load_weights(weights)
    head = "language_model.heads.0.weight"
    assert other.state_dict()[head].data_ptr() == weights[head].data_ptr()
    assert torch.equal(other(codes, items).logits, known(codes, items).logits)


def test_weights_of_half_precision_are_converted_to_the_models_precision() -> None:
    known = music_model(config())
    halves = {name: value.half() if value.is_floating_point() else value for name, value in known.weights().items()}
    for other in (_without_memory(known), music_model(config(), seed=1)):
        other.load_weights(halves)
        found = other.state_dict()
        assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in halves.items())
        assert all(value.dtype == torch.float32 for value in found.values() if value.is_floating_point())


def test_weights_of_another_model_are_refused_by_name() -> None:
    model = music_model()
    weights = model.weights()
    del weights["clap.projection.bias"]
    with pytest.raises(ValueError, match=r"\['clap.projection.bias'\] missing and \[\] unknown"):
        model.load_weights(weights)


def test_a_config_whose_conditions_are_not_fused_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"expected the language model to fuse \['clap', 'description'\]"):
        MusicModelConfig(clap=ClapConfig())
    with pytest.raises(ValidationError, match=r"to fuse \[\], got .* \['description'\]"):
        MusicModelConfig(description=None)


def test_invalid_input_is_refused() -> None:
    model = music_model()
    with pytest.raises(ValueError, match="expected attributes of 2 items, got 1"):
        model(random_codes(2, 5), [FULL])
    with pytest.raises(ValueError, match=r"expected codes \[B, 3, T\], got \[1, 2, 5\]"):
        model(random_codes(1, 5, codebooks=2), [FULL])
    with pytest.raises(ValueError, match="expected a text encoder and a tokenizer"):
        MusicModel(config())
    narrow = MusicModelConfig(
        language_model=LanguageModelConfig(codebooks=3, cardinality=24, width=32, heads=4, layers=1),
        description=config().description,
    )
    words_only = MusicModel(narrow, text_encoder(), tokenizer())
    with pytest.raises(ValueError, match=r"expected conditions among \['description'\], got chroma in item 1"):
        words_only.prepare([Attributes("bass"), FULL])
    with pytest.raises(ValueError, match=r"expected conditions among \['description'\], got bpm in item 0"):
        words_only.prepare([Attributes("bass", fields={"bpm": 120.0})])
