// Products of weight matrices with the rows of a few tokens (matmul.cuh): a block takes 64 rows of weights.
#include "matmul.cuh"

// out[token][row] = Σ w[row][column]·x[token][column] (+ bias[row]) (+ what is there), for the rows of a and then
// those of b. x: halves, rows at x_stride; out: f32. SPLITS: fours of warps that share the columns.
template <class A, class B, int NT, int SPLITS>
__global__ void __launch_bounds__(32 * GROUP * SPLITS, 4 / SPLITS) matmul(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const half_t* x, int x_stride,
    const int* n_tokens, float* out, int out_stride, const float* bias, int add) {
    extern __shared__ __align__(16) half_t shared[];
    int tile = blockIdx.x, a_tiles = (a_rows + ROWS - 1) / ROWS, warp = threadIdx.x / 32, n = *n_tokens;
    bool second = tile >= a_tiles;
    int first_row = ROWS * (second ? tile - a_tiles : tile), n_rows = second ? b_rows : a_rows;
    int split = warp / GROUP, row = first_row + warp % GROUP * 16;
    half_t* tiles = shared + split * 2 * 8 * NT * CHUNK;
    float acc[NT][4] = {};
    auto of = [=](int token) { return x + token * (u64)x_stride; };
    if (second) {
        multiply<B, NT>(acc, b, n_rows, row, n_columns, of, n, tiles, split, SPLITS);
    } else {
        multiply<A, NT>(acc, a, n_rows, row, n_columns, of, n, tiles, split, SPLITS);
    }
    auto sums = (float(*)[8 * NT][ROWS + 1])shared;
    put<NT>(sums[split], acc);
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * min(n, 8 * NT); i += 32 * GROUP * SPLITS) {
        int token = i / ROWS, row = i % ROWS;
        if (first_row + row >= n_rows) continue;
        int column = first_row + row + (second ? a_rows : 0);
        float* to = out + token * (u64)out_stride + column;
        float value = 0;
        for (int s = 0; s < SPLITS; s++) value += sums[s][token][row];
        if (bias) value += bias[column];
        *to = add ? *to + value : value;
    }
}

// out[token][row] = silu(gate·x)·(up·x), as halves; both matrices have n_rows
template <class A, class B, int NT>
__global__ void __launch_bounds__(32 * GROUP * 2, 2) matmul_gate(
    const u8* gate, const u8* up, int n_rows, int n_columns, const half_t* x, int x_stride, const int* n_tokens,
    half_t* out, int out_stride) {
    extern __shared__ __align__(16) half_t shared[];
    int warp = threadIdx.x / 32, n = *n_tokens, first_row = ROWS * blockIdx.x, row = first_row + warp % GROUP * 16;
    half_t* tiles = shared + warp / GROUP * 2 * 8 * NT * CHUNK;
    float acc[NT][4] = {};
    auto of = [=](int token) { return x + token * (u64)x_stride; };
    if (warp < GROUP) {
        multiply<A, NT>(acc, gate, n_rows, row, n_columns, of, n, tiles, 0, 1);
    } else {
        multiply<B, NT>(acc, up, n_rows, row, n_columns, of, n, tiles, 0, 1);
    }
    auto sums = (float(*)[8 * NT][ROWS + 1])shared;
    put<NT>(sums[warp / GROUP], acc);
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * min(n, 8 * NT); i += 32 * GROUP * 2) {
        int token = i / ROWS, row = i % ROWS;
        if (first_row + row >= n_rows) continue;
        out[token * (u64)out_stride + first_row + row] = to_half(silu(sums[0][token][row]) * sums[1][token][row]);
    }
}
