// Attention with any mask and bias, of heads of any width: a block for one head of one token, which takes a page of keys
// after another. For what attention.cu's tensor cores do not take.
#include "kv.cuh"

constexpr int THREADS = 128, PARTS = THREADS / PAGE, WIDEST = 1024, MINE = WIDEST / THREADS;

// q: f32 rows; out[token][head·v_dim + column]. causal, window, chunk: what a token sees, as operations.py says; ends: how
// many tokens its sequence has. cap: of scores, or 0. sinks, slopes: null, or a number for each head; bias: null, or for
// each head numbers by distance, from -most_distance to most_distance. grid: (heads, tokens)
template <class K, class V, class T>
__global__ void __launch_bounds__(THREADS) attend_any(
    const float* q, int q_stride, T* out, int out_stride, int group, int k_dim, int v_dim, float scale, int causal,
    int window, int chunk, float cap, const float* sinks, const float* slopes, const float* bias, int most_distance,
    u64 k_offset, u64 v_offset, const int* ends, const int* n_tokens, const Token* tokens, const u64* tables) {
    __shared__ float query[WIDEST], parts[PARTS][PAGE], weights[PAGE];
    int head = blockIdx.x, number = blockIdx.y, key = threadIdx.x % PAGE, part = threadIdx.x / PAGE, lane = threadIdx.x % 32;
    if (number >= *n_tokens) return;
    Token token = tokens[number];
    const u64* table = tables + token.table;
    u64 k_head = k_offset + head / group * (u64)K::head_bytes((k_dim + 15) / 16 * 16);
    u64 v_head = v_offset + head / group * (u64)V::head_bytes((v_dim + 15) / 16 * 16);
    int from = 0, to = causal ? token.position + 1 : ends[number];
    if (window && causal) from = max(0, to - window);
    if (window && !causal) from = max(0, token.position - window / 2), to = min(to, token.position + window / 2 + 1);
    if (chunk) from = max(from, token.position / chunk * chunk);
    for (int i = threadIdx.x; i < k_dim; i += THREADS) query[i] = q[number * (u64)q_stride + head * k_dim + i];
    __syncthreads();

    float largest = LOWEST, sum = 0, total[MINE] = {};
    for (int page = from / PAGE; page * PAGE < to; page++) {
        const u8* memory = (const u8*)table[page];
        float product = 0;
        for (int i = part; i < k_dim; i += PARTS) product += query[i] * K::key(memory + k_head, key, k_dim, i);
        parts[part][key] = product;
        __syncthreads();
        if (threadIdx.x < PAGE) {
            float score = 0;
            for (int i = 0; i < PARTS; i++) score += parts[i][key];
            score *= scale;
            int at = page * PAGE + key, behind = token.position - at;
            if (cap) score = cap * tanhf(score / cap);
            if (slopes) score -= slopes[head] * abs(behind);
            if (bias) {
                int distance = max(-most_distance, min(most_distance, behind));
                score += bias[head * (2 * most_distance + 1) + most_distance + distance];
            }
            weights[key] = at >= from && at < to ? score : LOWEST;
        }
        __syncthreads();
        float best = largest_of_warp(fmaxf(weights[lane], weights[lane + 32]));
        best = fmaxf(best, largest);
        float less = expf(largest - best);
        float upper = weights[lane] > 0.5f * LOWEST ? expf(weights[lane] - best) : 0;
        float lower = weights[lane + 32] > 0.5f * LOWEST ? expf(weights[lane + 32] - best) : 0;
        largest = best, sum = sum * less + sum_of_warp(upper + lower);
        __syncthreads();
        if (threadIdx.x < 32) weights[lane] = upper, weights[lane + 32] = lower;
        __syncthreads();
        int first = max(from - page * PAGE, 0), last = min(to - page * PAGE, PAGE);
#pragma unroll
        for (int k = 0; k < MINE; k++) {
            int column = threadIdx.x + k * THREADS;
            if (column >= v_dim) break;
            float value = 0;
            for (int i = first; i < last; i++) value += weights[i] * V::value(memory + v_head, i, v_dim, column);
            total[k] = total[k] * less + value;
        }
        __syncthreads();
    }
    float more = 1;
    if (sinks) {
        float best = fmaxf(largest, sinks[head]);
        more = expf(largest - best);
        sum = sum * more + expf(sinks[head] - best);
    }
    T* results = out + number * (u64)out_stride + head * v_dim;
#pragma unroll
    for (int k = 0; k < MINE; k++) {
        int column = threadIdx.x + k * THREADS;
        if (column < v_dim) results[column] = as(total[k] * more / sum, results);
    }
}
