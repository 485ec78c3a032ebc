"""The kernel of attention to a cache, without a GPU: `python -m tests.worlds.cached_attention interpreted` compares the
results of Triton's interpreter (TRITON_INTERPRET=1, set before Triton is loaded), `compiled` compiles it for GPUs.

It needs a process of its own, because Triton reads its environment once.
"""

import sys
from dataclasses import replace
from itertools import product
from typing import get_args

import torch
from torch.nn import functional as F

from model.decoding.engine import DecodingOptions, decode
from model.decoding.generation import clip_codes, generate
from model.decoding.static_shapes import StaticShapeDecoder
from model.kernels import cached_attention
from model.kernels.cached_attention import SpanMask, attend_in_cache
from model.kernels.packed_linear import prepare_for_inference
from model.lm import transformer
from model.lm.cached_vectors import CachedVectors
from model.lm.config import CachePrecision
from tests.worlds.generation_requests import mixed_requests
from tests.worlds.sequence_requests import sequence_requests_of
from tests.worlds.tiny_model import config, music_model

CAPABILITY = 90
"""Compute capability of an H100 or H200."""
PRECISIONS: tuple[CachePrecision, ...] = get_args(CachePrecision)


def compare_kernel() -> None:
    """Compare rows of many lengths, heads of odd widths in groups, masks and every precision with torch's attention:
    each precision alternately with one kind of heads masked and the other not."""
    torch.manual_seed(0)
    for (number, precision), masked in product(enumerate(PRECISIONS), [False, True]):
        heads, groups, width = [(4, 4, 8), (6, 2, 24)][(number + masked) % 2]
        rows, length = 3, 150
        # Queries as they occur: a part of a projection, and so not contiguous.
        queries = torch.randn(rows, 1, 3 * heads * width)[..., : heads * width].view(rows, 1, heads, width)
        queries = queries.transpose(1, 2)
        shape = (rows, groups, length, width)
        kept = [CachedVectors.empty(shape, precision, torch.float32, queries.device) for _ in ("keys", "values")]
        for vectors in kept:
            vectors.write(torch.randn(rows, groups, length, width))
        first, stop = torch.tensor([0, 66, 3]), torch.tensor([1, 70, 150])
        mask = (torch.rand(rows, 1, 1, length) < 0.5) if masked else None
        steps = torch.arange(length)
        if mask is not None:
            mask[torch.arange(rows), 0, 0, first] = True
        visible = ((steps >= first[:, None]) & (steps < stop[:, None]))[:, None, None]
        visible = visible if mask is None else visible & mask
        expected = F.scaled_dot_product_attention(queries, *(one.read() for one in kept), visible, enable_gqa=True)
        found = attend_in_cache(queries, *kept, SpanMask(first, stop, mask))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def compare_tokens() -> None:
    """Compare clips decoded by the kernel in static shapes, which end one after the other, with the engine of a CPU."""
    transformer.attends_in_cache = lambda device, width: device.type == "cpu"  # type: ignore[assignment]
    model = music_model(config(positions="both", past_context=5, key_value_heads=2))
    requests = [
        replace(request, frames=frames) for request, frames in zip(mixed_requests()[:3], (3, 6, 2), strict=True)
    ]
    expected = generate(model, requests, DecodingOptions(cache_precision="int8"))
    with torch.inference_mode():
        sequences = sequence_requests_of(model, requests)
        decoder = StaticShapeDecoder(
            prepare_for_inference(model.language_model, "float32"), sequences, 2, precision="int8"
        )
        assert decoder.cache.read_in_place
        finished = dict(decode(decoder, sequences, 2))
    for number, request in enumerate(requests):
        assert torch.equal(clip_codes(model.language_model, request.frames, finished[number]), expected[number])


def translate() -> None:
    """Compile the kernel to machine code, as it is launched for MusicGen-small and for a grouped model."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from model.kernels.cached_attention_triton import attend_kernel

    names = attend_kernel.arg_names
    for kept, scaled, group in (("bf16", False, 1), ("i8", True, 4)):
        constants = {"WIDTH": 64, "PADDED_WIDTH": 64, "GROUP": group, "PADDED_GROUP": group}
        constants |= {"BLOCK": cached_attention.BLOCK // group, "SCALED": scaled, "MASKED": scaled}
        signature = dict.fromkeys(names, "i32") | dict.fromkeys(constants, "constexpr") | {"scale": "fp32"}
        signature |= {"queries": "*fp32", "attended": "*fp32", "keys": f"*{kept}", "values": f"*{kept}"}
        signature |= {"key_scales": "*fp32", "value_scales": "*fp32", "first": "*i64", "stop": "*i64", "mask": "*u8"}
        source = ASTSource(fn=attend_kernel, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32))
        assert compiled.asm["cubin"], "expected machine code, got none"


if __name__ == "__main__":
    if sys.argv[1] == "compiled":
        translate()
    else:
        compare_kernel()
        compare_tokens()
