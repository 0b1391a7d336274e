// Products of weight matrices with the row of one token, straight from quantised planes, at the speed of memory.
//
// A block takes 16 rows of weights after another, and its warps share the columns. Lane 4g + t unpacks units of rows g
// and g + 8 to halves in registers, where they are the left operand of the tensor cores. Of the
// right one, a token needs one column of eight; the others serve to keep groups apart: the numbers of a group of
// columns stand in a column of their own, with zeros elsewhere. So the result has each group's sum by itself, and just
// the lane that read a group's scale gets it: weights are multiplied as integers, and scaled once for each group.
//
// Integers become halves by their bits alone: 0x6400 + q is 1024 + q. With X the sum of a group's numbers,
// Σ (s·(q - offset) - m)·x = s·Σ (1024 + q)·x - (s·(1024 + offset) + m)·X.
//
// To keep memory busy all the time, a warp asks for its next unit before it works on this one, also from tile to tile,
// and a block that is done asks for the beginning of the next kernel's weights.
#include "formats.cuh"

constexpr int WARPS = 16, ROWS = 16;

__device__ __forceinline__ int rows_of_tiles(int n_rows) { return (n_rows + ROWS - 1) / ROWS; }

// The token in shared memory: its numbers as halves, of every four columns in the order 0, 2, 1, 3, as `raised` gives
// weights; the sums of every 16; and zeros.
struct Numbers {
    half_t *halves, *zeros;
    float* sums;

    __device__ __forceinline__ Numbers(half_t* memory, int n_columns)
        : halves(memory), zeros(memory + n_columns), sums((float*)(zeros + 16)) {}
};

// upper, lower += a unit of two rows · the token's numbers of columns `first` and on
template <class F>
__device__ __forceinline__ void dot(F& a, F& b, const Numbers& x, int first, float& upper, float& lower) {
    constexpr int PIECES = F::STEP / 64, PER_GROUP = PIECES / F::GROUPS;
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    a.prepare(), b.prepare();
    // each piece has a sum by itself: piece p in acc[p % 2], column 2t + p / 2
    float acc[2][4] = {};
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        const half_t* at = x.halves + first + F::piece(t, piece);
        if (g != 2 * t + piece / 2) at = x.zeros;
        uint4 x0 = ((const uint4*)at)[0], x1 = ((const uint4*)at)[1];
        half2_t wa[8], wb[8];
        raised(a, piece, wa);
        raised(b, piece, wb);
        mma(acc[piece % 2], wa[0], wb[0], wa[1], wb[1], x0.x, x0.y);
        mma(acc[piece % 2], wa[2], wb[2], wa[3], wb[3], x0.z, x0.w);
        mma(acc[piece % 2], wa[4], wb[4], wa[5], wb[5], x1.x, x1.y);
        mma(acc[piece % 2], wa[6], wb[6], wa[7], wb[7], x1.z, x1.w);
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
        constexpr float raise = 1024.0f;
        float sum = x.sums[(first + F::piece(t, piece)) / 16], shrink = 1.0f / F::factor(piece);
        float zero = -(raise * shrink + F::OFFSET) * sum;
        float p = acc[piece % 2][piece / 2] * shrink + zero, q = acc[piece % 2][2 + piece / 2] * shrink + zero;
        upper += a.scale(piece / PER_GROUP) * p, lower += b.scale(piece / PER_GROUP) * q;
        if (F::HAS_LEAST) upper -= a.least(piece / PER_GROUP) * sum, lower -= b.least(piece / PER_GROUP) * sum;
    }
}

template <>
__device__ __forceinline__ void dot<F16>(F16& a, F16& b, const Numbers& x, int first, float& upper, float& lower) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float acc[4] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const half_t* at = g == 2 * t ? x.halves + first + 32 * t + 8 * i : x.zeros;
        uint4 v = *(const uint4*)at, p = a.q[i], q = b.q[i];
        mma(acc, __byte_perm(p.x, p.y, 0x5410), __byte_perm(q.x, q.y, 0x5410), __byte_perm(p.x, p.y, 0x7632),
            __byte_perm(q.x, q.y, 0x7632), v.x, v.y);
        mma(acc, __byte_perm(p.z, p.w, 0x5410), __byte_perm(q.z, q.w, 0x5410), __byte_perm(p.z, p.w, 0x7632),
            __byte_perm(q.z, q.w, 0x7632), v.z, v.w);
    }
    upper += acc[0], lower += acc[2];
}

// One warp's share of a matrix: of every row of tiles, every n_warps-th tile.
template <class F>
struct Share {
    const u8* base;
    int n_rows, n_steps, start, stride;
    F upper, lower;  // what comes next: units of rows g and g + 8

    __device__ __forceinline__ Share(const u8* base, int n_rows, int n_columns, int warp, int n_warps)
        : base(base), n_rows(rows_of_tiles(n_rows)), n_steps(n_columns / F::STEP), start(warp), stride(n_warps) {}

    __device__ __forceinline__ void fetch(int row, int step) {
        if (row < n_rows && step < n_steps) {
            u64 n_tiles = (u64)n_rows * n_steps, tile = (u64)row * n_steps + step;
            upper.fetch(base, n_tiles, tile, 0, threadIdx.x % 32), lower.fetch(base, n_tiles, tile, 1, threadIdx.x % 32);
        } else {
            upper.clear(), lower.clear();
        }
    }

    // this warp's part of the sums of a row of tiles
    __device__ __forceinline__ void multiply(int row, const Numbers& x, float (&sums)[ROWS]) {
        int lane = threadIdx.x % 32, g = lane / 4;
        float high = 0, low = 0;  // of rows g and g + 8
        for (int step = start; step < n_steps; step += stride) {
            F a = upper, b = lower;
            bool more = step + stride < n_steps;
            fetch(more ? row : row + gridDim.x, more ? step + stride : start);
            dot(a, b, x, step * F::STEP, high, low);
        }
        high += __shfl_xor_sync(~0u, high, 1), low += __shfl_xor_sync(~0u, low, 1);
        high += __shfl_xor_sync(~0u, high, 2), low += __shfl_xor_sync(~0u, low, 2);
        if (lane % 4 == 0) sums[g] = high, sums[g + 8] = low;
    }
};

// Fill x with the token: `from` as it is, halves, or, where `weight` is given, the norm of `from`, which is f32 then:
// x / sqrt(mean(x²) + eps)·weight.
__device__ __forceinline__ void load_token(
    const Numbers& x, const void* from, const float* weight, float eps, int n_columns) {
    if (weight) {
        __shared__ float sums[WARPS];
        const float4* row = (const float4*)from;
        float squares = 0;
        for (int i = threadIdx.x; i < n_columns / 4; i += 32 * WARPS) {
            float4 v = row[i];
            squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        }
        squares = sum_of_warp(squares);
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
        __syncthreads();
        squares = 0;
        for (int i = 0; i < WARPS; i++) squares += sums[i];
        float scale = rsqrtf(squares / n_columns + eps);
        for (int i = threadIdx.x; i < n_columns / 4; i += 32 * WARPS) {
            float4 v = row[i], w = ((const float4*)weight)[i];
            ((uint2*)x.halves)[i] =
                make_uint2(pack(v.x * scale * w.x, v.z * scale * w.z), pack(v.y * scale * w.y, v.w * scale * w.w));
        }
    } else {
        for (int i = threadIdx.x; i < n_columns / 4; i += 32 * WARPS) {
            uint2 v = ((const uint2*)from)[i];
            ((uint2*)x.halves)[i] = make_uint2(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632));
        }
    }
    if (threadIdx.x < 16) x.zeros[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n_columns / 16; i += 32 * WARPS) {
        float sum = 0;
        for (int j = 0; j < 8; j++) {
            half2_t v = ((const half2_t*)x.halves)[8 * i + j];
            sum += low_half(v) + high_half(v);
        }
        x.sums[i] = sum;
    }
    __syncthreads();
}

// out[row] = Σ w[row][column]·x[column] (+ bias[row]) (+ what is there), for the rows of a and then those of b.
// n_tokens: the token counts only if there is one.
template <class A, class B>
__global__ void __launch_bounds__(32 * WARPS, 1) matvec(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const void* x, const float* norm, float eps,
    const int* n_tokens, float* out, const float* bias, int add, const u8* next_a, const u8* next_b,
    u32 next_bytes) {
    extern __shared__ __align__(16) half_t memory[];
    Numbers token(memory, n_columns);
    __shared__ float sums[2][WARPS][ROWS];
    if (!*n_tokens) return;
    int warp = threadIdx.x / 32, turn = 0, tile = blockIdx.x, a_tiles = rows_of_tiles(a_rows);

    auto finish = [&](int first, int n_rows, int offset) {
        __syncthreads();
        if (threadIdx.x < ROWS && first + threadIdx.x < n_rows) {
            float value = 0;
            for (int w = 0; w < WARPS; w++) value += sums[turn][w][threadIdx.x];
            int row = offset + first + threadIdx.x;
            if (bias) value += bias[row];
            out[row] = add ? out[row] + value : value;
        }
        turn ^= 1;
    };

    Share<A> first(a, a_rows, n_columns, warp, WARPS);
    first.fetch(tile, first.start);
    load_token(token, x, norm, eps, n_columns);
    for (; tile < a_tiles; tile += gridDim.x) {
        first.multiply(tile, token, sums[turn][warp]);
        finish(ROWS * tile, a_rows, 0);
    }
    if (b_rows) {
        Share<B> second(b, b_rows, n_columns, warp, WARPS);
        tile -= a_tiles;
        second.fetch(tile, second.start);
        for (; tile < second.n_rows; tile += gridDim.x) {
            second.multiply(tile, token, sums[turn][warp]);
            finish(ROWS * tile, b_rows, a_rows);
        }
    }
    ask_ahead(next_a, next_b, next_bytes, blockIdx.x, gridDim.x);
}

// out[row] = silu(gate·x)·(up·x), as halves; both matrices have n_rows
template <class A, class B>
__global__ void __launch_bounds__(32 * WARPS, 1) matvec_gate(
    const u8* gate, const u8* up, int n_rows, int n_columns, const void* x, const float* norm, float eps, half_t* out,
    const u8* next_a, const u8* next_b, u32 next_bytes) {
    extern __shared__ __align__(16) half_t memory[];
    Numbers token(memory, n_columns);
    __shared__ float sums[2][WARPS][ROWS];
    constexpr int HALF = WARPS / 2;
    int warp = threadIdx.x / 32, turn = 0, n_tiles = rows_of_tiles(n_rows);

    auto finish = [&](int tile) {
        __syncthreads();
        int row = ROWS * tile + threadIdx.x;
        if (threadIdx.x < ROWS && row < n_rows) {
            float a = 0, b = 0;
            for (int w = 0; w < HALF; w++) a += sums[turn][w][threadIdx.x], b += sums[turn][HALF + w][threadIdx.x];
            out[row] = to_half(silu(a) * b);
        }
        turn ^= 1;
    };

    auto walk = [&](auto share) {
        share.fetch(blockIdx.x, share.start);
        load_token(token, x, norm, eps, n_columns);
        for (int tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
            share.multiply(tile, token, sums[turn][warp]);
            finish(tile);
        }
    };
    if constexpr (same<A, B>) {
        walk(Share<A>(warp < HALF ? gate : up, n_rows, n_columns, warp % HALF, HALF));
    } else if (warp < HALF) {
        walk(Share<A>(gate, n_rows, n_columns, warp, HALF));
    } else {
        walk(Share<B>(up, n_rows, n_columns, warp - HALF, HALF));
    }
    ask_ahead(next_a, next_b, next_bytes, blockIdx.x, gridDim.x);
}
