"""The Triton kernels of the pass.

Stage 1 has one program per chunk. Stage 2 has one program per sum of a layer, and one more for the layer's RWC.

Letters: L layers of the model, G layers of a group, C chunks, K sums per layer (see sums.py), R rows of `out`.

Each lane adds the weights of one 16-byte vector per BLOCK of the chunk, in float32 (in float64 for float64 weights, and
for squares). A tree adds the lanes, and the rest is float64. The plan fixes the order and there are no atomics, so the
same weights give the same bits. The largest change is found among the bits of absolute values, as integers: they have
the order of the values, and NaN is above all.
For n weights of s bytes each, the kernels read 2 n s bytes and write n s bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _bits(values):
    """The bits of floats as integers of the same size."""
    return values.to(tl.int64 if values.dtype == tl.float64 else tl.int32, bitcast=True)


@triton.jit
def _pair_sums(stored, before, keep, WITH_RATIO: tl.constexpr, WITH_L2: tl.constexpr):
    """What each weight adds to the sums, 0 where `keep` is false: in float32 or float64, and squares in float64.

    What is not wanted is returned as `delta`, and nobody reads it.
    """
    if stored.dtype == tl.float64:
        w, p = stored, before
    else:
        w, p = stored.to(tl.float32), before.to(tl.float32)
    delta = tl.abs(w - p)
    prev = tl.abs(p)
    moved = (w != p).to(tl.int32)
    ratio, delta_sq, prev_sq, largest = delta, delta, delta, delta
    if WITH_RATIO:
        ratio = tl.where(keep, delta / prev, 0.0)
    if WITH_L2:
        largest = _bits(delta)
        if stored.dtype == tl.float16:  # the float32 square of a float16 is never 0 nor infinite, and takes less room
            delta_sq, prev_sq = delta * delta, prev * prev
        else:
            delta_sq = delta.to(tl.float64) * delta.to(tl.float64)
            prev_sq = prev.to(tl.float64) * prev.to(tl.float64)
    return delta, prev, moved, ratio, delta_sq, prev_sq, largest


@triton.jit
def _rows(values, VECTOR: tl.constexpr):
    """[., VECTOR] values in rows. A thread has loaded a row together, so it adds it alone."""
    return tl.reshape(values, [values.shape[0] // VECTOR, VECTOR])


@triton.jit
def _lane_sums(stored, before, keep, VECTOR: tl.constexpr, WITH_RATIO: tl.constexpr, WITH_L2: tl.constexpr):
    """The sums over each VECTOR weights of a block."""
    delta, prev, moved, ratio, delta_sq, prev_sq, largest = _pair_sums(stored, before, keep, WITH_RATIO, WITH_L2)
    delta = tl.sum(_rows(delta, VECTOR), axis=1)
    prev = tl.sum(_rows(prev, VECTOR), axis=1)
    moved = tl.sum(_rows(moved, VECTOR), axis=1)
    if WITH_RATIO:
        ratio = tl.sum(_rows(ratio, VECTOR), axis=1)
    if WITH_L2:
        delta_sq = tl.sum(_rows(delta_sq, VECTOR), axis=1)
        prev_sq = tl.sum(_rows(prev_sq, VECTOR), axis=1)
        largest = tl.max(_rows(largest, VECTOR), axis=1)
    return delta, prev, moved, ratio, delta_sq, prev_sq, largest


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
    WITH_L2: tl.constexpr,
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
    # vector and after the last one: fewer than VECTOR each. They are added at the end. They are loaded now, so that
    # nothing waits for them; with all seven sums they are loaded at the end, because the body needs their registers.
    in_phase = (cur_address - prev_address) % 16 == 0
    head = tl.minimum(((16 - cur_address % 16) % 16 // SIZE).to(tl.int32), n)
    body = tl.multiple_of((n - head) // VECTOR * VECTOR, VECTOR)
    lane = tl.arange(0, 2 * VECTOR)
    edge = tl.where(lane < VECTOR, lane, head + body + lane - VECTOR)
    keep_edge = in_phase & (edge < tl.where(lane < VECTOR, head, n))
    EARLY: tl.constexpr = not (WITH_RATIO and WITH_L2)
    if EARLY:
        stored_edge = tl.load(cur + edge, mask=keep_edge, other=0.0)
        before_edge = tl.load(prev + edge, mask=keep_edge, other=0.0)

    delta_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    prev_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    moved_lanes = tl.zeros([BLOCK // VECTOR], tl.int32)
    ratio_lanes = tl.zeros([BLOCK // VECTOR], sum_dtype)
    delta_sq_lanes = tl.zeros([BLOCK // VECTOR], tl.float64)
    prev_sq_lanes = tl.zeros([BLOCK // VECTOR], tl.float64)
    largest_lanes = tl.zeros([BLOCK // VECTOR], tl.int64 if SIZE == 8 else tl.int32)
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
            delta, prev_abs, changed, ratio, delta_sq, prev_sq, largest = _lane_sums(
                stored, before, keep, VECTOR, WITH_RATIO, WITH_L2
            )
            delta_lanes += delta
            prev_lanes += prev_abs
            moved_lanes += changed
            if WITH_RATIO:
                ratio_lanes += ratio
            if WITH_L2:
                delta_sq_lanes += delta_sq
                prev_sq_lanes += prev_sq
                largest_lanes = tl.maximum(largest_lanes, largest)
    else:  # the weights are read one by one
        for start in range(0, n, BLOCK):
            offset = start + tl.arange(0, BLOCK)
            keep = offset < n
            stored = tl.load(cur + offset, mask=keep, other=0.0)
            before = tl.load(prev + offset, mask=keep, other=0.0)
            if UPDATE:
                tl.store(prev + offset, stored, mask=keep)
            delta, prev_abs, changed, ratio, delta_sq, prev_sq, largest = _lane_sums(
                stored, before, keep, VECTOR, WITH_RATIO, WITH_L2
            )
            delta_lanes += delta
            prev_lanes += prev_abs
            moved_lanes += changed
            if WITH_RATIO:
                ratio_lanes += ratio
            if WITH_L2:
                delta_sq_lanes += delta_sq
                prev_sq_lanes += prev_sq
                largest_lanes = tl.maximum(largest_lanes, largest)

    if not EARLY:
        stored_edge = tl.load(cur + edge, mask=keep_edge, other=0.0)
        before_edge = tl.load(prev + edge, mask=keep_edge, other=0.0)
    if UPDATE:
        tl.store(prev + edge, stored_edge, mask=keep_edge)
    delta, prev_abs, changed, ratio, delta_sq, prev_sq, largest = _pair_sums(
        stored_edge, before_edge, keep_edge, WITH_RATIO, WITH_L2
    )
    partial = partial_ptr + c
    stride = C.to(tl.int64)
    tl.store(partial, tl.sum(delta_lanes.to(tl.float64)) + tl.sum(delta.to(tl.float64)))
    tl.store(partial + stride, tl.sum(prev_lanes.to(tl.float64)) + tl.sum(prev_abs.to(tl.float64)))
    tl.store(partial + 2 * stride, (tl.sum(moved_lanes) + tl.sum(changed)).to(tl.float64))
    if WITH_L2:
        tl.store(partial + 3 * stride, tl.sum(delta_sq_lanes) + tl.sum(delta_sq))
        tl.store(partial + 4 * stride, tl.sum(prev_sq_lanes) + tl.sum(prev_sq))
        bits = tl.maximum(tl.max(largest_lanes), tl.max(largest))
        tl.store(partial + 5 * stride, bits.to(sum_dtype, bitcast=True).to(tl.float64))
    if WITH_RATIO:
        last = (6 if WITH_L2 else 3) * stride
        tl.store(partial + last, tl.sum(ratio_lanes.to(tl.float64)) + tl.sum(ratio.to(tl.float64)))


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
        if K >= 6 and k == 5:  # delta_max
            largest = tl.zeros([BLOCK], tl.int64)
            for start in range(begin, end, BLOCK):
                chunk = start + tl.arange(0, BLOCK)
                part = tl.load(partial_ptr + k * stride + chunk, mask=chunk < end, other=0.0)
                largest = tl.maximum(largest, _bits(part))
            total = tl.max(largest).to(tl.float64, bitcast=True)
        else:
            for start in range(begin, end, BLOCK):
                chunk = start + tl.arange(0, BLOCK)
                lanes += tl.load(partial_ptr + k * stride + chunk, mask=chunk < end, other=0.0)
            total = tl.sum(lanes)
        tl.store(out_ptr + (back + tl.load(cursor_ptr) % R * K + k) * L + column, total)
    else:
        # The ratio has its own program. It adds its two sums again, in the same order, and so waits for no other.
        first = 0  # norm_ratio: delta_l1 over prev_l1
        if K == 6:  # l2_ratio: delta_sq over prev_sq, and their roots
            first = 3
        if K == 4 or K == 7:  # mean_ratio: ratio_sum over the number of weights
            first = K - 1
        other = tl.zeros([BLOCK], tl.float64)
        for start in range(begin, end, BLOCK):
            chunk = start + tl.arange(0, BLOCK)
            keep = chunk < end
            lanes += tl.load(partial_ptr + first * stride + chunk, mask=keep, other=0.0)
            if K == 4 or K == 7:
                other += tl.load(chunks_ptr + 2 * stride + chunk, mask=keep, other=0).to(tl.float64)
            else:
                other += tl.load(partial_ptr + (first + 1) * stride + chunk, mask=keep, other=0.0)
        above, below = tl.sum(lanes), tl.sum(other)
        if K == 6:
            above, below = tl.sqrt(above), tl.sqrt(below)
        if K == 4 or K == 7:
            ratio = above / tl.maximum(below, 1.0)
        else:
            ratio = tl.where(above == 0, 0.0, above / below + (below - below))  # NaN if infinite
        tl.store(rwc_ptr + column, ratio.to(tl.float32))
