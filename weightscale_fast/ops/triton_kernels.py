"""The Triton kernels of the pass.

Stage 1 has one program per chunk. Stage 2 has one program per sum of a layer, and one more for the layer's RWC.

Letters: L layers of the model, G layers of a group, C chunks, K sums per layer (3, or 4 with ratio_sum), R rows of
`out`.

Each lane adds the weights of one 16-byte vector per BLOCK of the chunk, in float32 (in float64 for float64 weights). A
tree adds the lanes, and the rest is float64. The plan fixes the order and there are no atomics, so the same weights
give the same bits.
For n weights of s bytes each, the kernels read 2 n s bytes and write n s bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pair_sums(stored, before, keep, WITH_RATIO: tl.constexpr):
    """What each weight adds to the four sums, in float32 or float64. It is 0 where `keep` is false."""
    if stored.dtype == tl.float64:
        w, p = stored, before
    else:
        w, p = stored.to(tl.float32), before.to(tl.float32)
    delta = tl.abs(w - p)
    prev = tl.abs(p)
    moved = (w != p).to(tl.int32)
    ratio = delta
    if WITH_RATIO:
        ratio = tl.where(keep, delta / prev, 0.0)
    return delta, prev, moved, ratio


@triton.jit
def _add_vectors(values, VECTOR: tl.constexpr):
    """Add every VECTOR values in a row. A thread has loaded these together, so it adds them alone."""
    return tl.sum(tl.reshape(values, [values.shape[0] // VECTOR, VECTOR]), axis=1)


@triton.jit
def _lane_sums(stored, before, keep, VECTOR: tl.constexpr, WITH_RATIO: tl.constexpr):
    """The four sums over each VECTOR weights of a block."""
    delta, prev, moved, ratio = _pair_sums(stored, before, keep, WITH_RATIO)
    delta = _add_vectors(delta, VECTOR)
    ratio = _add_vectors(ratio, VECTOR) if WITH_RATIO else delta
    return delta, _add_vectors(prev, VECTOR), _add_vectors(moved, VECTOR), ratio


@triton.jit(do_not_specialize=["C"])
def chunk_sums_kernel(
    chunks_ptr,  # [3, C] int64: address of the current weights, bytes from prev_ptr to the previous ones, length
    prev_ptr,  # of the weights' dtype
    partial_ptr,  # [>= K, C] float64
    C,
    SIZE: tl.constexpr,  # bytes of a weight
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,  # of the pipeline: STAGES - 1 blocks are in flight
    UPDATE: tl.constexpr,
    WITH_RATIO: tl.constexpr,
):
    c = tl.program_id(0).to(tl.int64)
    cur_address = tl.load(chunks_ptr + c)
    prev_address = prev_ptr.to(tl.int64) + tl.load(chunks_ptr + C + c)
    n = tl.load(chunks_ptr + 2 * C.to(tl.int64) + c).to(tl.int32)
    element = tl.pointer_type(prev_ptr.dtype.element_ty)
    sum_dtype = tl.float64 if SIZE == 8 else tl.float32
    VECTOR: tl.constexpr = 16 // SIZE  # weights in a 16-byte load
    cur = cur_address.to(element)
    prev = prev_address.to(element)

    # If both streams can be 16-byte aligned, the body is read in vectors. The edges are the weights before the first
    # vector and after the last one: fewer than VECTOR each. They are loaded now and added at the end, so that nothing
    # waits for them.
    in_phase = (cur_address - prev_address) % 16 == 0
    head = tl.minimum(((16 - cur_address % 16) % 16 // SIZE).to(tl.int32), n)
    body = tl.multiple_of((n - head) // VECTOR * VECTOR, VECTOR)
    lane = tl.arange(0, 2 * VECTOR)
    edge = tl.where(lane < VECTOR, lane, head + body + lane - VECTOR)
    keep_edge = in_phase & (edge < tl.where(lane < VECTOR, head, n))
    stored_edge = tl.load(cur + edge, mask=keep_edge, other=0.0)
    before_edge = tl.load(prev + edge, mask=keep_edge, other=0.0)

    delta_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    prev_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    moved_lanes = tl.zeros([BLOCK // VECTOR], tl.int32)
    ratio_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    if in_phase:
        cur_body = tl.multiple_of((cur_address + head * SIZE).to(element), 16)
        prev_body = tl.multiple_of((prev_address + head * SIZE).to(element), 16)
        # The pipeline loads later blocks before it stores this one. No two blocks have a weight in common.
        for start in tl.range(0, body, BLOCK, num_stages=STAGES):
            offset = tl.multiple_of(start, BLOCK) + tl.arange(0, BLOCK)
            keep = offset < body
            stored = tl.load(cur_body + offset, mask=keep, other=0.0)
            before = tl.load(prev_body + offset, mask=keep, other=0.0, eviction_policy="evict_first")
            if UPDATE:
                tl.store(prev_body + offset, stored, mask=keep, eviction_policy="evict_first")
            delta, prev_abs, changed, ratio = _lane_sums(stored, before, keep, VECTOR, WITH_RATIO)
            delta_lanes += delta
            prev_lanes += prev_abs
            moved_lanes += changed
            if WITH_RATIO:
                ratio_lanes += ratio
    else:  # the weights are read one by one
        for start in range(0, n, BLOCK):
            offset = start + tl.arange(0, BLOCK)
            keep = offset < n
            stored = tl.load(cur + offset, mask=keep, other=0.0)
            before = tl.load(prev + offset, mask=keep, other=0.0)
            if UPDATE:
                tl.store(prev + offset, stored, mask=keep)
            delta, prev_abs, changed, ratio = _lane_sums(stored, before, keep, VECTOR, WITH_RATIO)
            delta_lanes += delta
            prev_lanes += prev_abs
            moved_lanes += changed
            if WITH_RATIO:
                ratio_lanes += ratio

    if UPDATE:
        tl.store(prev + edge, stored_edge, mask=keep_edge)
    delta, prev_abs, changed, ratio = _pair_sums(stored_edge, before_edge, keep_edge, WITH_RATIO)
    partial = partial_ptr + c
    stride = C.to(tl.int64)
    tl.store(partial, tl.sum(delta_lanes.to(tl.float64)) + tl.sum(delta.to(tl.float64)))
    tl.store(partial + stride, tl.sum(prev_lanes.to(tl.float64)) + tl.sum(prev_abs.to(tl.float64)))
    tl.store(partial + 2 * stride, (tl.sum(moved_lanes) + tl.sum(changed)).to(tl.float64))
    if WITH_RATIO:
        tl.store(partial + 3 * stride, tl.sum(ratio_lanes.to(tl.float64)) + tl.sum(ratio.to(tl.float64)))


@triton.jit(do_not_specialize=["C", "L", "R"])
def layer_sums_kernel(
    partial_ptr,  # [>= K, C] float64
    chunks_ptr,  # [3, C] int64
    layer_start_ptr,  # [G + 1] int64
    layer_row_ptr,  # [G] int64
    out_ptr,  # [R, K, L] float64
    rwc_ptr,  # [L] float32, or empty if the grid has no program for it
    cursor_ptr,  # [1] int64
    C,
    L,
    R,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,  # whether stage 1 may still run
):
    layer = tl.program_id(0)
    k = tl.program_id(1).to(tl.int64)
    begin = tl.load(layer_start_ptr + layer)
    end = tl.load(layer_start_ptr + layer + 1)
    column = tl.load(layer_row_ptr + layer)
    stride = C.to(tl.int64)
    lanes = tl.zeros([BLOCK], tl.float64)
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()  # until stage 1 has ended, and what it wrote can be read
    if k < K:
        back = tl.where(tl.load(cursor_ptr) % R < 0, R * K, 0)  # as in Python: no row before the first
        for start in range(begin, end, BLOCK):
            chunk = start + tl.arange(0, BLOCK)
            lanes += tl.load(partial_ptr + k * stride + chunk, mask=chunk < end, other=0.0)
        tl.store(out_ptr + (back + tl.load(cursor_ptr) % R * K + k) * L + column, tl.sum(lanes))
    else:
        # The ratio has its own program. It adds its two sums again, in the same order, and so waits for no other.
        other = tl.zeros([BLOCK], tl.float64)
        for start in range(begin, end, BLOCK):
            chunk = start + tl.arange(0, BLOCK)
            keep = chunk < end
            if K == 4:  # mean_ratio: the sum of the ratios over the number of weights
                lanes += tl.load(partial_ptr + 3 * stride + chunk, mask=keep, other=0.0)
                other += tl.load(chunks_ptr + 2 * stride + chunk, mask=keep, other=0).to(tl.float64)
            else:  # norm_ratio: delta_l1 over prev_l1
                lanes += tl.load(partial_ptr + chunk, mask=keep, other=0.0)
                other += tl.load(partial_ptr + stride + chunk, mask=keep, other=0.0)
        above, below = tl.sum(lanes), tl.sum(other)
        ratio = (
            above / tl.maximum(below, 1.0) if K == 4 else tl.where(above == 0, 0.0, above / below + (below - below))
        )  # NaN if infinite
        tl.store(rwc_ptr + column, ratio.to(tl.float32))
