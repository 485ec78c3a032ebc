"""A codec's training against discriminators, with balanced gradients: exact resume, every kind of network, no NaN."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from model.codec.codec import Codec
from model.codec.config import (
    AdversarialConfig,
    BalancerConfig,
    CodecConfig,
    CodecTrainingConfig,
    PeriodDiscriminatorConfig,
    QuantizerConfig,
    ScaleDiscriminatorConfig,
    SpectralLossConfig,
    SpectrogramDiscriminatorConfig,
    StftLossConfig,
)
from model.codec.evaluation import evaluate_codec
from model.codec.network import new_network
from model.codec.training import CodecTraining
from model.kernels.processor import multiplies_bfloat16
from model.optim.config import OptimizationConfig
from tests.model.codec.test_training import NETWORK, equal, tones

DISCRIMINATORS = AdversarialConfig(
    spectrogram=SpectrogramDiscriminatorConfig(filters=4, ffts=(256, 128), hops=(64, 32), windows=(256, 128)),
    learning_rate=1e-3,
)
ALL_DISCRIMINATORS = DISCRIMINATORS.model_copy(
    update={
        "period": PeriodDiscriminatorConfig(periods=(2, 3), filters=(4, 8, 8)),
        "scale": ScaleDiscriminatorConfig(scales=2, filters=4, strides=(4, 4), largest=16),
    }
)


def config(steps: int = 8, **changes: object) -> CodecTrainingConfig:
    """The published losses and balancer, small discriminators and faster averages; `precision` goes to the
    optimiser."""
    optimization = OptimizationConfig(
        steps=steps,
        learning_rate=3e-3,
        floor=1.0,
        warmup_steps=0,
        betas=(0.5, 0.9),
        weight_decay=0.0,
        gradient_norm=None,
        ema_decay=0.5,
        ema_interval=1,
        precision=changes.pop("precision", "float32"),  # type: ignore[arg-type]
    )
    values = {
        "optimization": optimization,
        "adversarial": DISCRIMINATORS,
        "balancer": BalancerConfig(decay=0.9),
        "spectral": SpectralLossConfig(range_start=6, range_end=9, mel_bands=16),
        "quantizer": QuantizerConfig(decay=0.9),
        "start_batches": 4,
    }
    return CodecTrainingConfig(**(values | changes))


def sides(step: int) -> Tensor:
    """A stereo batch with a different chord on each side."""
    return torch.cat([tones(step), tones(10_000 + step)], dim=1)


def begin(
    settings: CodecTrainingConfig, network: CodecConfig = NETWORK, seed: int = 0, batches: Callable = tones
) -> CodecTraining:
    return CodecTraining(new_network(network, seed), settings, seed, batches)


def finite(state: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


def test_a_training_with_discriminators_and_balancer_resumes_bit_for_bit() -> None:
    settings = config(
        adversarial=ALL_DISCRIMINATORS.model_copy(update={"update_probability": 0.6}),
        quantizer_start=2,
        quantizer=QuantizerConfig(decay=0.9, dropout=0.5),
    )
    undisturbed, steps, kept = begin(settings), [], {}
    for number in range(1, 8):
        steps.append(undisturbed.step())
        if number in (1, 3, 5):
            kept[number] = {name: value.clone() for name, value in undisturbed.state().items()}
    for number, state in kept.items():
        second = begin(settings)
        second.load(state)
        assert [second.step() for _ in range(7 - number)] == steps[number:]
        assert equal(second.state(), undisturbed.state())
        assert equal(dict(second.trained().state_dict()), dict(undisturbed.trained().state_dict()))


@pytest.mark.parametrize(
    ("channels", "causal"),
    [
        (1, True),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_networks_of_every_kind_learn_against_discriminators_within_40_steps(channels: int, causal: bool) -> None:
    network = NETWORK.model_copy(update={"causal": causal, "channels": channels, "convolutional_shortcut": causal})
    batch = tones if channels == 1 else sides
    training = begin(config(steps=40), network, batches=batch)
    held_out = [batch(-1000 - i)[:1] for i in range(4)]
    before = evaluate_codec(Codec(training.untrained()), held_out)
    steps = [training.step() for _ in range(40)]
    after = evaluate_codec(Codec(training.trained()), held_out)
    # With the published balance, the spectra improve first; the phase, and so the waveform, takes thousands of steps.
    first, last = ([step.losses["spectral"] for step in part] for part in (steps[:10], steps[-10:]))
    assert sum(last) < 0.6 * sum(first)
    assert after.fidelity.multi_scale_mel_distance < before.fidelity.multi_scale_mel_distance - 5
    assert after.fidelity.log_mel_distance < before.fidelity.log_mel_distance - 5


def test_frames_of_a_causal_codec_do_not_depend_on_later_sound() -> None:
    training = begin(config(), NETWORK.model_copy(update={"causal": True}))
    for _ in range(3):
        training.step()
    codec = Codec(training.trained())
    wav, later = tones(50)[:1], tones(50)[:1].clone()
    later[..., 1600:] = tones(51)[:1, :, 1600:]
    codes, others = codec.encode(wav), codec.encode(later)
    assert torch.equal(codes[..., :20], others[..., :20])
    assert not torch.equal(codes, others)
    torch.testing.assert_close(codec.decode(codes)[..., :1600], codec.decode(others)[..., :1600])


def test_the_trained_encoder_without_weight_norm_computes_what_the_network_in_training_computes() -> None:
    settings = config(8)
    still = settings.optimization.model_copy(update={"ema_decay": 0.0})
    training = begin(settings.model_copy(update={"optimization": still}))
    for _ in range(4):
        training.step()
    wav = tones(50)
    with torch.no_grad():
        expected = training.network.encoder(wav)
        torch.testing.assert_close(training.trained().encoder(wav), expected, rtol=1e-4, atol=1e-5)


def test_discriminators_learn_as_often_as_their_update_probability_says() -> None:
    def turns(probability: float) -> list[bool]:
        settings = config(adversarial=DISCRIMINATORS.model_copy(update={"update_probability": probability}))
        training = begin(settings)
        found = []
        for _ in range(200):
            found.append(training._discriminators_learn())
            training.train_state.updates += 1
        return found

    assert all(turns(1.0))
    # Two thirds of 200, within about three standard deviations of 6.7.
    assert 110 < sum(turns(2 / 3)) < 157
    training = begin(config(adversarial=DISCRIMINATORS.model_copy(update={"update_probability": 0.5})))
    steps = [training.step() for _ in range(6)]
    assert ["discriminator" in step.losses for step in steps] == turns(0.5)[:6]
    assert training.adversarial is not None
    assert training.adversarial.train_state.updates == sum(turns(0.5)[:6])


def test_a_step_reports_exactly_the_losses_that_have_a_weight() -> None:
    settings = config(
        adversarial=ALL_DISCRIMINATORS,
        stft_weight=1.0,
        stft=StftLossConfig(ffts=(256,), hops=(64,), windows=(256,)),
        si_snr_weight=0.1,
        waveform_weight=0.0,
    )
    training = begin(settings)
    step = training.step()
    names = {f"{name}_{kind}" for name in ("adversarial", "features") for kind in ("spectrogram", "period", "scale")}
    assert set(step.losses) == {"spectral", "stft", "si_snr", "commitment", "discriminator", *names}
    assert set(step.losses) == set(training.loss_names)


def test_without_a_balancer_the_loss_is_the_weighted_sum() -> None:
    settings = config(balancer=None, waveform_weight=3.0, spectral_weight=0.5, commitment_weight=2.0)
    training = begin(settings)
    step = training.step()
    weights = training.weights | {"commitment": 2.0}
    expected = sum(weight * step.losses[name] for name, weight in weights.items())
    assert step.loss == pytest.approx(expected, rel=1e-5)


def test_training_in_bfloat16_lowers_the_loss_and_keeps_codebooks_in_float32() -> None:
    exact, narrow = begin(config(steps=30)), begin(config(steps=30, precision="bfloat16"))
    first, other = exact.step(), narrow.step()
    assert other.losses["spectral"] == pytest.approx(first.losses["spectral"], rel=0.02)
    assert (other.losses["spectral"] != first.losses["spectral"]) == multiplies_bfloat16()
    steps = [narrow.step() for _ in range(29)]
    assert steps[-1].losses["spectral"] < other.losses["spectral"]
    assert finite(narrow.state())
    assert {value.dtype for name, value in narrow.state().items() if "codebook.embed" in name} == {torch.float32}


def test_dropout_chooses_among_the_bandwidths_and_transformers_encodes_with_each_of_them() -> None:
    network = NETWORK.model_copy(update={"codebooks": 6, "bandwidths": (1, 3)})
    training = begin(config(quantizer=QuantizerConfig(decay=0.9, dropout=1.0)), network)
    assert training.levels == [1, 3, 6]
    for _ in range(3):
        training.step()
    trained = training.trained()
    wav = tones(60)
    for number, bandwidth in zip((1, 3, 6), trained.config.target_bandwidths, strict=True):
        codes = trained.encode(wav, bandwidth=bandwidth).audio_codes[0]
        assert codes.shape[1] == number
        assert torch.equal(codes, Codec(training.trained(), codebooks=number).encode(wav))


@pytest.mark.parametrize("bandwidths", [(3, 1), (0, 2), (3,), (1, 1)])
def test_invalid_bandwidths_are_refused(bandwidths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected ascending bandwidths of 1 to 2 codebooks"):
        CodecConfig.model_validate(NETWORK.model_dump() | {"bandwidths": bandwidths})


def test_segments_shorter_than_a_window_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"expected segments of at least 256 samples, .* got 160"):
        begin(config(), batches=lambda step: tones(step)[..., :160])


def test_a_state_without_discriminators_or_balancer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the averages of 4 losses, got 0"):
        begin(config()).load(begin(config(adversarial=None, balancer=None)).state())
    with pytest.raises(ValueError, match=r"expected the state of \d+ parameters, got 0"):
        begin(config(balancer=None)).load(begin(config(adversarial=None, balancer=None)).state())


@pytest.mark.slow
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("first", range(0, 50, 10))
def test_all_numbers_stay_finite_in_the_first_100_steps_of_50_seeds(first: int, published: bool) -> None:
    network = NETWORK.model_copy(update={"filters": 2, "width": 8})
    plain = {"adversarial": None, "balancer": None, "weight_norm": False, "waveform_weight": 20.0}
    settings = config(steps=100, **({} if published else plain))
    for seed in range(first, first + 10):
        # A silent item in each batch, as real recordings have.
        training = begin(settings, network, seed, lambda step, seed=seed: silent_first(tones(1000 * seed + step)))
        steps = [training.step() for _ in range(100)]
        assert all(value == value for step in steps for value in (step.loss, *step.losses.values())), seed
        assert finite(training.state()), seed
        assert training.train_state.skipped_steps == 0


def silent_first(batch: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(batch[:1]), batch[1:]])[..., :800]
