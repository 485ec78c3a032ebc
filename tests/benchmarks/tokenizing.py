"""Codes of a recording, and the recording from its codes, against transformers' EnCodec on the same weights:
`python -m tests.benchmarks.tokenizing`.

The published shape of EnCodec at 32 kHz with random weights. That codes and samples are equal comes before any time.
The limit is the time of the network's convolutions and recurrent layers at the rate that the device multiplies large
matrices, in this run; a convolution by fewer products than it has can stay below it.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import EncodecConfig, EncodecModel

from model.codec.codec import Codec
from tests.benchmarks.limits import limits
from tests.benchmarks.results import Figure, Report
from tests.benchmarks.running import alone, options
from tests.benchmarks.timing import clock_of, median_seconds

SAMPLE_RATE = 32_000
LEAST_EQUAL = 0.999
LARGEST_DIFFERENCE = 1e-4
"""Largest difference of decoded samples, full scale 1."""
CHECKED_SECONDS = 10.0
"""Length of the compared part: less than a window, so that neither side has a seam."""
SECONDS = {"cpu": 10.0, "cuda": 600.0}
"""Length of the recording on each kind of device."""
RATIO_GOAL, SPEED_GOAL = 2.5, 1500.0
"""Goals: on a processor, the speed relative to transformers; on an accelerator, the multiple of real time."""


def network_config(filters: int) -> EncodecConfig:
    """The published shape of EnCodec at 32 kHz, except for the number of filters, which is 64 there."""
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        num_filters=filters,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        codebook_dim=128,
        hidden_size=128,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
        chunk_length_s=None,
    )


def networks(device: str, filters: int) -> tuple[EncodecModel, EncodecModel]:
    """Two networks with the same weights: one for transformers, and one that `Codec` may change."""
    config = network_config(filters)
    torch.manual_seed(0)
    first, second = EncodecModel(config).eval(), EncodecModel(config).eval()
    for layer in first.quantizer.layers:
        layer.codebook.embed.normal_()
    second.load_state_dict(first.state_dict())
    return first.to(device), second.to(device)


class Both:
    """The two sides, and a recording."""

    def __init__(self, device: str, filters: int, seconds: float) -> None:
        self.peer, network = networks(device, filters)
        self.codec = Codec(network, device)
        noise = torch.randn(1, round(SAMPLE_RATE * seconds), generator=torch.Generator().manual_seed(1))
        self.wav, self.device = 0.3 * noise, device
        self.codes = self.encode_ours(self.wav)

    def encode_theirs(self, wav: Tensor) -> Tensor:
        with torch.no_grad():
            return self.peer.encode(wav[None].to(self.device), return_dict=False)[0][0, 0].cpu()  # type: ignore[index]

    def encode_ours(self, wav: Tensor) -> Tensor:
        return self.codec.encode_track(wav)

    def decode_theirs(self, codes: Tensor) -> Tensor:
        with torch.no_grad():
            return self.peer.decode(codes[None, None].to(self.device), [None], return_dict=False)[0][0].cpu()

    def decode_ours(self, codes: Tensor) -> Tensor:
        return self.codec.decode_track(codes)

    def equal_codes(self) -> float:
        """Share of equal codes of both sides for a part of the recording."""
        wav = self.wav[:, : round(SAMPLE_RATE * CHECKED_SECONDS)]
        share = float((self.encode_theirs(wav) == self.encode_ours(wav)).float().mean())
        if share < LEAST_EQUAL:
            raise SystemExit(f"expected {LEAST_EQUAL:.1%} of the codes to be equal, got {share:.2%}")
        return share

    def sample_difference(self) -> float:
        """Largest difference of the samples that both sides decode from a part of the codes."""
        codes = self.codes[:, : round(CHECKED_SECONDS * self.codec.frame_rate)]
        difference = float((self.decode_theirs(codes) - self.decode_ours(codes)).abs().max())
        if difference > LARGEST_DIFFERENCE:
            raise SystemExit(f"expected samples at most {LARGEST_DIFFERENCE} apart, got {difference}")
        return difference

    def flops(self) -> tuple[int, int]:
        """Floating-point operations of encoding and of decoding a second of sound, as plain products."""
        with FlopCounterMode(display=False) as encoding:
            self.encode_theirs(self.wav[:, :SAMPLE_RATE])
        with FlopCounterMode(display=False) as decoding:
            self.decode_theirs(self.codes[:, : round(self.codec.frame_rate)])
        return (
            encoding.get_total_flops() + self._recurrent_flops(self.peer.encoder),
            decoding.get_total_flops() + self._recurrent_flops(self.peer.decoder),
        )

    def _recurrent_flops(self, half: nn.Module) -> int:
        """Operations of the recurrent layers for a second of sound, which the counter does not know."""
        layers = [layer for layer in half.modules() if isinstance(layer, nn.LSTM)]
        weights = sum(weight.numel() for layer in layers for weight in layer.parameters() if weight.ndim == 2)
        return 2 * weights * round(self.codec.frame_rate)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, help="length of the recording; 10, or 600 on cuda")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Measure times a second of sound, and multiples of real time."""
    torch.set_num_threads(args.threads)
    kind = torch.device(args.device).type
    seconds = args.seconds or (1.0 if args.small else SECONDS[kind])
    both = Both(args.device, 4 if args.small else 64, seconds)
    equal, apart = f"{both.equal_codes():.2%} of the codes", f"samples {both.sample_difference():.1e} apart"
    machine, (encoding, decoding) = limits(args.device), both.flops()
    report = Report("Tokenizing and decoding, EnCodec at 32 kHz, float32", "transformers")
    clock, repetitions = clock_of(args.device, args.cpu_time), 1 if args.small else args.repetitions
    for what, flops, equality, theirs, ours in (
        ("encoding", encoding, equal, lambda: both.encode_theirs(both.wav), lambda: both.encode_ours(both.wav)),
        ("decoding", decoding, apart, lambda: both.decode_theirs(both.codes), lambda: both.decode_ours(both.codes)),
    ):
        times = median_seconds({"theirs": theirs, "ours": ours}, repetitions, clock)
        to_reach = what == "encoding"
        if kind == "cpu":
            figure = Figure(
                what,
                "s a second of sound",
                times["ours"] / seconds,
                "less",
                peer=times["theirs"] / seconds,
                ratio_goal=RATIO_GOAL if to_reach else None,
                limit=flops / machine.float32,
                equal=equality,
            )
        else:
            figure = Figure(
                what,
                "× real time",
                seconds / times["ours"],
                "more",
                peer=seconds / times["theirs"],
                goal=SPEED_GOAL if to_reach else None,
                limit=machine.float32 / flops,
                equal=equality,
            )
        report.add(figure)
    report.say(
        f"A recording of {seconds:g} s; the limit: {encoding / 1e9:.1f} GFLOP to encode and {decoding / 1e9:.1f} to "
        f"decode a second. {machine}."
    )
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
