// The token that a block of matvec.cu multiplies with, in shared memory: as whole numbers of 16 bits with a scale for
// every 512, cut into bytes, or as halves.
#pragma once
#include "formats.cuh"

constexpr int WARPS = 8, READERS = 32 * WARPS, THREADS = READERS + 32;  // the last warp is the supplier (ring.cuh)
constexpr float LARGEST = 32600;  // of the token's whole numbers; high bytes, rounded, end at 127

// all warps but the supplier meet
__device__ __forceinline__ void readers_meet() { asm volatile("bar.sync 1, %0;" ::"n"(READERS) : "memory"); }

// Readers say that the token is loaded; the supplier waits for that.
__device__ __forceinline__ void token_is_loaded() {
    if (threadIdx.x < READERS) {
        asm volatile("bar.arrive 2, %0;" ::"n"(THREADS) : "memory");
    } else {
        asm volatile("bar.sync 2, %0;" ::"n"(THREADS) : "memory");
    }
}

// f32[n] is soon to be read
__device__ __forceinline__ void ask_cache(const float* x, int n) {
    for (int i = 32 * threadIdx.x; i < n; i += 32 * READERS) asm volatile("prefetch.global.L2 [%0];" ::"l"(x + i));
}

// The token in shared memory, divided by the largest of every 512 numbers: as whole numbers, of every 16 the high bytes
// and then the low ones; as halves; which of both, A and B tell. Beside it zeros, the scales, and the sums of every 16.
template <class A, class B>
struct Numbers {
    static constexpr bool HALVES = same<A, F16> || same<B, F16>, BYTES = !(same<A, F16> && same<B, F16>);
    u8 *zeros, *bytes;
    half_t* halves;
    float *scales, *sums;

    __device__ __forceinline__ Numbers(u8* memory, int n_columns)
        : zeros(memory), bytes(zeros + 256), halves((half_t*)(bytes + 2 * BYTES * n_columns)),
          scales((float*)(halves + HALVES * n_columns)), sums(scales + n_columns / 128) {
        if (threadIdx.x < 64) ((u32*)zeros)[threadIdx.x] = 0;
    }

    // Numbers 512·group and on, of which a lane has four of every 128: 4·lane and on.
    __device__ __forceinline__ void put(int group, const float (&v)[16], int n_columns) const {
        int lane = threadIdx.x % 32;
        float largest = 0;
#pragma unroll
        for (int k = 0; k < 16; k++) largest = fmaxf(largest, fabsf(v[k]));
        largest = max_of_warp(largest);
        float shrink = largest > 1e-30f ? __fdividef(1, largest) : 0;
        __syncwarp();  // all have read what was here
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int column = 512 * group + 128 * k + 4 * lane;
            if (column >= n_columns) break;
            const float* x = v + 4 * k;
            if (HALVES) {
                *(uint2*)(halves + column) =
                    make_uint2(pack(x[0] * shrink, x[1] * shrink), pack(x[2] * shrink, x[3] * shrink));
            }
            if (BYTES) {
                // the low 16 bits of the float 1.5·2²³ + n are n; with 128 more, a high byte is rounded; with 2¹⁵ more, n
                // is positive; what both bytes then have too much is 128
                constexpr float RAISE = 12582912 + 32768 + 128;
                float up = shrink * LARGEST;
                u32 a = __float_as_uint(x[0] * up + RAISE), b = __float_as_uint(x[1] * up + RAISE);
                u32 c = __float_as_uint(x[2] * up + RAISE), d = __float_as_uint(x[3] * up + RAISE);
                u32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);  // low a, low b, high a, high b
                u32 low = __byte_perm(ab, cd, 0x5410) ^ 0x80808080, high = __byte_perm(ab, cd, 0x7632) ^ 0x80808080;
                u32* to = (u32*)(bytes + column / 16 * 32 + column % 16);
                to[0] = high, to[4] = low;
                int sum = 256 * dot4(0x01010101, high, 0) + dot4(0x01010101, low, 0);
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                if (lane % 4 == 0) sums[column / 16] = sum;
            }
        }
        if (lane == 0) scales[group] = largest;
    }
};

// How a warp loads its part of a token: 512 numbers, and again 512 after those of the other warps.
struct TokenPart {
    const void* from;
    const float* norm;
    float eps;
    int n_columns;
    float4 weights[4];  // of the norm, for the first 512: asked for before anything else

    __device__ __forceinline__ TokenPart(const void* from, const float* norm, float eps, int n_columns)
        : from(from), norm(norm), eps(eps), n_columns(n_columns) {
        if (threadIdx.x < READERS && norm) ask_cache(norm, n_columns), load_weights(threadIdx.x / 32);
    }

    __device__ __forceinline__ int column(int group, int k) const { return 512 * group + 128 * k + 4 * (threadIdx.x % 32); }

    __device__ __forceinline__ void load_weights(int group) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int i = column(group, k);
            weights[k] = i < n_columns ? __ldg((const float4*)(norm + i)) : float4{};
        }
    }

    // Fill x with the token: `from` as it is, halves, or, with a norm, f32 times its weights. Gives what results are to
    // be multiplied by: 1, or 1 / sqrt(mean(from²) + eps).
    template <class N>
    __device__ __forceinline__ float load(const N& x) {
        __shared__ float squares_of[WARPS];
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (!norm) {  // to where they will be as whole numbers, in as many bytes
            for (int group = warp; 512 * group < n_columns; group += WARPS) {
                for (int i = 64 * group + lane; i < 64 * group + 64 && 8 * i < n_columns; i += 32) {
                    copy_ahead((uint4*)x.bytes + i, (const uint4*)from + i);
                }
            }
            close_group();
            await_groups<0>();
            __syncwarp();
        }
        float squares = 0;
#pragma unroll 1
        for (int group = warp; 512 * group < n_columns; group += WARPS) {
            float v[16] = {};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int i = column(group, k);
                if (i >= n_columns) break;
                float4 f;
                if (norm) {
                    f = __ldcg((const float4*)((const float*)from + i));
                    squares += f.x * f.x + f.y * f.y + f.z * f.z + f.w * f.w;
                    f = make_float4(f.x * weights[k].x, f.y * weights[k].y, f.z * weights[k].z, f.w * weights[k].w);
                } else {
                    uint2 h = *(const uint2*)(x.bytes + 2 * i);
                    f = make_float4(low_half(h.x), high_half(h.x), low_half(h.y), high_half(h.y));
                }
                v[4 * k] = f.x, v[4 * k + 1] = f.y, v[4 * k + 2] = f.z, v[4 * k + 3] = f.w;
            }
            if (norm) load_weights(group + WARPS);
            x.put(group, v, n_columns);
        }
        squares = sum_of_warp(squares);
        if (lane == 0) squares_of[warp] = squares;
        readers_meet();
        token_is_loaded();
        if (!norm) return 1;
        squares = 0;
        for (int i = 0; i < WARPS; i++) squares += squares_of[i];
        return rsqrtf(squares / n_columns + eps);
    }
};
