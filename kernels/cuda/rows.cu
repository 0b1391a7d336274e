// Operations on rows: unpacking weights, norm, activation, sums; and what stands before attention: rotation, and
// keys and values into the cache.
#include "formats.cuh"

// Tiles first_tile and on, n_steps to a row of them, as rows of n_columns numbers at `stride`, of which there are
// n_rows. A warp for each tile, which goes through shared memory, so that rows are written in long runs.
template <class F, class T>
__device__ __forceinline__ void unpack(
    const u8* base, u64 n_tiles, u64 first_tile, int n_steps, int n_rows, T* out, int n_columns, int stride) {
    constexpr int PIECES = F::STEP / 64, EIGHTS = F::STEP / 8;
    __shared__ uint4 staged[4][16 * EIGHTS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u64 tile = (u64)blockIdx.x * 4 + warp;
    int first_row = tile / n_steps * 16, first_column = tile % n_steps * F::STEP;
    if (first_row >= n_rows) return;
    for (int half = 0; half < 2; half++) {
        F f;
        f.fetch(base, n_tiles, first_tile + tile, half, lane);
        f.prepare();
        int row = lane / 4 + 8 * half;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            half2_t w[8];
            halves(f, piece, w);
            int eight = F::piece(lane % 4, piece) / 8;
            staged[warp][row * EIGHTS + (eight ^ row % 8)] = make_uint4(w[0], w[1], w[2], w[3]);
            staged[warp][row * EIGHTS + ((eight + 1) ^ row % 8)] = make_uint4(w[4], w[5], w[6], w[7]);
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * EIGHTS; i += 32) {
        int row = i / EIGHTS, eight = i % EIGHTS, column = first_column + 8 * eight;
        if (first_row + row >= n_rows || column >= n_columns) continue;
        uint4 w = staged[warp][row * EIGHTS + (eight ^ row % 8)];
        T* to = out + (first_row + row) * (u64)stride + column;
        if constexpr (sizeof(T) == 2) {
            *(uint4*)to = w;
        } else if (n_columns % 8) {  // neither whole eights nor aligned
            u32 words[4] = {w.x, w.y, w.z, w.w};
            for (int i = 0; i < min(8, n_columns - column); i++) to[i] = to_float((half_t)(words[i / 2] >> 16 * (i % 2)));
        } else {
            *(float4*)to = make_float4(low_half(w.x), high_half(w.x), low_half(w.y), high_half(w.y));
            *(float4*)(to + 4) = make_float4(low_half(w.z), high_half(w.z), low_half(w.w), high_half(w.w));
        }
    }
}

// some rows of a matrix as halves, for cuBLAS
template <class F>
__global__ void __launch_bounds__(128) dequantise(
    const u8* base, u64 n_tiles, u64 first_tile, int n_steps, int n_rows, half_t* out, int n_columns, int stride) {
    unpack<F>(base, n_tiles, first_tile, n_steps, n_rows, out, n_columns, stride);
}

// rows of the embedding, which the host has gathered, as f32
template <class F>
__global__ void __launch_bounds__(128) embed(
    const u8* base, u64 n_tiles, u64 first_tile, int n_steps, int n_rows, float* out, int n_columns, int stride) {
    unpack<F>(base, n_tiles, first_tile, n_steps, n_rows, out, n_columns, stride);
}

// out = x / sqrt(mean(x²) + eps)·weight, as halves: a block for each row; n_columns a multiple of 4
extern "C" __global__ void __launch_bounds__(512) rms_norm(
    const float* x, int x_stride, const float* weight, half_t* out, int n_columns, int out_stride, float eps,
    const int* n_tokens) {
    if (blockIdx.x >= *n_tokens) return;
    const float4* row = (const float4*)(x + blockIdx.x * (u64)x_stride);
    float squares = 0;
    for (int i = threadIdx.x; i < n_columns / 4; i += blockDim.x) {
        float4 v = row[i];
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    float scale = rsqrtf(sum_of_block(squares) / n_columns + eps);
    uint2* to = (uint2*)(out + blockIdx.x * (u64)out_stride);
    for (int i = threadIdx.x; i < n_columns / 4; i += blockDim.x) {
        float4 v = row[i], w = ((const float4*)weight)[i];
        to[i] = make_uint2(pack(v.x * scale * w.x, v.y * scale * w.y), pack(v.z * scale * w.z, v.w * scale * w.w));
    }
}

// The same of each head for itself, as f32, in place if asked so: a warp for each head; weight: for the columns of one.
// grid: (four heads, tokens); n_columns a multiple of 4
extern "C" __global__ void __launch_bounds__(128) head_norm(
    const float* x, int stride, const float* weight, float* out, int out_stride, int n_heads, int n_columns, float eps,
    const int* n_tokens) {
    int head = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (blockIdx.y >= *n_tokens || head >= n_heads) return;
    const float4* row = (const float4*)(x + blockIdx.y * (u64)stride + head * n_columns);
    float4* to = (float4*)(out + blockIdx.y * (u64)out_stride + head * n_columns);
    float squares = 0;
    for (int i = lane; i < n_columns / 4; i += 32) {
        float4 v = row[i];
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    float scale = rsqrtf(sum_of_warp(squares) / n_columns + eps);
    for (int i = lane; i < n_columns / 4; i += 32) {
        float4 v = row[i], w = ((const float4*)weight)[i];
        to[i] = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    }
}

// out = silu(a)·b, as halves; a and b: f32, rows at in_stride; n_columns a multiple of 4. A row for each blockIdx.y.
extern "C" __global__ void __launch_bounds__(256) activate(
    const float* a, const float* b, int in_stride, half_t* out, int n_columns, int out_stride) {
    int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n_columns) return;
    u64 at = blockIdx.y * (u64)in_stride + i;
    float4 x = *(const float4*)(a + at), y = *(const float4*)(b + at);
    *(uint2*)(out + blockIdx.y * (u64)out_stride + i) =
        make_uint2(pack(silu(x.x) * y.x, silu(x.y) * y.y), pack(silu(x.z) * y.z, silu(x.w) * y.w));
}

// out += bias
extern "C" __global__ void __launch_bounds__(256) add_bias(float* out, int stride, const float* bias, int n_columns) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n_columns) out[blockIdx.y * (u64)stride + i] += bias[i];
}

// out[i] = x[rows[i]]: the tokens whose logits are wanted
extern "C" __global__ void __launch_bounds__(1024) gather(
    const float* x, int x_stride, const int* rows, float* out, int out_stride, int n_columns, const int* n_rows) {
    if (blockIdx.x >= *n_rows) return;
    for (int i = threadIdx.x; i < n_columns; i += blockDim.x) {
        out[blockIdx.x * (u64)out_stride + i] = x[rows[blockIdx.x] * (u64)x_stride + i];
    }
}

// (cos, sin)·magnitude of each token's angles, as those of one `delay` positions before, f32[token][n_pairs][2];
// frequencies: f64[n_pairs]
extern "C" __global__ void angles(
    const double* frequencies, int n_pairs, float magnitude, int delay, float2* out, const int* n_tokens,
    const Token* tokens) {
    if (blockIdx.x >= *n_tokens) return;
    for (int i = threadIdx.x; i < n_pairs; i += blockDim.x) {
        double angle = (tokens[blockIdx.x].position - delay) * frequencies[i];
        angle -= rint(angle * 0.15915494309189535) * 6.283185307179586;  // to within half a turn
        float s, c;
        sincosf((float)angle, &s, &c);
        out[blockIdx.x * n_pairs + i] = make_float2(c * magnitude, s * magnitude);
    }
}

// Queries and keys rotated, keys and values put into the cache, queries as halves times `scale`.
//
// q, k, v: f32, each with rows at its stride. k_dim, v_dim: of a head; k_width, v_width: these rounded up to 16.
// grid: (parts of a token's pairs and values, tokens).
extern "C" __global__ void __launch_bounds__(256) rotate_and_save(
    const float* q, const float* k, const float* v, int q_stride, int k_stride, int v_stride, const float2* turns,
    int n_pairs, int neighbours, float scale, half_t* out, int n_heads, int n_kv_heads, int k_dim, int k_width,
    int v_dim, int v_width, u64 k_offset, u64 v_offset, const int* n_tokens, const Token* tokens, const u64* tables) {
    if (blockIdx.y >= *n_tokens) return;
    Token token = tokens[blockIdx.y];
    u8* page = (u8*)tables[token.table + token.position / PAGE];
    u64 row = blockIdx.y;
    int place = token.position % PAGE, half = k_dim / 2, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (n_heads + n_kv_heads) * half) {
        int head = i / half, kv_head = head - n_heads, pair = i % half;
        const float* x = kv_head < 0 ? q + row * q_stride + head * k_dim : k + row * k_stride + kv_head * k_dim;
        int2 at = pair_of(pair, n_pairs, neighbours);
        float2 y = make_float2(x[at.x], x[at.y]);
        if (pair < n_pairs) y = rotated(y.x, y.y, turns[blockIdx.y * n_pairs + pair]);
        if (kv_head < 0) {
            half_t* to = out + (blockIdx.y * (u64)n_heads + head) * k_width;
            to[at.x] = to_half(y.x * scale), to[at.y] = to_half(y.y * scale);
        } else {
            half_t* to = (half_t*)(page + k_offset) + (u64)kv_head * k_width * PAGE + place;
            to[at.x * PAGE] = to_half(y.x), to[at.y * PAGE] = to_half(y.y);
        }
        return;
    }
    i -= (n_heads + n_kv_heads) * half;
    if (i < n_kv_heads * v_dim) {
        half_t* to = (half_t*)(page + v_offset) + (u64)(i / v_dim) * v_width * PAGE + place * v_width;
        to[i % v_dim] = to_half(v[row * v_stride + i]);
    }
}
