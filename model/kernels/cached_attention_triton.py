"""The kernel of `model.kernels.cached_attention`, in Triton's language; nothing else loads this module.

A program computes one row and one head of keys, with all query heads that share it; there are few programs for a single
clip and thousands for a hundred clips. Softmax is online (arXiv:1805.02867): the largest score so far, the sum of
weights and the weighted sum of values are updated block by block, so that only the result is written.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def attend_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    key_scales,
    value_scales,
    first,
    stop,
    mask,
    attended,
    query_row,
    query_head,
    cache_row,
    cache_head,
    cache_step,
    scales_row,
    scales_head,
    mask_row,
    scale,
    WIDTH: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Compute attention for the queries of one row and group.

    Args:
        queries: [B, H, 1, E].
        keys, values: [B, G, L, E].
        key_scales, value_scales: [B, G, L], read if `SCALED`.
        first, stop: [B], the range of steps that a row reads.
        mask: [B, L], the steps of the range that a row sees, read if `MASKED`.
        attended: [B, H, 1, E], contiguous, the result.
        query_row ... mask_row: strides in entries; the entries of a vector are contiguous.
        scale: factor of the scores.
    """
    group = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)  # with many rows, offsets do not fit into 32 bits
    member, entry = tl.arange(0, PADDED_GROUP), tl.arange(0, PADDED_WIDTH)
    head = group * GROUP + member
    inside = (member < GROUP)[:, None] & (entry < WIDTH)[None, :]
    query = tl.load(queries + row * query_row + head[:, None] * query_head + entry[None, :], inside, 0.0)
    query = query.to(tl.float32) * scale
    begin, end = tl.load(first + row).to(tl.int32), tl.load(stop + row).to(tl.int32)
    here = row * cache_row + group.to(tl.int64) * cache_head
    scales_here = row * scales_row + group * scales_head
    largest = tl.full((PADDED_GROUP,), -1e30, tl.float32)  # below all scores; unlike infinity, it can be subtracted
    total = tl.full((PADDED_GROUP,), 0.0, tl.float32)
    mixed = tl.full((PADDED_GROUP, PADDED_WIDTH), 0.0, tl.float32)
    for block in range(begin // BLOCK * BLOCK, end, BLOCK):
        step = block + tl.arange(0, BLOCK)
        seen = (step >= begin) & (step < end)
        if MASKED:
            seen = seen & (tl.load(mask + row * mask_row + step, seen, 0) != 0)
        places = here + step.to(tl.int64)[:, None] * cache_step + entry[None, :]
        there = seen[:, None] & (entry < WIDTH)[None, :]
        key = tl.load(keys + places, there, 0.0).to(tl.float32)
        value = tl.load(values + places, there, 0.0).to(tl.float32)
        score = tl.sum(query[:, None, :] * key[None, :, :], 2)
        if SCALED:
            score = score * tl.load(key_scales + scales_here + step, seen, 0.0)[None, :]
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(largest, tl.max(score, 1))
        kept = tl.exp(largest - higher)
        weight = tl.exp(score - higher[:, None])
        total = total * kept + tl.sum(weight, 1)
        if SCALED:
            weight = weight * tl.load(value_scales + scales_here + step, seen, 0.0)[None, :]
        mixed = mixed * kept[:, None] + tl.sum(weight[:, :, None] * value[None, :, :], 1)
        largest = higher
    places = ((row * tl.num_programs(0) + group) * GROUP + member)[:, None] * WIDTH + entry[None, :]
    tl.store(attended + places, mixed / total[:, None], inside)
