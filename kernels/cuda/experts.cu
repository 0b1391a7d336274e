// Experts: which ones take each token, and their products, straight from quantised planes: each expert that some token
// takes is read once for up to 8·NT of them, the others never. And products of heads that each have a matrix.
#include "functions.cuh"
#include "matmul.cuh"

constexpr int MOST = 1024;  // experts
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fffffff)

enum Gating { SOFTMAX, SIGMOID, SQRT_SOFTPLUS, NONE, SOFTMAX_USED };

// The greater number, and of equal ones the first: what all lanes have of it.
__device__ __forceinline__ void best_of_warp(float& value, int& index) {
    for (int i = 16; i; i /= 2) {
        float other = __shfl_xor_sync(~0u, value, i);
        int at = __shfl_xor_sync(~0u, index, i);
        if (other > value || (other == value && at < index)) value = other, index = at;
    }
}

// out[token][row] = Σ w[row][column]·x[token][column] (+ bias[row]), all f32, for what decides which experts are taken: a
// warp for a row and so many TOKENS. grid: (eights of rows, parts of the tokens)
template <int TOKENS>
__global__ void __launch_bounds__(256) linear_floats(
    const float* w, int n_rows, int n_columns, const float* x, int x_stride, const float* bias, float* out,
    int out_stride, const int* n_tokens) {
    constexpr int WIDE = 512;
    __shared__ float some[TOKENS][WIDE];
    int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.y * TOKENS;
    int n = min(TOKENS, *n_tokens - first);
    if (n <= 0) return;
    float sums[TOKENS] = {};
    for (int column = 0; column < n_columns; column += WIDE) {
        int wide = min(WIDE, n_columns - column);
        __syncthreads();
        for (int i = threadIdx.x; i < TOKENS * WIDE; i += 256) {
            int token = i / WIDE, at = i % WIDE;
            some[token][at] = token < n && at < wide ? x[(first + token) * (u64)x_stride + column + at] : 0;
        }
        __syncthreads();
        for (int i = lane; row < n_rows && i < wide; i += 32) {
            float weight = w[row * (u64)n_columns + column + i];
#pragma unroll
            for (int token = 0; token < TOKENS; token++) sums[token] += weight * some[token][i];
        }
    }
#pragma unroll
    for (int token = 0; token < TOKENS; token++) {
        float sum = sum_of_warp(sums[token]);
        if (lane == 0 && row < n_rows && token < n) {
            out[(first + token) * (u64)out_stride + row] = bias ? sum + bias[row] : sum;
        }
    }
}

// out[token][used] = (number, weight), as operations.py says of Route; numbers: null, or by the token's id which experts
// it takes. A warp for each token.
extern "C" __global__ void __launch_bounds__(32) route(
    const float* logits, int stride, int n, int n_used, int gating, const float* selection, int n_groups,
    int groups_used, int normalise, float factor, const float* expert_scale, int by_logits, int share,
    const int* numbers, const int* ids, float* out, int out_stride, const int* n_tokens) {
    __shared__ float weights[MOST], scores[MOST];
    int token = blockIdx.x, lane = threadIdx.x;
    if (token >= *n_tokens) return;
    const float* x = logits + token * (u64)stride;
    float* to = out + token * (u64)out_stride;
    float largest = LOWEST, sum = 0;
    if (gating == SOFTMAX) {
        for (int i = lane; i < n; i += 32) largest = fmaxf(largest, x[i]);
        largest = largest_of_warp(largest);
        for (int i = lane; i < n; i += 32) sum += expf(x[i] - largest);
        sum = sum_of_warp(sum);
    }
    for (int i = lane; i < n; i += 32) {
        float weight = x[i];
        if (gating == SOFTMAX) weight = expf(weight - largest) / sum;
        if (gating == SIGMOID) weight = 1 / (1 + expf(-weight));
        if (gating == SQRT_SOFTPLUS) weight = sqrtf(fmaxf(weight, 0) + log1pf(expf(-fabsf(weight))));
        weights[i] = weight, scores[i] = (by_logits ? x[i] : weight) + (selection ? selection[i] : 0);
    }
    __syncwarp();
    if (n_groups > 1) {  // a group's score is the sum of its two best; all but the best groups are out
        __shared__ float of_group[MOST];
        int size = n / n_groups;
        for (int group = lane; group < n_groups; group += 32) {
            float first = -INFINITE, second = -INFINITE;
            for (int i = group * size; i < (group + 1) * size; i++) {
                second = fmaxf(second, fminf(first, scores[i])), first = fmaxf(first, scores[i]);
            }
            of_group[group] = size > 1 ? first + second : first;
        }
        __syncwarp();
        for (int group = lane; group < n_groups; group += 32) {
            int better = 0;
            for (int i = 0; i < n_groups; i++) {
                better += of_group[i] > of_group[group] || (of_group[i] == of_group[group] && i < group);
            }
            if (better < groups_used) continue;
            for (int i = group * size; i < (group + 1) * size; i++) scores[i] = -INFINITE;
        }
        __syncwarp();
    }
    sum = 0, largest = -INFINITE;
    for (int used = 0; used < n_used; used++) {
        float best = -INFINITE;
        int index = n - 1;
        for (int i = lane; i < n; i += 32) {
            if (scores[i] > best || (scores[i] == best && i < index)) best = scores[i], index = i;
        }
        best_of_warp(best, index);
        if (lane == 0) scores[index] = NOT_A_NUMBER;  // not found again
        int number = numbers ? min(max(numbers[ids[token] * n_used + used], 0), n - 1) : index / share;
        float weight = weights[number];
        if (lane == 0) to[2 * used] = number, to[2 * used + 1] = weight;
        sum += weight, largest = fmaxf(largest, weight);
        __syncwarp();
    }
    if (gating == SOFTMAX_USED) {
        sum = 0;
        for (int i = 0; i < n_used; i++) sum += expf(to[2 * i + 1] - largest);
    }
    float all = sum;
    if (gating == SOFTMAX_USED) all = 1;
    for (int used = lane; used < n_used; used += 32) {
        float weight = to[2 * used + 1];
        if (gating == SOFTMAX_USED) weight = expf(weight - largest) / sum;
        if (normalise) weight /= fmaxf(all, 1.0f / 16384);
        weight *= factor;
        to[2 * used + 1] = expert_scale ? weight * expert_scale[(int)to[2 * used]] : weight;
    }
}

// Some pairs of a token and an expert that it takes: pairs first … first + n - 1 of those sorted by expert.
struct Group {
    int expert, first, n;
};

// pairs: numbers token·n_used + used, sorted by expert; groups: of at most `most` pairs, empty ones at the end, n_groups
// in all. One block.
extern "C" __global__ void __launch_bounds__(MOST) group_pairs(
    const float* route, int stride, int n_used, int n_experts, int most, int* pairs, Group* groups, int n_groups,
    const int* n_tokens) {
    __shared__ int counts[MOST], ends[MOST], group_ends[MOST];
    int i = threadIdx.x, n = *n_tokens * n_used;
    counts[i] = 0;
    __syncthreads();
    auto expert_of = [&](int pair) {
        return min(max((int)route[pair / n_used * (u64)stride + pair % n_used * 2], 0), n_experts - 1);
    };
    for (int pair = i; pair < n; pair += MOST) atomicAdd(counts + expert_of(pair), 1);
    __syncthreads();
    int count = counts[i], mine = (count + most - 1) / most;
    ends[i] = count, group_ends[i] = mine;
    __syncthreads();
    for (int step = 1; step < MOST; step *= 2) {
        int before = i >= step ? ends[i - step] : 0, groups_before = i >= step ? group_ends[i - step] : 0;
        __syncthreads();
        ends[i] += before, group_ends[i] += groups_before;
        __syncthreads();
    }
    int first = ends[i] - count, first_group = group_ends[i] - mine;
    for (int k = 0; k < mine; k++) {
        groups[first_group + k] = {i, first + k * most, min(most, count - k * most)};
    }
    for (int k = group_ends[MOST - 1] + i; k < n_groups; k += MOST) groups[k] = {0, 0, 0};
    counts[i] = first;
    __syncthreads();
    for (int pair = i; pair < n; pair += MOST) pairs[atomicAdd(counts + expert_of(pair), 1)] = pair;
}

// Which pairs a block works on, into pair_of, and of which expert: groups say it; without them, for one token, the route;
// and without that, head h of each token has matrix h.
template <int NT>
__device__ __forceinline__ Group group_of(
    const float* route, const Group* groups, const int* pairs, int n_used, int n_tokens, int (&pair_of)[8 * NT]) {
    Group group;
    if (groups) {
        group = groups[blockIdx.y];
    } else if (route) {
        group = {(int)route[2 * blockIdx.y], (int)blockIdx.y, 1};
    } else {
        int first = blockIdx.y / n_used * 8 * NT;
        group = {(int)blockIdx.y % n_used, first, min(8 * NT, n_tokens - first)};
    }
    if ((int)threadIdx.x < group.n) {
        int i = group.first + threadIdx.x;
        pair_of[threadIdx.x] = groups ? pairs[i] : route ? i : i * n_used + group.expert;
    }
    __syncthreads();
    return group;
}

// out[token][used][row] = Σ w[expert][row][column]·x[column] (+ bias[expert][row]); x: halves, a row for each token, or,
// x_heads > 1, for each pair. Matrices lie one after another, at `expert_rows`. grid: (blocks of 64 rows, groups)
template <class F, int NT, int SPLITS>
__global__ void __launch_bounds__(32 * GROUP * SPLITS, 4 / SPLITS) expert_matmul(
    const u8* w, int all_rows, int expert_rows, int n_rows, int n_columns, const half_t* x, int x_stride, int x_heads,
    const float* route, const Group* groups, const int* pairs, int n_used, float* out, int out_stride, const float* bias,
    const int* n_tokens) {
    extern __shared__ __align__(16) half_t shared[];
    __shared__ int pair_of[8 * NT];
    Group group = group_of<NT>(route, groups, pairs, n_used, *n_tokens, pair_of);
    if (group.n <= 0) return;
    int warp = threadIdx.x / 32, split = warp / GROUP, first_row = ROWS * blockIdx.x;
    half_t* tiles = shared + split * 2 * 8 * NT * CHUNK;
    float acc[NT][4] = {};
    auto of = [=](int i) { return x + (x_heads > 1 ? pair_of[i] : pair_of[i] / n_used) * (u64)x_stride; };
    multiply<F, NT>(acc, w, all_rows, group.expert * expert_rows + first_row + warp % GROUP * 16, n_columns, of, group.n,
                    tiles, split, SPLITS);
    auto sums = (float(*)[8 * NT][ROWS + 1])shared;
    put<NT>(sums[split], acc);
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * group.n; i += 32 * GROUP * SPLITS) {
        int pair = pair_of[i / ROWS], row = first_row + i % ROWS;
        if (row >= n_rows) continue;
        float value = bias ? bias[group.expert * n_rows + row] : 0;
        for (int s = 0; s < SPLITS; s++) value += sums[s][i / ROWS][i % ROWS];
        out[pair / n_used * (u64)out_stride + pair % n_used * n_rows + row] = value;
    }
}

// out[pair][row] = F(gate·x, up·x), as halves, rows at out_stride; limit: F's parameter. The rest as before.
template <class A, class B, int NT, class F>
__global__ void __launch_bounds__(32 * GROUP * 2, 2) expert_gate(
    const u8* gate, const u8* up, int all_rows, int expert_rows, int n_rows, int n_columns, const half_t* x, int x_stride,
    int x_heads, const float* route, const Group* groups, const int* pairs, int n_used, half_t* out, int out_stride,
    const float* gate_bias, const float* up_bias, float limit, const int* n_tokens) {
    extern __shared__ __align__(16) half_t shared[];
    __shared__ int pair_of[8 * NT];
    Group group = group_of<NT>(route, groups, pairs, n_used, *n_tokens, pair_of);
    if (group.n <= 0) return;
    int warp = threadIdx.x / 32, first_row = ROWS * blockIdx.x;
    int row = group.expert * expert_rows + first_row + warp % GROUP * 16;
    half_t* tiles = shared + warp / GROUP * 2 * 8 * NT * CHUNK;
    float acc[NT][4] = {};
    auto of = [=](int i) { return x + (x_heads > 1 ? pair_of[i] : pair_of[i] / n_used) * (u64)x_stride; };
    if (warp < GROUP) {
        multiply<A, NT>(acc, gate, all_rows, row, n_columns, of, group.n, tiles, 0, 1);
    } else {
        multiply<B, NT>(acc, up, all_rows, row, n_columns, of, group.n, tiles, 0, 1);
    }
    auto sums = (float(*)[8 * NT][ROWS + 1])shared;
    put<NT>(sums[warp / GROUP], acc);
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * group.n; i += 32 * GROUP * 2) {
        int row = first_row + i % ROWS;
        if (row >= n_rows) continue;
        float a = sums[0][i / ROWS][i % ROWS], b = sums[1][i / ROWS][i % ROWS];
        if (gate_bias) a += gate_bias[group.expert * n_rows + row];
        if (up_bias) b += up_bias[group.expert * n_rows + row];
        out[pair_of[i / ROWS] * (u64)out_stride + row] = to_half(F::of(a, b, limit, 0, 0, 0));
    }
}

// out[token][head][column] = Σ weights[head][i]·x[i][column], over x's heads; weights: null for 1, else from one token,
// head, and i to the next so many numbers
extern "C" __global__ void __launch_bounds__(256) combine(
    const float* x, int x_stride, const float* weights, int w_token, int w_head, int w_each, float* out, int out_stride,
    int n_heads, int n_sums, int n_columns, const int* n_tokens) {
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y;
    if (i >= n_heads * n_columns || token >= *n_tokens) return;
    int head = i / n_columns, column = i % n_columns;
    float sum = 0;
    for (int k = 0; k < n_sums; k++) {
        float weight = weights ? weights[token * (u64)w_token + head * w_head + k * w_each] : 1;
        sum += weight * x[token * (u64)x_stride + k * n_columns + column];
    }
    out[token * (u64)out_stride + i] = sum;
}
