"""One training step of an EnCodec, and the state of a training that can stop and continue bit for bit.

The network is transformers' `EncodecModel`. Its own forward pass gives the encoder no gradient, so here encoder and
decoder run around `train_quantizer`. The losses are EnCodec's (arXiv:2210.13438, 3.4): distances of waveform and
spectra, discriminators that learn against the codec, feature matching, commitment, and a balancer of the gradients.
Each can be left out.

Four departures from EnCodec make minutes of training on a CPU enough. All but the second are optional:

1. Weight normalisation can be folded into plain weights during training, because it takes much of a small network's
   time. The exported network has normalised weights again.
2. Convolutions are scaled first so that the output of each has unit variance on real sound (Mishkin and Matas,
   arXiv:1511.06422). Otherwise the biases of the initial network drown the signal, and latents depend on the input only
   after hundreds of steps.
3. The network can learn as a plain autoencoder first, so that k-means sets the codebooks on latents that already carry
   information.
4. The network can start as a linear transform of its sound (`start_as_transform`), so that latents carry information
   before the first step.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import EncodecModel

from model.codec.adversarial import AdversarialTraining
from model.codec.config import CodecTrainingConfig
from model.codec.losses import Balancer, ReconstructionLosses, weighted_sum
from model.codec.micro_batches import MicroBatchThreads, add_gradients, as_leaf, one_thread
from model.codec.network import fold_weight_norm, scale_activations, start_as_transform, with_weight_norm
from model.codec.quantizer import Quantized, start_codebooks, train_quantizer
from model.optim.precision import in_precision
from model.optim.train_state import (
    TrainState,
    check_moved,
    newest_share,
    parameter_checksums,
    step_seed,
)

DISCRIMINATORS, DISCRIMINATOR_STEPS, ROTATIONS = 1, 2, 3
"""Purposes of random draws other than those for codebooks; they are part of the seeds. `ROTATIONS` is for the
rotations of `start_as_transform`."""


@dataclass(frozen=True)
class CodecStepStats:
    """Figures of one step."""

    loss: float
    """The sum that was minimised; with a balancer, the sum of the losses as it scaled them."""
    losses: Mapping[str, float]
    """Each loss without its weight: `waveform` (L1, full scale), `spectral`, `commitment` and so on; `discriminator`,
    the loss of the discriminators, only if they were trained in this step."""
    learning_rate: float
    gradient_norm: float
    """2-norm of all gradients before clipping."""


class CodecTraining:
    """The training of a codec.

    Args:
        network: a network from `new_network`. Its weights are trained in place, unless `config.weight_norm` is set:
            then a copy is trained.
        config: what is minimised, and how.
        seed: seed of the random draws for codebooks and discriminators; every draw is a function of seed and step.
        batches: returns the segments [B, C, N] of a step; a function of the step alone.

    Raises:
        ValueError: the segments are shorter than a window of the losses or the discriminators.
    """

    def __init__(
        self, network: EncodecModel, config: CodecTrainingConfig, seed: int, batches: Callable[[int], Tensor]
    ) -> None:
        self.config, self.seed, self.batches = config, seed, batches
        device, settings = network.device, network.config
        first = batches(0)
        fold_weight_norm(network)
        with one_thread():  # the same start on any number of cores
            if config.start == "transform":
                sound = torch.cat([batches(i) for i in range(config.start_batches)])
                start_as_transform(network, sound, step_seed(seed, 0, ROTATIONS))
            else:
                scale_activations(network, first)
        if config.weight_norm:
            network = with_weight_norm(network, network.state_dict())
            network.to(device)  # type: ignore[arg-type]
        self.network = network.train()
        self.levels = [network.quantizer.get_num_quantizers_for_bandwidth(each) for each in settings.target_bandwidths]
        self.reconstruction_losses = ReconstructionLosses(settings.sampling_rate, config).to(device)
        self.train_state = TrainState(network, config.optimization)
        self._initial_checksums = parameter_checksums(network)
        self.adversarial = None
        if config.adversarial:
            seed = step_seed(self.seed, 0, DISCRIMINATORS)
            self.adversarial = AdversarialTraining(
                settings.audio_channels, config.adversarial, config.optimization, seed, device
            )
        self.weights = self.reconstruction_losses.weights | (self.adversarial.weights if self.adversarial else {})
        self.balancer = Balancer(self.weights, config.balancer, device) if config.balancer else None
        self.micro_batch_threads = MicroBatchThreads()
        self.average = {name: value.clone() for name, value in self._codebooks().items()}
        self._check_lengths(first.shape[-1])

    @property
    def updates(self) -> int:
        """Number of steps so far."""
        return self.train_state.updates

    @property
    def loss_names(self) -> tuple[str, ...]:
        """All names that `CodecStepStats.losses` may have."""
        return (*self.weights, "commitment", *(("discriminator",) if self.adversarial else ()))

    def threads(self) -> AbstractContextManager[None]:
        """Return a context with threads for micro-batches: steps within it are faster and give the same result."""
        return nullcontext() if self.config.part_size is None else self.micro_batch_threads.running()

    def step(self) -> CodecStepStats:
        """Take one step and return its figures. If the discriminators learn in this step, they do so first, from the
        same reconstruction as the codec.

        Raises:
            ValueError: too many steps in a row had gradients that were not finite.
        """
        step, config = self.updates, self.config
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        if step == config.quantizer_start:
            self._start(generator)
        original = self.batches(step)
        learn = self._learn if config.part_size is None else self._learn_in_micro_batches
        loss, values = learn(original, generator)
        stats = self.train_state.step_and_check()
        if self._averaged_codebooks and self.updates % config.optimization.ema_interval == 0:
            share = newest_share(self._averaged_codebooks, config.optimization.ema_decay)
            for name, value in self._codebooks().items():
                self.average[name].lerp_(value, share)
        numbers = torch.stack([loss, *values.values()]).tolist()
        return CodecStepStats(
            loss=numbers[0],
            losses=dict(zip(values, numbers[1:], strict=True)),
            learning_rate=stats.learning_rate,
            gradient_norm=float(stats.gradient_norm),
        )

    def _learn(self, original: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the gradients of the weights for a batch. Returns the sum that is minimised, and each loss."""
        precision = self.config.optimization.precision
        with in_precision(original.device, precision):
            latents = self.network.encoder(original)
        quantized = self._quantized(latents.float(), generator)
        with in_precision(original.device, precision):
            reconstruction = self.network.decoder(quantized.latents)
        reconstruction = reconstruction.float()[..., : original.shape[-1]]
        values: dict[str, Tensor] = {}
        if self.adversarial and self._discriminators_learn():
            values["discriminator"] = self.adversarial.step(reconstruction, original)
        losses = self.reconstruction_losses(reconstruction, original)
        if self.adversarial:
            losses |= self.adversarial.losses(reconstruction, original)
        loss = self._backward(losses, reconstruction, quantized.commitment)
        return loss, values | losses | {"commitment": quantized.commitment}

    def _learn_in_micro_batches(self, original: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Do what `_learn` does in micro-batches (parts). The sum that is minimised is the mean of the parts' losses,
        weighted by their numbers of segments."""
        network, precision = self.network, self.config.optimization.precision
        encoder, decoder = list(network.encoder.parameters()), list(network.decoder.parameters())
        size, run_all = self.config.part_size, self.micro_batch_threads.map
        assert size is not None

        def encode(micro_batch: Tensor) -> Tensor:
            with in_precision(micro_batch.device, precision):
                encoded: Tensor = network.encoder(micro_batch)
            return encoded.float()

        def decode(micro_batch: Tensor, latents: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
            latents = as_leaf(latents)
            with in_precision(micro_batch.device, precision):
                reconstruction = network.decoder(latents)
            losses = self.reconstruction_losses(reconstruction.float()[..., : micro_batch.shape[-1]], micro_batch)
            loss = weighted_sum(losses, self.weights) * (len(micro_batch) / len(original))
            return losses, torch.autograd.grad(loss, [latents, *decoder])

        def encode_back(encoded: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(encoded, encoder, gradient)

        micro_batches = original.split(size)
        encoded = run_all(encode, micro_batches)
        latents = as_leaf(torch.cat(encoded))
        quantized = self._quantized(latents, generator)
        decoded = run_all(decode, micro_batches, quantized.latents.split(size))
        commitment = self.config.commitment_weight * quantized.commitment
        latent_gradients = torch.cat([gradients[0] for _, gradients in decoded])
        (commitment + (quantized.latents * latent_gradients).sum()).backward()
        assert latents.grad is not None
        add_gradients(decoder, [gradients[1:] for _, gradients in decoded])
        add_gradients(encoder, run_all(encode_back, encoded, latents.grad.split(size)))
        shares = torch.tensor(
            [len(micro_batch) / len(original) for micro_batch in micro_batches], device=original.device
        )
        losses = {
            name: (shares * torch.stack([losses[name].detach() for losses, _ in decoded])).sum()
            for name in self.weights
        }
        loss = weighted_sum(losses, self.weights) + commitment.detach()
        return loss, losses | {"commitment": quantized.commitment}

    def _quantized(self, latents: Tensor, generator: torch.Generator) -> Quantized:
        """Quantise the latents; before step `quantizer_start`, return them unchanged, without codes."""
        if self.updates < self.config.quantizer_start:
            codes = torch.zeros(latents.shape[0], 0, latents.shape[2], dtype=torch.long)
            return Quantized(latents, codes, latents.new_zeros(()))
        return train_quantizer(self.network.quantizer, latents, self.config.quantizer, generator, self.levels)

    def _discriminators_learn(self) -> bool:
        assert self.config.adversarial is not None
        generator = torch.Generator().manual_seed(step_seed(self.seed, self.updates, DISCRIMINATOR_STEPS))
        return float(torch.rand((), generator=generator)) < self.config.adversarial.update_probability

    def _backward(self, losses: Mapping[str, Tensor], reconstruction: Tensor, commitment: Tensor) -> Tensor:
        """Compute the gradients of the weights from all losses. Returns the sum that is minimised."""
        weighted = self.config.commitment_weight * commitment
        if self.balancer is None:
            loss = weighted_sum(losses, self.weights) + weighted
            loss.backward()
            return loss.detach()
        balanced = self.balancer(losses, reconstruction)
        reconstruction.backward(balanced.gradient, retain_graph=weighted.requires_grad)
        if weighted.requires_grad:
            weighted.backward()
        return balanced.loss + weighted.detach()

    @torch.no_grad()
    def _start(self, generator: torch.Generator) -> None:
        """Set the codebooks from the batches just before this step, which have negative numbers at step 0."""
        latents = [self.network.encoder(self.batches(self.updates - 1 - i)) for i in range(self.config.start_batches)]
        start_codebooks(self.network.quantizer, torch.cat(latents), self.config.quantizer, generator)

    @torch.no_grad()
    def untrained(self) -> EncodecModel:
        """Return a copy of the untrained network, with codebooks set from the first batches, as a baseline.

        Raises:
            ValueError: training has begun, or the first batches have fewer frames than a codebook has entries.
        """
        if self.updates > 0:
            raise ValueError(f"expected a training before its first step, got one after {self.updates} steps")
        copy = fold_weight_norm(with_weight_norm(self.network, self.network.state_dict()))
        latents = torch.cat([self.network.encoder(self.batches(i)) for i in range(self.config.start_batches)]).cpu()
        start_codebooks(copy.quantizer, latents, self.config.quantizer, torch.Generator().manual_seed(self.seed))
        copy.eval()
        return copy

    def trained(self) -> EncodecModel:
        """Return a copy of the network as it would be saved now: averaged, with normalised weights, in evaluation mode.

        `save_pretrained` writes this network and `from_pretrained` reads it back, so evaluate this one, not the network
        in training.
        """
        with self.train_state.averaged():
            codebooks = self.average if self._averaged_codebooks else {}
            network = with_weight_norm(self.network, self.network.state_dict() | codebooks)
        network.eval()
        return network

    def check_moved(self) -> None:
        """Check that the training changed the network.

        Raises:
            ValueError: all averaged weights are the same as before the first step.
        """
        with self.train_state.averaged():
            check_moved(self._initial_checksums, self.network, self.config.optimization)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors on the CPU."""
        state = {f"codebooks.{name}": value.detach().cpu().clone() for name, value in self.average.items()}
        for kind, part in self._parts():
            state |= {f"{kind}.{name}": value for name, value in part.state().items()}
        return self.train_state.state() | state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load a state that `state` returned.

        Raises:
            ValueError: the state is that of another network or of other losses.
        """
        self.train_state.load(state)
        for name, value in self.average.items():
            value.copy_(state[f"codebooks.{name}"])
        for kind, part in self._parts():
            prefix = f"{kind}."
            part.load({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})

    def _parts(self) -> Iterator[tuple[str, Balancer | AdversarialTraining]]:
        """Yield the other parts of the training that have a state, with their names."""
        if self.balancer:
            yield "balancer", self.balancer
        if self.adversarial:
            yield "adversarial", self.adversarial

    @property
    def _averaged_codebooks(self) -> int:
        """How often the codebooks have been averaged; this begins when they have been set."""
        interval = self.config.optimization.ema_interval
        return max(0, self.updates // interval - self.config.quantizer_start // interval)

    def _codebooks(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.network.state_dict().items() if name.endswith("codebook.embed")}

    def _check_lengths(self, samples: int) -> None:
        shortest = self.reconstruction_losses.shortest
        if self.adversarial:
            shortest = max(shortest, self.adversarial.discriminators.shortest)
        if samples < shortest:
            raise ValueError(
                f"expected segments of at least {shortest} samples, the longest window of the losses and "
                f"discriminators, got {samples}"
            )
