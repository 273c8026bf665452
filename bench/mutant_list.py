# ruff: noqa: E501
"""The faults that mutants.py puts into the pass, by backend."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: `old` in the backend's file becomes `new`."""

    name: str
    old: str
    new: str
    equivalent: str = ""  # why no test without a GPU can see it


CUDA = [
    Mutant("head one too long", "(16 - cur_address % 16) % 16 / sizeof(T)", "(16 - cur_address % 16) % 16 / sizeof(T) + 1"),
    Mutant("head of none", "(16 - cur_address % 16) % 16 / sizeof(T)", "0"),
    Mutant(
        "head of a whole vector where aligned",
        "(16 - cur_address % 16) % 16 / sizeof(T)",
        "(16 - cur_address % 16) / sizeof(T)",
        "these weights are added singly, in whole vectors behind them; the sums are right",
    ),
    Mutant("head beyond the layer", "min(n, static_cast<int>(", "min(1 << 20, static_cast<int>("),
    Mutant("phase not looked at", "(cur_address - prev_address) % 16 != 0", "false"),
    Mutant("phase modulo 8", "(cur_address - prev_address) % 16 != 0", "(cur_address - prev_address) % 8 != 0"),
    Mutant("tail forgotten", "add_singly(tail, n);", ""),
    Mutant("tail from the head", "add_singly(tail, n);", "add_singly(head, n);"),
    Mutant("head forgotten", "add_singly(0, head);", ""),
    Mutant("body from the start", "reinterpret_cast<const uint4*>(cur + head)", "reinterpret_cast<const uint4*>(cur)"),
    Mutant("prev's body from the start", "reinterpret_cast<uint4*>(prev + head)", "reinterpret_cast<uint4*>(prev)"),
    Mutant("last vector twice", "if (i < vectors) {\n          if", "if (i <= vectors) {\n          if"),
    Mutant("one vector short", "const int vectors = (n - head) / kVector;", "const int vectors = (n - head) / kVector - 1;"),
    Mutant("lanes not all added", "for (int i = 0; i < kLanes; ++i) sum", "for (int i = 0; i < kLanes - 1; ++i) sum"),
    Mutant("streams swapped", "w[u] = __ldcg(cur_body + i);", "w[u] = __ldcg(prev_body + i);"),
    Mutant("prev gets prev", "__stcs(prev_body + i, w[u])", "__stcs(prev_body + i, p[u])"),
    Mutant("update forgotten in the body", "if constexpr (kUpdate) __stcs", "if constexpr (false) __stcs"),
    Mutant("update always in the body", "if constexpr (kUpdate) __stcs", "if constexpr (true) __stcs"),
    Mutant("update forgotten at the ends", "if constexpr (kUpdate) prev[i]", "if constexpr (false) prev[i]"),
    Mutant("update always at the ends", "if constexpr (kUpdate) prev[i]", "if constexpr (true) prev[i]"),
    Mutant("prev written before it is read", "const T w = cur[i], p = prev[i];", "const T w = cur[i], p = kUpdate ? (prev[i] = w) : prev[i];"),
    Mutant("subtraction in 16 bits", "abs_delta = abs(w - p)", "abs_delta = abs(widen(static_cast<T>(w - p)))"),
    Mutant("sum of w, not of prev", "abs_prev = abs(p);", "abs_prev = abs(w);"),
    Mutant("moved counts what stayed", "moved += w != p;", "moved += w == p;"),
    Mutant("moved by the difference", "moved += w != p;", "moved += abs_delta > 0;"),
    Mutant("ratio to the new weight", "abs_delta / abs_prev;", "abs_delta / abs(w);"),
    Mutant("first barrier missing", "__syncthreads();  // the last call's readers are done", ""),
    Mutant("second barrier missing", "shared[threadIdx.x / 32] = value;\n  __syncthreads();", "shared[threadIdx.x / 32] = value;"),
    Mutant("a barrier for some", "__syncthreads();  // the last call's readers are done", "if (threadIdx.x < 64) __syncthreads();"),
    Mutant("shuffle of half a warp", "for (int step = 16; step > 0", "for (int step = 8; step > 0"),
    Mutant("shuffle without the last step", "step > 0; step /= 2", "step > 1; step /= 2"),
    Mutant("a warp lost", "warp < kBlock / 32; ++warp", "warp < kBlock / 32 - 1; ++warp"),
    Mutant("warp 0 twice", "for (int warp = 1; warp", "for (int warp = 0; warp"),
    Mutant("chunks beyond the threads lost", "first < end; first += kBlock * kLanes)", "first < begin + kBlock * kLanes; first += kBlock * kLanes)"),
    Mutant("chunks of the next layer too", "lanes[lane] += c < end ?", "lanes[lane] += c <= end ?"),
    Mutant("partial sums of another row", "partial[kPrevL1 * C + c] = prev_l1;", "partial[kDeltaL1 * C + c] = prev_l1;"),
    Mutant("row without the modulo", "*cursor % R * K + k", "*cursor * K + k"),
    Mutant("first row always", "*cursor % R * K + k", "k"),
    Mutant("column of the group, not of the model", "* L + layer_row[l]] = sum", "* L + l] = sum"),
    Mutant("ratio's column of the group", "rwc[layer_row[l]] = static_cast<float>(norm_ratio", "rwc[l] = static_cast<float>(norm_ratio"),
    Mutant("ratio of prev to prev", "partial + kDeltaL1 * C, begin", "partial + kPrevL1 * C, begin"),
    Mutant("mean over the chunks", "chunks + kLength * C, begin", "chunks + kPrevOffset * C, begin"),
    Mutant("no program for the ratio", "rwc.size(0) ? K + 1 : K", "K"),
    Mutant("wide launch of the narrow kernel", "many ? kManyThreads : kThreads", "kManyThreads", "a GPU refuses more threads than __launch_bounds__ says, and cuda_on_cpu does not know these"),
]  # fmt: skip

TRITON = [
    Mutant("head of none", "((16 - cur_address % 16) % 16 // SIZE)", "((cur_address - cur_address) // SIZE)",
           "16-byte loads at other addresses fault on a GPU; the interpreter knows no alignment"),
    Mutant("head beyond the layer", "tl.minimum(((16 - cur_address % 16) % 16 // SIZE).to(tl.int32), n)",
           "((16 - cur_address % 16) % 16 // SIZE).to(tl.int32)"),
    Mutant("head forgotten", "tl.where(lane < VECTOR, head, n)", "tl.where(lane < VECTOR, 0, n)"),
    Mutant("tail forgotten", "tl.where(lane < VECTOR, head, n)", "tl.where(lane < VECTOR, head, 0)"),
    Mutant("tail from the head", "head + body + lane - VECTOR", "head + lane - VECTOR"),
    Mutant("edges out of phase too", "keep_edge = in_phase & (", "keep_edge = ("),
    Mutant("phase not looked at", "in_phase = (cur_address - prev_address) % 16 == 0", "in_phase = prev_address == prev_address",
           "16-byte loads at other addresses fault on a GPU; the interpreter knows no alignment"),
    Mutant("never in phase", "in_phase = (cur_address - prev_address) % 16 == 0", "in_phase = prev_address != prev_address",
           "everything is then read weight by weight: slow, and right; test_triton.py sees the loads"),
    Mutant("body from the start", "cur_body = tl.multiple_of((cur_address + head * SIZE)", "cur_body = tl.multiple_of((cur_address)"),
    Mutant("prev's body from the start", "prev_body = tl.multiple_of((prev_address + head * SIZE)", "prev_body = tl.multiple_of((prev_address)"),
    Mutant("a whole vector lost", "keep = offset < body", "keep = offset < body - VECTOR"),
    Mutant("blocks beyond the first lost", "for start in tl.range(0, body, BLOCK,", "for start in tl.range(0, tl.minimum(body, BLOCK), BLOCK,"),
    Mutant("mask one too long", "keep = offset < body", "keep = offset <= body"),
    Mutant("mask one too long out of phase", "keep = offset < n\n", "keep = offset <= n\n"),
    Mutant("update forgotten in the body", "            if UPDATE:\n                tl.store(prev_body", "            if False:\n                tl.store(prev_body"),
    Mutant("update always in the body", "            if UPDATE:\n                tl.store(prev_body", "            if True:\n                tl.store(prev_body"),
    Mutant("update forgotten out of phase", "            if UPDATE:\n                tl.store(prev +", "            if False:\n                tl.store(prev +"),
    Mutant("update forgotten at the edges", "    if UPDATE:\n        tl.store(prev + edge", "    if False:\n        tl.store(prev + edge"),
    Mutant("update always at the edges", "    if UPDATE:\n        tl.store(prev + edge", "    if True:\n        tl.store(prev + edge"),
    Mutant("a weight of each vector lost", "[values.shape[0] // VECTOR, VECTOR]), axis=1)", "[values.shape[0] // VECTOR, VECTOR]), axis=1) - tl.max(tl.reshape(values, [values.shape[0] // VECTOR, VECTOR]), axis=1)"),
    Mutant("prev gets prev", "tl.store(prev_body + offset, stored", "tl.store(prev_body + offset, before"),
    Mutant("subtraction in 16 bits", "w, p = stored.to(tl.float32), before.to(tl.float32)\n    delta = tl.abs(w - p)",
           "w, p = stored.to(tl.float32), before.to(tl.float32)\n    delta = tl.abs((stored - before).to(tl.float32))"),
    Mutant("sum of w, not of prev", "prev = tl.abs(p)", "prev = tl.abs(w)"),
    Mutant("moved counts what stayed", "(w != p).to", "(w == p).to"),
    Mutant("moved by the difference", "(w != p).to", "(delta > 0).to"),
    Mutant("ratio of masked lanes", "tl.where(keep, delta / prev, 0.0)", "delta / prev"),
    Mutant("partial sums of another row", "tl.store(partial + stride, tl.sum(prev", "tl.store(partial, tl.sum(prev"),
    Mutant("edges not added", "tl.sum(delta_lanes.to(tl.float64)) + tl.sum(delta.to(tl.float64))", "tl.sum(delta_lanes.to(tl.float64))"),
    Mutant("float64 summed in float32", "sum_dtype = tl.float64 if SIZE == 8", "sum_dtype = tl.float32 if SIZE == 8"),
    Mutant("chunks beyond the block lost", "for start in range(begin, end, BLOCK):\n            chunk = start + tl.arange(0, BLOCK)\n            lanes +=",
           "for start in range(begin, tl.minimum(end, begin + BLOCK), BLOCK):\n            chunk = start + tl.arange(0, BLOCK)\n            lanes +="),
    Mutant("chunks of the next layer too", "mask=chunk < end, other=0.0)\n        tl.store", "mask=chunk <= end, other=0.0)\n        tl.store"),
    Mutant("row without the modulo", "tl.load(cursor_ptr) % R * K", "tl.load(cursor_ptr) * K"),
    Mutant("column of the group, not of the model", "* L + column, tl.sum(lanes))", "* L + layer, tl.sum(lanes))"),
    Mutant("ratio's column of the group", "tl.store(rwc_ptr + column", "tl.store(rwc_ptr + layer"),
    Mutant("no zero for what did not move", "tl.where(above == 0, 0.0, above / below + (below - below))", "above / below + (below - below)"),
    Mutant("0 where prev overflowed", "above / below + (below - below))", "above / below)"),
    Mutant("mean of an empty layer", "tl.maximum(below, 1.0)", "below"),
    Mutant("ratio of prev to prev", "lanes += tl.load(partial_ptr + chunk,", "lanes += tl.load(partial_ptr + stride + chunk,"),
]  # fmt: skip

CPU = [
    Mutant("registers after the blocks lost", "add_registers<Type, kUpdate, kRatio>(cur, prev, registers, lanes);", ""),
    Mutant("single weights lost", "for (; cur < end; ++cur, ++prev) {", "for (; cur < end - 1; ++cur, ++prev) {"),
    Mutant("a block too many", "end - cur >= kDepth * kLanes; cur", "end - cur > 0; cur"),
    Mutant("update forgotten in registers", "if constexpr (kUpdate) std::memcpy", "if constexpr (false) std::memcpy"),
    Mutant("update always in registers", "if constexpr (kUpdate) std::memcpy", "if constexpr (true) std::memcpy"),
    Mutant("update forgotten in single weights", "if constexpr (kUpdate) *prev", "if constexpr (false) *prev"),
    Mutant("sum of w, not of prev", "abs_prev = absolute(p[j]);", "abs_prev = absolute(w[j]);"),
    Mutant("moved counts down", "moved[j] -= (w[j] != p[j]);", "moved[j] += (w[j] != p[j]);"),
    Mutant("moved by the difference", "moved[j] -= (w[j] != p[j]);", "moved[j] -= (abs_delta > 0);"),
    Mutant("half a register lost", "total += __builtin_convertvector(halves[0], F64) + __builtin_convertvector(halves[1], F64);",
           "total += __builtin_convertvector(halves[0], F64);"),
    Mutant("a lane lost", "for (int64_t lane = 0; lane < BYTES / 8; ++lane)", "for (int64_t lane = 1; lane < BYTES / 8; ++lane)"),
    Mutant("float32 sums without an end", "constexpr int64_t kDepth = 8;", "constexpr int64_t kDepth = 1 << 20;"),
    Mutant("row without the modulo", "*cursor.const_data_ptr<int64_t>() % R * K * L", "*cursor.const_data_ptr<int64_t>() * K * L"),
    Mutant("column of the group, not of the model", "out_sums[k * L + row[l]] = sum;", "out_sums[k * L + l] = sum;"),
    Mutant("a chunk lost", "for (int64_t c = start[l]; c < start[l + 1]; ++c) sum", "for (int64_t c = start[l] + 1; c < start[l + 1]; ++c) sum"),
    Mutant("runs that overlap", "c < (run + 1) * C / runs; ++c", "c < (run + 1) * C / runs + 1; ++c"),
    Mutant("ratio's column of the group", "ratios[row[l]] =", "ratios[l] ="),
    Mutant("mean over the chunks", "weights += length[c];", "weights += 1;"),
    Mutant("no zero for what did not move", "if (delta_l1 == 0.0) return 0.0;", ""),
    Mutant("0 where prev overflowed", "delta_l1 / prev_l1 + nan_if_infinite", "delta_l1 / prev_l1"),
    Mutant("bfloat16 halves swapped", "to[0] = (F32)(words << 16);", "to[0] = (F32)(words << 15);"),
    Mutant("float16 infinity", "if ((x & 0x7c00) == 0x7c00)", "if (false)"),
]  # fmt: skip

MUTANTS = {"cuda_on_cpu": CUDA, "triton": TRITON, "cpu": CPU}
