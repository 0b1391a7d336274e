// Products of weight matrices with the rows of a few tokens (up to 8·NT), straight from quantised planes.
//
// A block takes 16 rows of weights, and its warps share the columns. Lane 4g + t of a warp unpacks units of rows g
// and g + 8 to halves, in registers, where they are the tensor core's left operand; token g's activations of the same
// columns are the right one. Which column is which in a multiplication does not matter, as long as both sides agree:
// so each lane reads 16 bytes at a time, as they lie.
#include "formats.cuh"

constexpr int WARPS = 8, ROWS = 16;

template <int NT>
struct Partial {  // of each warp
    float sums[WARPS][8 * NT][ROWS + 1];
};

template <class F>
__device__ __forceinline__ void fetch(F& f, const u8* base, u64 n_blocks, u64 row, int unit, int n_units) {
    if (unit < n_units) {
        f.fetch(base, n_blocks, row * n_units + unit);
    } else {
        f.clear();
    }
}

// one warp's share of 16 rows: every n_warps-th step of four units
template <class F, int NT>
__device__ __forceinline__ void multiply(
    float (&sums)[8 * NT][ROWS + 1], const u8* base, int n_rows, int first_row, int n_columns, const half_t* x,
    int x_stride, int n_tokens, int warp, int n_warps) {
    constexpr int PER_BLOCK = F::COLUMNS / F::UNIT, PIECES = F::UNIT / 16;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, n_units = n_columns / F::UNIT;
    u64 n_blocks = (u64)n_rows * (n_columns / F::COLUMNS);
    int upper = min(first_row + g, n_rows - 1), lower = min(first_row + g + 8, n_rows - 1);
    float acc[NT][4] = {};
    F a, b, next_a, next_b;
    fetch(a, base, n_blocks, upper, 4 * warp + t, n_units);
    fetch(b, base, n_blocks, lower, 4 * warp + t, n_units);
    for (int first = 4 * warp; first < n_units; first += 4 * n_warps) {
        int unit = first + t, next = unit + 4 * n_warps;
        fetch(next_a, base, n_blocks, upper, next, n_units);
        fetch(next_b, base, n_blocks, lower, next, n_units);
        a.prepare(), b.prepare();
        const half_t* block = x + unit / PER_BLOCK * F::COLUMNS;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            half2_t wa[8], wb[8];
            halves(a, piece, wa);
            halves(b, piece, wb);
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                uint4 low = {}, high = {};
                if (8 * nt + g < n_tokens && unit < n_units) {
                    const uint4* at = (const uint4*)(block + (8 * nt + g) * (u64)x_stride + F::piece(unit % PER_BLOCK, piece));
                    low = at[0], high = at[1];
                }
                mma(acc[nt], wa[0], wb[0], wa[1], wb[1], low.x, low.y);
                mma(acc[nt], wa[2], wb[2], wa[3], wb[3], low.z, low.w);
                mma(acc[nt], wa[4], wb[4], wa[5], wb[5], high.x, high.y);
                mma(acc[nt], wa[6], wb[6], wa[7], wb[7], high.z, high.w);
            }
        }
        a = next_a, b = next_b;
    }
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
        sums[8 * nt + 2 * t][g] = acc[nt][0], sums[8 * nt + 2 * t + 1][g] = acc[nt][1];
        sums[8 * nt + 2 * t][g + 8] = acc[nt][2], sums[8 * nt + 2 * t + 1][g + 8] = acc[nt][3];
    }
}

template <int NT>
__device__ __forceinline__ float total(const Partial<NT>& partial, int token, int row, int first, int end) {
    float sum = 0;
    for (int warp = first; warp < end; warp++) sum += partial.sums[warp][token][row];
    return sum;
}

// out[token][row] = Σ w[row][column]·x[token][column] (+ bias[row]) (+ what is there), for the rows of a and then
// those of b. x: halves, rows of n_columns at x_stride; out: f32.
template <class A, class B, int NT>
__global__ void __launch_bounds__(32 * WARPS, 2) linear(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const half_t* x, int x_stride,
    const int* n_tokens, float* out, int out_stride, const float* bias, int add) {
    __shared__ Partial<NT> partial;
    int tile = blockIdx.x, a_tiles = (a_rows + ROWS - 1) / ROWS, warp = threadIdx.x / 32, n = *n_tokens;
    bool second = tile >= a_tiles;
    int first_row = ROWS * (second ? tile - a_tiles : tile), n_rows = second ? b_rows : a_rows;
    if (second) {
        multiply<B, NT>(partial.sums[warp], b, n_rows, first_row, n_columns, x, x_stride, n, warp, WARPS);
    } else {
        multiply<A, NT>(partial.sums[warp], a, n_rows, first_row, n_columns, x, x_stride, n, warp, WARPS);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * min(n, 8 * NT); i += 32 * WARPS) {
        int token = i / ROWS, row = i % ROWS;
        if (first_row + row >= n_rows) continue;
        int column = first_row + row + (second ? a_rows : 0);
        float* to = out + token * (u64)out_stride + column;
        float value = total(partial, token, row, 0, WARPS);
        if (bias) value += bias[column];
        *to = add ? *to + value : value;
    }
}

// out[token][row] = silu(gate·x)·(up·x), as halves; both matrices have n_rows
template <class A, class B, int NT>
__global__ void __launch_bounds__(32 * WARPS, 2) swiglu(
    const u8* gate, const u8* up, int n_rows, int n_columns, const half_t* x, int x_stride, const int* n_tokens,
    half_t* out, int out_stride) {
    __shared__ Partial<NT> partial;
    constexpr int HALF = WARPS / 2;
    int first_row = ROWS * blockIdx.x, warp = threadIdx.x / 32, n = *n_tokens;
    if (warp < HALF) {
        multiply<A, NT>(partial.sums[warp], gate, n_rows, first_row, n_columns, x, x_stride, n, warp, HALF);
    } else {
        multiply<B, NT>(partial.sums[warp], up, n_rows, first_row, n_columns, x, x_stride, n, warp - HALF, HALF);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * min(n, 8 * NT); i += 32 * WARPS) {
        int token = i / ROWS, row = i % ROWS;
        if (first_row + row >= n_rows) continue;
        float value = silu(total(partial, token, row, 0, HALF)) * total(partial, token, row, HALF, WARPS);
        out[token * (u64)out_stride + first_row + row] = to_half(value);
    }
}
