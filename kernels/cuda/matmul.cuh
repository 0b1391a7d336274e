// Products of 16 rows of weights for each warp with the rows of a few tokens, up to 8·NT, straight from quantised planes.
//
// Weights are unpacked in registers as in matvec.cu, but scaled there. The tokens' numbers go through shared memory, 256
// columns at a time, and serve four warps; other fours of warps take other columns, or another matrix.
#pragma once
#include "formats.cuh"

constexpr int GROUP = 4, ROWS = 16 * GROUP, CHUNK = 256;

// Where 8 columns of a token lie in a chunk: such that lanes that read at the same time use different banks.
__device__ __forceinline__ int place(int token, int eight) {
    return token * CHUNK + 8 * (eight ^ ((eight >> 3 & 1) << 1 | (eight >> 4 & 1) | (token & 1) << 2));
}

// A chunk of the tokens' columns into shared memory, in the background; zeros where there are none. x(token): its row
template <int NT, class X>
__device__ __forceinline__ void load_chunk(half_t* to, const X& x, int n_tokens, int n_columns, int first) {
    for (int i = threadIdx.x % (32 * GROUP); i < 8 * NT * (CHUNK / 8); i += 32 * GROUP) {
        int token = i / (CHUNK / 8), eight = i % (CHUNK / 8), column = first + 8 * eight;
        half_t* at = to + place(token, eight);
        if (token < n_tokens && column < n_columns) {
            copy_ahead(at, x(token) + column);
        } else {
            *(uint4*)at = {};
        }
    }
}

// acc: of a warp's 16 rows, from first_row on, over the chunks split, split + n_splits, …
// tiles: room for two chunks, which the GROUP warps of this split share
template <class F, int NT, class X>
__device__ __forceinline__ void multiply(
    float (&acc)[NT][4], const u8* base, int n_rows, int first_row, int n_columns, const X& x, int n_tokens,
    half_t* tiles, int split, int n_splits) {
    constexpr int PIECES = F::STEP / 64, STEPS = CHUNK / F::STEP, TILE = 8 * NT * CHUNK;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n_steps = n_columns / F::STEP;
    int row = first_row / 16, rows_of_tiles = (n_rows + 15) / 16;
    u64 n_tiles = (u64)rows_of_tiles * n_steps;
    F next_a[STEPS], next_b[STEPS];

    auto fetch = [&](int chunk) {
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            int step = chunk * STEPS + s;
            if (step < n_steps && row < rows_of_tiles) {
                u64 tile = (u64)row * n_steps + step;
                next_a[s].fetch(base, n_tiles, tile, 0, lane), next_b[s].fetch(base, n_tiles, tile, 1, lane);
            } else {
                next_a[s].clear(), next_b[s].clear();
            }
        }
    };

    int n_rounds = (n_columns + CHUNK * n_splits - 1) / (CHUNK * n_splits);  // the same for all warps: they meet
    fetch(split);
    load_chunk<NT>(tiles, x, n_tokens, n_columns, split * CHUNK);
    close_group();
    for (int round = 0; round < n_rounds; round++) {
        int following = (round + 1) * n_splits + split;
        if (round + 1 < n_rounds) {
            load_chunk<NT>(tiles + (round + 1) % 2 * TILE, x, n_tokens, n_columns, following * CHUNK);
        }
        close_group();
        F a[STEPS], b[STEPS];
#pragma unroll
        for (int s = 0; s < STEPS; s++) a[s] = next_a[s], b[s] = next_b[s];
        fetch(following);
        await_groups<1>();
        __syncthreads();
        const half_t* tile = tiles + round % 2 * TILE;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            a[s].prepare(), b[s].prepare();
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                half2_t wa[8], wb[8];
                halves(a[s], piece, wa);
                halves(b[s], piece, wb);
                int eight = (s * F::STEP + F::piece(t, piece)) / 8;
#pragma unroll
                for (int nt = 0; nt < NT; nt++) {
                    uint4 low = *(const uint4*)(tile + place(8 * nt + g, eight));
                    uint4 high = *(const uint4*)(tile + place(8 * nt + g, eight + 1));
                    mma(acc[nt], wa[0], wb[0], wa[1], wb[1], low.x, low.y);
                    mma(acc[nt], wa[2], wb[2], wa[3], wb[3], low.z, low.w);
                    mma(acc[nt], wa[4], wb[4], wa[5], wb[5], high.x, high.y);
                    mma(acc[nt], wa[6], wb[6], wa[7], wb[7], high.z, high.w);
                }
            }
        }
        __syncthreads();
    }
}

// put a warp's sums where others find them: [token][row of the block]
template <int NT>
__device__ __forceinline__ void put(float (*sums)[ROWS + 1], const float (&acc)[NT][4]) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = threadIdx.x / 32 % GROUP * 16 + g;
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
        sums[8 * nt + 2 * t][row] = acc[nt][0], sums[8 * nt + 2 * t + 1][row] = acc[nt][1];
        sums[8 * nt + 2 * t][row + 8] = acc[nt][2], sums[8 * nt + 2 * t + 1][row + 8] = acc[nt][3];
    }
}
