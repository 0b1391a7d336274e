// Operations that make each number of a row from those in the same place of others; rotation; norms of any kind.
#include "functions.cuh"

// out = F(a, b), for n_columns of each of n_heads. Of an operand: how many numbers on the next token, head and column
// begin, 0 where one serves all. Head h of out has head (h / a_each) % a_heads of a; b may be null. grid: (parts of a row,
// tokens).
template <class F, class T>
__global__ void __launch_bounds__(256) over(
    const float* a, int a_token, int a_head, int a_column, int a_heads, int a_each, const float* b, int b_token,
    int b_head, int b_column, T* out, int out_token, int out_head, int n_heads, int n_columns, float p, float q, float r,
    float s, const int* n_tokens) {
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y;
    if (i >= n_heads * n_columns || token >= *n_tokens) return;
    int head = i / n_columns, column = i % n_columns;
    float x = a[token * (u64)a_token + head / a_each % a_heads * a_head + column * a_column];
    float y = b ? b[token * (u64)b_token + head * b_head + column * b_column] : 0;
    out[token * (u64)out_token + head * out_head + column] = as(F::of(x, y, p, q, r, s), out);
}

// out = x·(1 + rate·ln(1 + ⌊(position + offset) / length⌋))
extern "C" __global__ void __launch_bounds__(256) scale_by_position(
    const float* x, int x_stride, float* out, int out_stride, int n, float rate, int length, int offset,
    const int* n_tokens, const Token* tokens) {
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y;
    if (i >= n || token >= *n_tokens) return;
    float factor = 1 + rate * log1pf((tokens[token].position + offset) / length);
    out[token * (u64)out_stride + i] = x[token * (u64)x_stride + i] * factor;
}

// Rows of halves for products: each head of a token by itself, filled up with zeros to `width`.
extern "C" __global__ void __launch_bounds__(256) pack_rows(
    const float* x, int x_stride, half_t* out, int width, int n_columns, int n_heads, const int* n_tokens) {
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y;
    if (i >= n_heads * width || token >= *n_tokens) return;
    int head = i / width, column = i % width;
    float value = column < n_columns ? x[token * (u64)x_stride + head * n_columns + column] : 0;
    out[token * (u64)n_heads * width + i] = to_half(value);
}

// Rotation of the 2·n_pairs columns of each head that begin at `offset`; the rest is copied. May be in place.
// turns: (cos, sin)[token][n_pairs]
extern "C" __global__ void __launch_bounds__(256) rope(
    const float* x, int x_stride, float* out, int out_stride, int n_heads, int n_columns, int offset,
    const float2* turns, int n_pairs, int neighbours, const int* n_tokens) {
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y, n_others = n_columns - 2 * n_pairs;
    int units = n_pairs + n_others;  // of a head: pairs, and numbers that stay
    if (i >= n_heads * units || token >= *n_tokens) return;
    int head = i / units, unit = i % units;
    const float* from = x + token * (u64)x_stride + head * n_columns;
    float* to = out + token * (u64)out_stride + head * n_columns;
    if (unit < n_pairs) {
        int2 at = pair_of(unit, n_pairs, neighbours);
        float2 y = rotated(from[offset + at.x], from[offset + at.y], turns[token * n_pairs + unit]);
        to[offset + at.x] = y.x, to[offset + at.y] = y.y;
    } else {
        int column = unit - n_pairs;
        if (column >= offset) column += 2 * n_pairs;
        to[column] = from[column];
    }
}

// --- norms ----------------------------------------------------------------------------------------------------------

struct rms {
    static constexpr bool CENTRED = false;
    static __device__ __forceinline__ float factor(float squares, int n, float eps) { return rsqrtf(squares / n + eps); }
};
struct layer : rms {
    static constexpr bool CENTRED = true;
};
struct l2 {
    static constexpr bool CENTRED = false;
    static __device__ __forceinline__ float factor(float squares, int, float eps) { return 1 / fmaxf(sqrtf(squares), eps); }
};

// Each head by itself; weight, bias: null, for the columns of a head, or, if `own`, of all heads. May be in place.
// grid: (heads, tokens)
template <class N, class T>
__global__ void norm(
    const float* x, int x_stride, const float* weight, const float* bias, int own, T* out, int out_stride,
    int n_columns, float eps, const int* n_tokens) {
    int head = blockIdx.x, token = blockIdx.y;
    if (token >= *n_tokens) return;
    const float* row = x + token * (u64)x_stride + head * n_columns;
    T* to = out + token * (u64)out_stride + head * n_columns;
    int first = own ? head * n_columns : 0;
    float mean = 0, squares = 0;
    if (N::CENTRED) {
        for (int i = threadIdx.x; i < n_columns; i += blockDim.x) mean += row[i];
        mean = sum_of_block(mean) / n_columns;
    }
    for (int i = threadIdx.x; i < n_columns; i += blockDim.x) squares += (row[i] - mean) * (row[i] - mean);
    float factor = N::factor(sum_of_block(squares), n_columns, eps);
    for (int i = threadIdx.x; i < n_columns; i += blockDim.x) {
        float value = (row[i] - mean) * factor;
        if (weight) value *= weight[first + i];
        if (bias) value += bias[first + i];
        to[i] = as(value, to);
    }
}

// --- functions of a whole head ------------------------------------------------------------------------------------

// Shares by size. grid: (heads, tokens)
extern "C" __global__ void __launch_bounds__(128) softmax(
    const float* x, int x_stride, float* out, int out_stride, int n_columns, const int* n_tokens) {
    __shared__ float of_warps[4];
    if (blockIdx.y >= *n_tokens) return;
    const float* row = x + blockIdx.y * (u64)x_stride + blockIdx.x * n_columns;
    float* to = out + blockIdx.y * (u64)out_stride + blockIdx.x * n_columns;
    float largest = LOWEST, sum = 0;
    for (int i = threadIdx.x; i < n_columns; i += 128) largest = fmaxf(largest, row[i]);
    largest = largest_of_warp(largest);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < 4; i++) largest = fmaxf(largest, of_warps[i]);
    for (int i = threadIdx.x; i < n_columns; i += 128) sum += expf(row[i] - largest);
    sum = sum_of_block(sum);
    for (int i = threadIdx.x; i < n_columns; i += 128) to[i] = expf(row[i] - largest) / sum;
}

// What exceeds mean + deviations·standard deviation (with n - 1), else 0. grid: (heads, tokens)
extern "C" __global__ void __launch_bounds__(128) sparse(
    const float* x, int x_stride, float* out, int out_stride, int n_columns, float deviations, const int* n_tokens) {
    if (blockIdx.y >= *n_tokens) return;
    const float* row = x + blockIdx.y * (u64)x_stride + blockIdx.x * n_columns;
    float* to = out + blockIdx.y * (u64)out_stride + blockIdx.x * n_columns;
    float mean = 0, squares = 0;
    for (int i = threadIdx.x; i < n_columns; i += 128) mean += row[i];
    mean = sum_of_block(mean) / n_columns;
    for (int i = threadIdx.x; i < n_columns; i += 128) squares += (row[i] - mean) * (row[i] - mean);
    float least = mean + deviations * sqrtf(sum_of_block(squares) / (n_columns - 1));
    for (int i = threadIdx.x; i < n_columns; i += 128) to[i] = fmaxf(row[i] - least, 0);
}

// A matrix of heads × columns made nearly doubly stochastic (Sinkhorn & Knopp 1967), transposed; n: heads and columns, at
// most 32. A warp for each token.
extern "C" __global__ void __launch_bounds__(32) sinkhorn(
    const float* x, int x_stride, float* out, int out_stride, int n, int iterations, float eps, const int* n_tokens) {
    __shared__ float m[32][33];
    int i = threadIdx.x;
    if (blockIdx.x >= *n_tokens) return;
    const float* row = x + blockIdx.x * (u64)x_stride + i * n;
    if (i < n) {
        float largest = LOWEST, sum = 0;
        for (int j = 0; j < n; j++) largest = fmaxf(largest, row[j]);
        for (int j = 0; j < n; j++) sum += expf(row[j] - largest);
        for (int j = 0; j < n; j++) m[i][j] = expf(row[j] - largest) / sum + eps;
    }
    for (int turn = 0; turn < 2 * iterations - 1; turn++) {  // of columns, of rows, of columns …
        __syncwarp();
        if (i >= n) continue;
        float sum = eps;
        for (int j = 0; j < n; j++) sum += turn % 2 ? m[i][j] : m[j][i];
        for (int j = 0; j < n; j++) (turn % 2 ? m[i][j] : m[j][i]) /= sum;
    }
    __syncwarp();
    for (int j = 0; i < n && j < n; j++) out[blockIdx.x * (u64)out_stride + i * n + j] = m[j][i];
}
