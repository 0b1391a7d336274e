// Into the KV cache, whatever its type.
#include "kv.cuh"

// Keys, rotated, and values into a cache of any type: a warp for 32 numbers of a head. The arguments are those of
// rotate_and_save; v_head: numbers from one head of v to the next. grid: (parts of a token's keys and values, tokens).
template <class K, class V>
__global__ void __launch_bounds__(128) save(
    const float* k, const float* v, int k_stride, int v_stride, int v_head, const float2* turns, int n_pairs,
    int neighbours, int n_kv_heads, int k_dim, int v_dim, u64 k_offset, u64 v_offset, const int* n_tokens, const Token* tokens, const u64* tables) {
    if (blockIdx.y >= *n_tokens) return;
    Token token = tokens[blockIdx.y];
    u8* page = (u8*)tables[token.table + token.position / PAGE];
    int k_groups = (k_dim + 31) / 32, v_groups = (v_dim + 31) / 32, place = token.position % PAGE;
    int unit = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (unit < n_kv_heads * k_groups) {
        int head = unit / k_groups, group = unit % k_groups, dim = 32 * group + lane;
        const float* x = k + blockIdx.y * (u64)k_stride + head * k_dim;
        bool apart = dim < 2 * n_pairs && !neighbours;
        int pair = apart ? dim % n_pairs : dim / 2;
        int2 at = pair_of(pair, n_pairs, neighbours);
        float2 y = make_float2(0, 0);
        if (dim < k_dim) y = make_float2(x[at.x], x[at.y]);
        if (pair < n_pairs) y = rotated(y.x, y.y, turns[blockIdx.y * n_pairs + pair]);
        float value = (apart ? dim >= n_pairs : dim % 2) ? y.y : y.x;
        K::put_key(page + k_offset + head * K::head_bytes((k_dim + 15) / 16 * 16), place, k_dim, group, value, lane);
        return;
    }
    unit -= n_kv_heads * k_groups;
    if (unit < n_kv_heads * v_groups) {
        int head = unit / v_groups, group = unit % v_groups, dim = 32 * group + lane;
        float value = dim < v_dim ? v[blockIdx.y * (u64)v_stride + head * v_head + dim] : 0.0f;
        V::put_value(page + v_offset + head * V::head_bytes((v_dim + 15) / 16 * 16), place, v_dim, group, value, lane);
    }
}
