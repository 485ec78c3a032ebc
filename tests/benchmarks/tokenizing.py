"""Codes of a recording against transformers' EnCodec on the same weights: `python -m tests.benchmarks.tokenizing`.

The published shape of EnCodec at 32 kHz with random weights; the shares of equal codes come before any time. Beside
seconds on the clock stand those of the processors, which a busy machine changes less.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from model.codec.codec import Codec

SAMPLE_RATE = 32_000
LEAST_EQUAL = 0.999


def networks() -> tuple[EncodecModel, EncodecModel]:
    """Two of the same weights: one for transformers, and one that `Codec` may change."""
    config = EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        num_filters=64,
        upsampling_ratios=[8, 5, 4, 4],
        codebook_size=2048,
        codebook_dim=128,
        hidden_size=128,
        target_bandwidths=[2.2],
        use_causal_conv=False,
        use_conv_shortcut=False,
        chunk_length_s=None,
    )
    torch.manual_seed(0)
    first, second = EncodecModel(config).eval(), EncodecModel(config).eval()
    for layer in first.quantizer.layers:
        layer.codebook.embed.normal_()
    second.load_state_dict(first.state_dict())
    return first, second


def main() -> None:
    """Print a line for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the recording")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    peer, network = networks()
    codec = Codec(network)
    wav = 0.3 * torch.randn(1, round(SAMPLE_RATE * given.seconds), generator=torch.Generator().manual_seed(1))

    def theirs() -> Tensor:
        with torch.no_grad():
            return peer.encode(wav[None], return_dict=False)[0][0, 0]  # type: ignore[index]

    def ours() -> Tensor:
        return codec.encode_track(wav)

    equal = float((theirs() == ours()).float().mean())
    if equal < LEAST_EQUAL:
        raise SystemExit(f"expected {LEAST_EQUAL:.1%} of the codes to be equal, got {equal:.2%}")
    ways: dict[str, Callable[[], Tensor]] = {"transformers": theirs, "here": ours}
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processors: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.repetitions):
        for name, encode in ways.items():
            begun, used = time.perf_counter(), time.process_time()
            encode()
            clock[name].append((time.perf_counter() - begun) / given.seconds)
            processors[name].append((time.process_time() - used) / given.seconds)
    print(f"{given.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {equal:.2%} equal codes")
    print("| clock | transformers, s a second of audio | here | ratio |")
    print("| --- | --- | --- | --- |")
    for name, seconds in (("wall", clock), ("processors", processors)):
        peers, own = statistics.median(seconds["transformers"]), statistics.median(seconds["here"])
        print(f"| {name} | {peers:.4f} | {own:.4f} | {peers / own:.2f} |")


if __name__ == "__main__":
    main()
