"""One training step of an EnCodec, and the state of a training that can stop and go on bit for bit.

The network is transformers' `EncodecModel`, whose own forward pass gives the encoder no gradient: here encoder and
decoder are run around `train_quantizer`. The loss is the reconstruction part of EnCodec's (arXiv:2210.13438, 3.4): L1
of the waveform, multi-scale spectral, commitment.

Three departures make minutes on a CPU enough. Weight normalisation is folded into plain weights while training (it
costs a small network much of its time) and comes back on export. Convolutions start scaled so that each gives unit
variance on real sound (Mishkin and Matas, arXiv:1511.06422): by default the biases of the initial network drown the
signal, and hundreds of steps go by before a latent depends on the input. And the network can learn as a plain
autoencoder first, so that codebooks start by k-means on latents that already mean something.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import EncodecConfig, EncodecModel

from model.codec.configuration import CodecConfig, CodecTrainingConfig
from model.codec.losses import MultiScaleSpectralLoss
from model.codec.quantizer import start_codebooks, train_quantizer
from model.training import Optimization, step_seed


@dataclass(frozen=True)
class CodecStep:
    """What one step was like."""

    loss: float
    waveform: float
    """L1, full scale."""
    spectral: float
    commitment: float
    learning_rate: float
    gradient_norm: float


def new_network(config: CodecConfig, seed: int) -> EncodecModel:
    """An untrained EnCodec; its codebooks are zeros. The process's random state is left as it was.

    Raises:
        ValueError: a cardinality that is no power of two.
    """
    bits = config.cardinality.bit_length() - 1
    if 2**bits != config.cardinality:
        raise ValueError(f"expected a power of two for cardinality, got {config.cardinality}")
    # transformers knows the number of codebooks only through kilobits a second, rounded down.
    kilobits = config.codebooks * bits * math.ceil(config.sample_rate / config.hop) / 1000
    settings = EncodecConfig(
        sampling_rate=config.sample_rate,
        audio_channels=config.channels,
        num_filters=config.filters,
        num_residual_layers=config.residual_layers,
        upsampling_ratios=list(config.ratios),
        hidden_size=config.width,
        num_lstm_layers=config.lstm_layers,
        use_causal_conv=config.causal,
        use_conv_shortcut=False,
        codebook_size=config.cardinality,
        target_bandwidths=[kilobits],
    )
    if settings.num_quantizers != config.codebooks:
        raise AssertionError(f"{kilobits} kbit/s gives {settings.num_quantizers} codebooks, not {config.codebooks}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EncodecModel(settings)


def fold_weight_norm(network: EncodecModel) -> EncodecModel:
    """Replace normalised weights by plain ones, in place: the same function, faster."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return network


@torch.no_grad()
def scale_activations(network: EncodecModel, wav: Float[Tensor, "B C N"]) -> None:
    """Scale every convolution, in order, so that it gives unit variance on `wav`, with no bias; and the last one so
    that the network's first answers are as loud as `wav`. Expects plain weights (`fold_weight_norm`)."""

    def rescaled(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
        assert module.bias is not None
        deviation = (output - module.bias[:, None]).std().clamp(min=1e-8)
        module.weight.div_(deviation)
        output = (output - module.bias[:, None]) / deviation
        module.bias.zero_()
        return output

    hooks = [
        module.register_forward_hook(rescaled)
        for module in network.modules()
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
    ]
    try:
        network.decoder(network.encoder(wav))
    finally:
        for hook in hooks:
            hook.remove()
    last = [module for module in network.decoder.modules() if isinstance(module, nn.Conv1d)][-1]
    last.weight.mul_(wav.std())


class CodecTraining:
    """A training in progress.

    Args:
        network: from `new_network`; its weights are trained in place.
        config: what is minimised.
        seed: of the draws that codebooks make; every draw is a function of it and the step.
        batch: the segments [B, C, N] of a step, a function of the step alone.
    """

    def __init__(
        self, network: EncodecModel, config: CodecTrainingConfig, seed: int, batch: Callable[[int], Tensor]
    ) -> None:
        self.network = fold_weight_norm(network).train()
        self.config, self.seed, self.batch = config, seed, batch
        scale_activations(network, batch(0))
        self.spectral = MultiScaleSpectralLoss(network.config.sampling_rate, config.spectral).to(network.device)
        self.optimization = Optimization(network, config.optimization)
        self.average = {name: value.clone() for name, value in self._codebooks().items()}

    @property
    def step(self) -> int:
        """Steps done."""
        return self.optimization.step

    def advance(self) -> CodecStep:
        """Do one step.

        Raises:
            ValueError: too many steps in a row without finite gradients.
        """
        step, config, network = self.step, self.config, self.network
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        if step == config.quantizer_start:
            self._start(generator)
        original = self.batch(step)
        latents = network.encoder(original)
        if step < config.quantizer_start:
            quantized, commitment = latents, latents.new_zeros(())
        else:
            result = train_quantizer(network.quantizer, latents, config.quantizer, generator)
            quantized, commitment = result.latents, result.commitment
        reconstruction = network.decoder(quantized)[..., : original.shape[-1]]
        waveform = F.l1_loss(reconstruction, original)
        spectral = self.spectral(reconstruction, original)
        loss = (
            config.waveform_weight * waveform
            + config.spectral_weight * spectral
            + config.commitment_weight * commitment
        )
        loss.backward()
        update = self.optimization.update()
        if self.step % config.optimization.ema_interval == 0:
            for name, value in self._codebooks().items():
                # Until they have started, the codebooks hold nothing to average.
                started = step > config.quantizer_start
                self.average[name].lerp_(value, 1 - config.optimization.ema_decay if started else 1.0)
        return CodecStep(
            loss=float(loss.detach()),
            waveform=float(waveform.detach()),
            spectral=float(spectral.detach()),
            commitment=float(commitment.detach()),
            learning_rate=update.learning_rate,
            gradient_norm=update.gradient_norm,
        )

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        """Start the codebooks from the batches just before this step (before step 0: numbered below it)."""
        latents = [self.network.encoder(self.batch(self.step - 1 - i)) for i in range(self.config.start_batches)]
        start_codebooks(self.network.quantizer, torch.cat(latents), self.config.quantizer, generator)

    @torch.no_grad()
    def untrained(self) -> EncodecModel:
        """A copy of the network as it is now, with codebooks started from the first batches: what training is to beat.

        Raises:
            ValueError: training has begun.
        """
        if self.step > 0:
            raise ValueError(f"expected a training that has not begun, got one after {self.step} steps")
        copy = EncodecModel(self.network.config)
        copy.load_state_dict(self._normalised(self.network.state_dict()))
        fold_weight_norm(copy)
        latents = torch.cat([self.network.encoder(self.batch(i)) for i in range(self.config.start_batches)]).cpu()
        start_codebooks(copy.quantizer, latents, self.config.quantizer, torch.Generator().manual_seed(self.seed))
        return copy.eval()

    def trained(self) -> EncodecModel:
        """A copy of the network as it would be kept now: averaged, weights normalised again, in evaluation mode.

        It is what `save_pretrained` writes and `from_pretrained` reads back: judge this one, not the one in training.
        """
        with self.optimization.averaged():
            state = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        copy = EncodecModel(self.network.config)
        copy.load_state_dict(self._normalised(state | self.average))
        return copy.eval()

    def _normalised(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of plain weights as one of normalised weights: direction as it is, and length."""
        found = {name: value.detach().cpu() for name, value in state.items()}
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                weight = found.pop(f"{name}.weight")
                length = weight.square().sum(dim=tuple(range(1, weight.ndim)), keepdim=True).sqrt()
                found[f"{name}.parametrizations.weight.original0"] = length
                found[f"{name}.parametrizations.weight.original1"] = weight
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors on the CPU."""
        averages = {f"codebooks.{name}": value.detach().cpu().clone() for name, value in self.average.items()}
        return self.optimization.state() | averages

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state that `state` gave.

        Raises:
            ValueError: it is the state of another network.
        """
        self.optimization.load(state)
        for name, value in self.average.items():
            value.copy_(state[f"codebooks.{name}"])

    def _codebooks(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.network.state_dict().items() if name.endswith("codebook.embed")}
