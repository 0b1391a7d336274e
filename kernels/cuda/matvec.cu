// Products of weight matrices with the row of one token, straight from quantised planes, at the speed of memory.
//
// A tile is 16 rows of weights; the warps of a block share its columns, and a block takes tile after tile. Lane 4g + t
// unpacks units of rows g and g + 8 to halves, in registers, where they are the left operand of the tensor cores; the
// token's numbers of the same columns are the right one. Which column is which in a multiplication does not matter, as
// long as both sides agree: so each lane reads 16 bytes at a time, as they lie.
//
// To keep memory busy all the time, a warp asks for its next unit before it works on this one, also from tile to tile,
// and a block that is done asks for the beginning of the next kernel's weights.
#include "formats.cuh"

constexpr int WARPS = 8, ROWS = 16;

// One warp's share of a matrix: of every tile, every n_warps-th step of four units.
template <class F>
struct Share {
    const u8* base;
    u64 n_blocks;
    int n_rows, n_tiles, n_units, start, stride;
    F upper, lower;  // the next unit of rows g and g + 8

    __device__ __forceinline__ Share(const u8* base, int n_rows, int n_columns, int warp, int n_warps)
        : base(base), n_blocks((u64)n_rows * (n_columns / F::COLUMNS)), n_rows(n_rows),
          n_tiles((n_rows + ROWS - 1) / ROWS), n_units(n_columns / F::UNIT), start(4 * warp), stride(4 * n_warps) {}

    __device__ __forceinline__ void fetch(int tile, int step) {
        int g = threadIdx.x % 32 / 4, unit = step + threadIdx.x % 4, row = ROWS * tile + g;
        if (tile < n_tiles && unit < n_units) {
            upper.fetch(base, n_blocks, (u64)min(row, n_rows - 1) * n_units + unit);
            lower.fetch(base, n_blocks, (u64)min(row + 8, n_rows - 1) * n_units + unit);
        } else {
            upper.clear(), lower.clear();
        }
    }

    // this warp's part of a tile's sums; x: the token, in shared memory
    __device__ __forceinline__ void multiply(int tile, const half_t* x, float (&sums)[ROWS]) {
        constexpr int PER_BLOCK = F::COLUMNS / F::UNIT, PIECES = F::UNIT / 16;
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        float acc[4] = {};
        for (int step = start; step < n_units; step += stride) {
            F a = upper, b = lower;
            bool more = step + stride < n_units;
            fetch(more ? tile : tile + gridDim.x, more ? step + stride : start);
            a.prepare(), b.prepare();
            int unit = step + t;
            const half_t* block = x + unit / PER_BLOCK * F::COLUMNS;
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                half2_t wa[8], wb[8];
                halves(a, piece, wa);
                halves(b, piece, wb);
                uint4 low = {}, high = {};
                if (g == 0 && unit < n_units) {
                    const uint4* at = (const uint4*)(block + F::piece(unit % PER_BLOCK, piece));
                    low = at[0], high = at[1];
                }
                mma(acc, wa[0], wb[0], wa[1], wb[1], low.x, low.y);
                mma(acc, wa[2], wb[2], wa[3], wb[3], low.z, low.w);
                mma(acc, wa[4], wb[4], wa[5], wb[5], high.x, high.y);
                mma(acc, wa[6], wb[6], wa[7], wb[7], high.z, high.w);
            }
        }
        if (t == 0) sums[g] = acc[0], sums[g + 8] = acc[2];
    }
};

// The token as halves in shared memory: x as it is, or, where `weight` is given, the norm of x, which is f32 then:
// x / sqrt(mean(x²) + eps)·weight.
__device__ __forceinline__ void load_token(half_t* to, const void* x, const float* weight, float eps, int n_columns) {
    if (weight) {
        __shared__ float sums[WARPS];
        const float4* row = (const float4*)x;
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
            ((uint2*)to)[i] =
                make_uint2(pack(v.x * scale * w.x, v.y * scale * w.y), pack(v.z * scale * w.z, v.w * scale * w.w));
        }
    } else {
        for (int i = threadIdx.x; i < n_columns / 8; i += 32 * WARPS) ((uint4*)to)[i] = ((const uint4*)x)[i];
    }
    __syncthreads();
}

// out[row] = Σ w[row][column]·x[column] (+ bias[row]) (+ what is there), for the rows of a and then those of b.
// n_tokens: the token counts only if there is one.
template <class A, class B>
__global__ void __launch_bounds__(32 * WARPS, 2) matvec(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const void* x, const float* norm, float eps,
    const int* n_tokens, float* out, const float* bias, int add, const u8* next_a, const u8* next_b,
    u32 next_bytes) {
    extern __shared__ half_t token[];
    __shared__ float sums[2][WARPS][ROWS];
    if (!*n_tokens) return;
    int warp = threadIdx.x / 32, turn = 0, tile = blockIdx.x, a_tiles = (a_rows + ROWS - 1) / ROWS;

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
        for (; tile < second.n_tiles; tile += gridDim.x) {
            second.multiply(tile, token, sums[turn][warp]);
            finish(ROWS * tile, b_rows, a_rows);
        }
    }
    ask_ahead(next_a, next_b, next_bytes, blockIdx.x, gridDim.x);
}

// out[row] = silu(gate·x)·(up·x), as halves; both matrices have n_rows
template <class A, class B>
__global__ void __launch_bounds__(32 * WARPS, 2) matvec_gate(
    const u8* gate, const u8* up, int n_rows, int n_columns, const void* x, const float* norm, float eps, half_t* out,
    const u8* next_a, const u8* next_b, u32 next_bytes) {
    extern __shared__ half_t token[];
    __shared__ float sums[2][WARPS][ROWS];
    constexpr int HALF = WARPS / 2;
    int warp = threadIdx.x / 32, turn = 0, n_tiles = (n_rows + ROWS - 1) / ROWS;

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
