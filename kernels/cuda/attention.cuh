// What kernels of attention share (Dao et al. 2022): the state of a tile of queries, which takes keys and values as they
// come. Scores come as powers of two: queries were scaled by log2(e) too.
#pragma once
#include "kv.cuh"

[[maybe_unused]] constexpr int WARPS = 4, ROWS = 16;
[[maybe_unused]] constexpr float LOG2_E = 1.4426950408889634f;

// What a token sees, and what is done with scores. chunk, cap and sinks, if MORE, are as operations.py says of Attention,
// 0 or null for none; cap is scaled by log2(e), as scores are.
template <bool MORE>
struct Form {
    int window, chunk;
    float cap;
    const float* sinks;

    // the first key that the token at a position sees; may be negative
    __device__ __forceinline__ int first(int position) const {
        int from = window ? position + 1 - window : 0;
        return MORE && chunk ? max(from, position / chunk * chunk) : from;
    }

    // scores s, capped
    template <int N>
    __device__ __forceinline__ void limit(float (&s)[N][4]) const {
        if (!MORE || cap == 0) return;
        float scale = 2 / cap;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = cap * (1 - __fdividef(2, 1 + __expf(scale * s[n][i])));
        }
    }

    // what the sink of a head adds to the sum of its weights, of which the largest score has weight 1
    __device__ __forceinline__ float sink(int head, float largest) const {
        return MORE && sinks ? power_of_two(sinks[head] * LOG2_E - largest) : 0;
    }
};

// What a warp knows of its 16 rows: lane 4g + t has rows g and g + 8.
template <int DK, int DV>
struct Rows {
    half2_t q[DK / 16][4];
    float o[DV / 8][4], largest[2], sum[2];  // sum: over this lane's keys only

    __device__ __forceinline__ void start(const half_t* upper, const half_t* lower) {
        int t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < DK / 16; i++) {
            q[i][0] = upper ? *(const half2_t*)(upper + 16 * i + 2 * t) : 0;
            q[i][1] = lower ? *(const half2_t*)(lower + 16 * i + 2 * t) : 0;
            q[i][2] = upper ? *(const half2_t*)(upper + 16 * i + 2 * t + 8) : 0;
            q[i][3] = lower ? *(const half2_t*)(lower + 16 * i + 2 * t + 8) : 0;
        }
#pragma unroll
        for (int i = 0; i < DV / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
        largest[0] = largest[1] = LOWEST, sum[0] = sum[1] = 0;
    }

    // Take KEYS keys and values from shared memory, the first of number `key`; row i sees those from[i] … to[i], or,
    // unless SOME, all.
    template <int KEYS, bool SOME = true, bool MORE>
    __device__ __forceinline__ void take(const Form<MORE>& form, const half_t* k, int k_stride, const half_t* v,
                                         int v_stride, int key, const int (&from)[2], const int (&to)[2]) {
        int lane = threadIdx.x % 32, tile_row = lane / 8 % 2 * 8 + lane % 8, tile_column = lane / 16 * 8;
        float s[KEYS / 8][4] = {};
#pragma unroll
        for (int i = 0; i < DK / 16; i++) {
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                u32 b[4];
                load_transposed(b, k + (16 * i + tile_row) * k_stride + 16 * n + tile_column);
                mma(s[2 * n], q[i][0], q[i][1], q[i][2], q[i][3], b[0], b[1]);
                mma(s[2 * n + 1], q[i][0], q[i][1], q[i][2], q[i][3], b[2], b[3]);
            }
        }
        half2_t p[KEYS / 16][4];
        float less[2];
        form.limit(s);
        weigh<KEYS, SOME>(s, less, key, from, to);
        shrink(less);
        pack_all<KEYS>(s, p);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
#pragma unroll
            for (int i = 0; i < DV / 16; i++) {
                u32 b[4];
                load_transposed(b, v + (16 * n + tile_row) * v_stride + 16 * i + tile_column);
                mma(o[2 * i], p[n][0], p[n][1], p[n][2], p[n][3], b[0], b[1]);
                mma(o[2 * i + 1], p[n][0], p[n][1], p[n][2], p[n][3], b[2], b[3]);
            }
        }
    }

    // From the scores of KEYS keys, s, what their values are to be multiplied by, in their place, and what o has so far is
    // to be multiplied by, `less`.
    template <int KEYS, bool SOME>
    __device__ __forceinline__ void weigh(float (&s)[KEYS / 8][4], float (&less)[2], int key, const int (&from)[2],
                                          const int (&to)[2]) {
        int t = threadIdx.x % 4;
        float best[2] = {largest[0], largest[1]};
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int number = key + 8 * n + 2 * t + i % 2;
                if (SOME) s[n][i] = number >= from[i / 2] && number <= to[i / 2] ? s[n][i] : LOWEST;
                best[i / 2] = fmaxf(best[i / 2], s[n][i]);
            }
        }
#pragma unroll
        for (int lanes = 1; lanes < 4; lanes *= 2) {
            float others[2];
#pragma unroll
            for (int row = 0; row < 2; row++) others[row] = __shfl_xor_sync(~0u, best[row], lanes);
#pragma unroll
            for (int row = 0; row < 2; row++) best[row] = fmaxf(best[row], others[row]);
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
            less[row] = power_of_two(largest[row] - best[row]);
            largest[row] = best[row], sum[row] *= less[row];
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float weight = power_of_two(s[n][i] - best[i / 2]);
                s[n][i] = !SOME || s[n][i] > 0.5f * LOWEST ? weight : 0.0f;
                sum[i / 2] += s[n][i];
            }
        }
    }

    // weights as the first factor of a product
    template <int KEYS>
    static __device__ __forceinline__ void pack_all(const float (&s)[KEYS / 8][4], half2_t (&p)[KEYS / 16][4]) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            p[n][0] = pack_small(s[2 * n][0], s[2 * n][1]), p[n][1] = pack_small(s[2 * n][2], s[2 * n][3]);
            p[n][2] = pack_small(s[2 * n + 1][0], s[2 * n + 1][1]), p[n][3] = pack_small(s[2 * n + 1][2], s[2 * n + 1][3]);
        }
    }

    __device__ __forceinline__ void shrink(const float (&less)[2]) {
        if (!__any_sync(~0u, less[0] < 1 || less[1] < 1)) return;
#pragma unroll
        for (int i = 0; i < DV / 8; i++) {
#pragma unroll
            for (int k = 0; k < 4; k++) o[i][k] *= less[k / 2];
        }
    }

    __device__ __forceinline__ void finish() {
        for (int row = 0; row < 2; row++) {
            sum[row] += __shfl_xor_sync(~0u, sum[row], 1);
            sum[row] += __shfl_xor_sync(~0u, sum[row], 2);
        }
    }
};

// Some rows of a sequence's queries, at most TASK_ROWS; row i is head i % group of token first_token + i / group. No
// tokens: nothing to do.
struct Task {
    int first_token, n_tokens, first_row;
};

[[maybe_unused]] constexpr int TASK_ROWS = 128;

// What a block that takes `most` rows of a task, from first_row on, needs of the cache.
struct Pages {
    int start, end_row, page, end;  // position of the sequence's first token; rows before end_row; pages
    const u64* table;

    template <bool MORE>
    __device__ __forceinline__ Pages(
        const Task& task, int first_row, int most, int group, const Form<MORE>& form, const Token* tokens,
        const u64* tables) {
        Token first = tokens[task.first_token];
        start = first.position, table = tables + first.table;
        end_row = min(first_row + most, task.n_tokens * group);
        page = max(0, form.first(start + first_row / group)) / PAGE;
        end = (start + (end_row - 1) / group) / PAGE + 1;
    }
};

// A warp's 16 rows of a task, the first of which is first_row, among those of the block: what they see.
struct Seen {
    int token[2], head[2], from[2], to[2];
    bool exists[2];
    int by_all_from, by_all_to;

    template <bool MORE>
    __device__ __forceinline__ Seen(
        const Task& task, const Pages& pages, int first_row, int kv_head, int group, const Form<MORE>& form) {
        for (int i = 0; i < 2; i++) {
            int row = first_row + threadIdx.x % 32 / 4 + 8 * i;
            token[i] = task.first_token + row / group, head[i] = kv_head * group + row % group;
            exists[i] = row < pages.end_row;
            to[i] = pages.start + row / group, from[i] = form.first(to[i]);
        }
        int last_row = min(first_row + ROWS, pages.end_row) - 1;
        by_all_from = form.first(pages.start + last_row / group), by_all_to = pages.start + first_row / group;
    }

    __device__ __forceinline__ bool all_of(int page) const {
        return page * PAGE >= by_all_from && page * PAGE + PAGE - 1 <= by_all_to;
    }

    // q: halves[token][head][DK]
    template <int DK, int DV>
    __device__ __forceinline__ void start(Rows<DK, DV>& rows, const half_t* q, int n_heads) const {
        const half_t* own[2];
        for (int i = 0; i < 2; i++) own[i] = exists[i] ? q + ((u64)token[i] * n_heads + head[i]) * DK : nullptr;
        rows.start(own[0], own[1]);
    }

    // out[token][head·v_dim + column]: halves, rows at out_stride
    template <int DK, int DV, bool MORE>
    __device__ __forceinline__ void finish(
        const Form<MORE>& form, Rows<DK, DV>& rows, half_t* out, int out_stride, int v_dim) const {
        rows.finish();
        for (int i = 0; i < 2; i++) {
            if (!exists[i]) continue;
            half_t* at = out + (u64)token[i] * out_stride + head[i] * v_dim;
            float scale = 1.0f / (rows.sum[i] + form.sink(head[i], rows.largest[i]));
            for (int n = 0; n < DV / 8; n++) {
                int column = 8 * n + 2 * (threadIdx.x % 4);
                if (column < v_dim) at[column] = to_half(rows.o[n][2 * i] * scale);
                if (column + 1 < v_dim) at[column + 1] = to_half(rows.o[n][2 * i + 1] * scale);
            }
        }
    }
};
