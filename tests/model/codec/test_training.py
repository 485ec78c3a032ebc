"""A codec's training: it resumes exactly, exports exactly, and learns."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import EncodecModel

from model.codec.codec import Codec
from model.codec.config import CodecConfig, CodecTrainingConfig, QuantizerConfig, SpectralLossConfig
from model.codec.evaluation import evaluate_codec
from model.codec.network import fold_weight_norm, new_network, scale_activations
from model.codec.training import CodecTraining
from model.optim.train_state import OptimizationConfig, step_seed

NETWORK = CodecConfig(
    sample_rate=8_000, filters=4, ratios=(4, 5, 4), width=16, lstm_layers=1, codebooks=3, cardinality=16
)


def tones(step: int, items: int = 4, samples: int = 3_200) -> Tensor:
    """Chords of two random harmonic tones [B, 1, N], a function of the step."""
    generator = torch.Generator().manual_seed(step_seed(1, step))
    time = torch.arange(samples) / 8_000
    pitch = 110 * 2 ** torch.rand(items, 2, 1, generator=generator).mul(2)
    phase = torch.rand(items, 2, 1, generator=generator) * 2 * math.pi
    harmonics = sum(torch.sin(n * (2 * math.pi * pitch * time + phase)) / n for n in (1, 2, 3))
    return torch.as_tensor(harmonics).sum(1, keepdim=True) * 0.15


def config(steps: int, quantizer_start: int = 3, ema_decay: float = 0.5) -> CodecTrainingConfig:
    return CodecTrainingConfig(
        optimization=OptimizationConfig(
            steps=steps,
            learning_rate=3e-3,
            warmup_steps=3,
            weight_decay=0.0,
            ema_decay=ema_decay,
            ema_interval=1,
            precision="float32",
        ),
        quantizer=QuantizerConfig(decay=0.9, dropout=0.2),
        quantizer_start=quantizer_start,
        start_batches=4,
        adversarial=None,
        balancer=None,
        weight_norm=False,
        waveform_weight=50.0,
        spectral_weight=1.0,
        spectral=SpectralLossConfig(
            range_start=7, range_end=10, mel_bands=24, linear_weight=0.0, logarithm="absolute", normalized=False
        ),
    )


def begin(steps: int = 12, network: CodecConfig = NETWORK, seed: int = 0) -> CodecTraining:
    return CodecTraining(new_network(network, seed), config(steps), seed, tones)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_resumed_training_ends_with_the_same_weights_bit_for_bit() -> None:
    undisturbed, kept = begin(), []
    for step in range(1, 13):
        undisturbed.step()
        if step in (1, 3, 4, 7):
            kept.append({name: value.clone() for name, value in undisturbed.state().items()})
    for state in kept:
        second = begin()
        second.load(state)
        while second.updates < 12:
            second.step()
        assert equal(second.state(), undisturbed.state())
        assert equal(dict(second.trained().state_dict()), dict(undisturbed.trained().state_dict()))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_micro_batches_learn_what_the_whole_batch_learns(size: int) -> None:
    whole, parts = begin(), begin()
    parts.config = parts.config.model_copy(update={"micro_batch_size": size})
    with parts.threads():
        for _ in range(5):
            expected, got = whole.step(), parts.step()
            assert got.losses == pytest.approx(expected.losses, rel=1e-3)
            assert got.loss == pytest.approx(expected.loss, rel=1e-3)
            assert got.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-2)


def test_micro_batches_give_the_same_bits_with_one_thread_and_with_three() -> None:
    before, states = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            training = begin()
            training.config = training.config.model_copy(update={"micro_batch_size": 1})
            with training.threads():
                assert torch.get_num_threads() == 1
                for _ in range(5):
                    training.step()
            assert torch.get_num_threads() == threads
            states.append(training.state())
    finally:
        torch.set_num_threads(before)
    assert equal(*states)


def test_losses_that_need_the_whole_batch_turn_micro_batches_off() -> None:
    assert CodecTrainingConfig(micro_batch_size=4).part_size is None
    assert CodecTrainingConfig(micro_batch_size=4, adversarial=None).part_size is None
    assert CodecTrainingConfig(micro_batch_size=4, adversarial=None, balancer=None).part_size == 4


def test_another_seed_gives_other_weights() -> None:
    trainings = [begin(seed=seed) for seed in (0, 1)]
    for training in trainings:
        training.step()
    assert not equal(trainings[0].state(), trainings[1].state())


def test_the_trained_codec_encodes_identically_after_transformers_saved_and_loaded_it(tmp_path: Path) -> None:
    training = begin()
    for _ in range(6):
        training.step()
    trained = training.trained()
    trained.save_pretrained(tmp_path)
    loaded = EncodecModel.from_pretrained(tmp_path)
    wav = tones(99)
    with torch.no_grad():
        mine, theirs = trained.encode(wav).audio_codes, loaded.encode(wav).audio_codes
        assert torch.equal(mine, theirs)
        assert torch.equal(trained.decode(mine, [None])[0], loaded.decode(theirs, [None])[0])
    assert theirs.shape == (1, 4, 3, 40)
    assert len(theirs.unique()) > 4


def test_the_trained_encoder_computes_what_the_network_in_training_computes() -> None:
    training = CodecTraining(new_network(NETWORK, 0), config(8, ema_decay=0.0), 0, tones)
    for _ in range(8):
        training.step()
    wav = tones(50)
    with torch.no_grad():
        latents = training.network.encoder(wav)
        torch.testing.assert_close(training.trained().encoder(wav), latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 6, 10, 13])
def test_averaged_codebooks_are_the_unbiased_average_since_the_codebooks_started(steps: int) -> None:
    training = begin(steps)
    slower = training.config.optimization.model_copy(update={"ema_interval": 5})
    training.config = training.config.model_copy(update={"optimization": slower})
    training.train_state.config = slower
    seen = []
    for _ in range(steps):
        training.step()
        seen.append(training.network.state_dict()["quantizer.layers.0.codebook.embed"].clone())
    taken = seen[4::5] or seen[-1:]
    shares = [0.5 ** (len(taken) - i) for i in range(1, len(taken) + 1)]
    expected = sum(share * value for share, value in zip(shares, taken, strict=True)) / sum(shares)
    kept = training.trained().state_dict()["quantizer.layers.0.codebook.embed"]
    torch.testing.assert_close(kept, torch.as_tensor(expected), rtol=1e-5, atol=1e-7)


def test_training_beats_the_untrained_codec_on_unseen_sound() -> None:
    training = CodecTraining(new_network(NETWORK, 0), config(80, 20, 0.0), 0, tones)
    held_out = [tones(-1000 - i, items=1, samples=8_000) for i in range(4)]
    before = evaluate_codec(Codec(training.untrained()), held_out)
    for _ in range(80):
        training.step()
    after = evaluate_codec(Codec(training.trained()), held_out)
    assert after.fidelity.si_snr > before.fidelity.si_snr + 3
    assert after.fidelity.log_mel_distance < before.fidelity.log_mel_distance - 1
    assert max(after.perplexity) > 4


def test_before_the_codebooks_start_the_commitment_loss_is_zero() -> None:
    training = begin()
    steps = [training.step() for _ in range(5)]
    assert [step.losses["commitment"] == 0 for step in steps] == [True, True, True, False, False]


def test_the_encoder_gets_a_gradient_through_the_quantiser() -> None:
    training = begin()
    for _ in range(4):
        training.step()
    before = training.network.encoder.layers[0].conv.weight.clone()
    training.step()
    assert not torch.equal(before, training.network.encoder.layers[0].conv.weight)


def test_scaled_activations_have_unit_variance_and_decoded_sound_is_as_loud_as_the_input() -> None:
    network = fold_weight_norm(new_network(NETWORK, 0))
    wav = tones(0)
    scale_activations(network, wav)
    with torch.no_grad():
        latents = network.encoder(wav)
        assert float(latents.std()) == pytest.approx(1.0, abs=0.02)
        assert float(network.decoder(latents).std()) == pytest.approx(float(wav.std()), rel=0.05)


def test_a_new_network_depends_on_its_seed_and_leaves_the_global_generator_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (new_network(NETWORK, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert equal(dict(first.state_dict()), dict(second.state_dict()))
    assert not equal(dict(first.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize(
    ("codebooks", "cardinality", "ratios"), [(1, 2, (8, 5)), (8, 1024, (8, 5, 4, 2)), (4, 2048, (7, 3))]
)
def test_a_new_network_has_the_requested_codebooks(codebooks: int, cardinality: int, ratios: tuple[int, ...]) -> None:
    network = new_network(
        NETWORK.model_copy(update={"codebooks": codebooks, "cardinality": cardinality, "ratios": ratios, "filters": 2}),
        0,
    )
    assert network.config.num_quantizers == len(network.quantizer.layers) == codebooks
    assert network.quantizer.layers[0].codebook.embed.shape[0] == cardinality


def test_a_cardinality_that_is_not_a_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two for cardinality, got 300"):
        new_network(NETWORK.model_copy(update={"cardinality": 300}), 0)


def test_the_state_of_another_network_is_refused() -> None:
    other = begin(network=NETWORK.model_copy(update={"lstm_layers": 2}))
    with pytest.raises(ValueError, match="expected the state of"):
        begin().load(other.state())
