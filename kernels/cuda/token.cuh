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

    // numbers 16i and on, of 16n; a warp puts 512 of them at once
    __device__ __forceinline__ void put(int i, const float (&v)[16], int n) const {
        float largest = 0;
#pragma unroll
        for (int k = 0; k < 16; k++) largest = fmaxf(largest, fabsf(v[k]));
        largest = max_of_warp(largest);
        if (i >= n) return;
        float shrink = largest > 1e-30f ? __fdividef(1, largest) : 0;
        if (HALVES) {
            uint4* to = (uint4*)halves + 2 * i;
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const float* x = v + 8 * k;
                to[k] = make_uint4(pack(x[0] * shrink, x[1] * shrink), pack(x[2] * shrink, x[3] * shrink),
                                   pack(x[4] * shrink, x[5] * shrink), pack(x[6] * shrink, x[7] * shrink));
            }
        }
        if (BYTES) {
            // the low 16 bits of the float 1.5·2²³ + n are n; with 128 more, a high byte is rounded; with 2¹⁵ more, n is
            // positive; what both bytes then have too much is 128
            constexpr float RAISE = 12582912 + 32768 + 128;
            u32 high[4], low[4];
            int sum = 0;
            shrink *= LARGEST;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float* x = v + 4 * k;
                u32 a = __float_as_uint(x[0] * shrink + RAISE), b = __float_as_uint(x[1] * shrink + RAISE);
                u32 c = __float_as_uint(x[2] * shrink + RAISE), d = __float_as_uint(x[3] * shrink + RAISE);
                u32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);  // low a, low b, high a, high b
                low[k] = __byte_perm(ab, cd, 0x5410) ^ 0x80808080, high[k] = __byte_perm(ab, cd, 0x7632) ^ 0x80808080;
                sum += 256 * dot4(0x01010101, high[k], 0) + dot4(0x01010101, low[k], 0);
            }
            uint4* to = (uint4*)bytes + 2 * i;
            to[0] = make_uint4(high[0], high[1], high[2], high[3]), to[1] = make_uint4(low[0], low[1], low[2], low[3]);
            sums[i] = sum;
        }
        if (i % 32 == 0) scales[i / 32] = largest;
    }
};

// A lane's part of a token: 16 numbers of every 16·READERS.
struct TokenPart {
    const void* from;
    const float* norm;
    float eps;
    int n_columns;
    float4 weights[4];  // of the norm, for the first round: asked for before anything else

    __device__ __forceinline__ TokenPart(const void* from, const float* norm, float eps, int n_columns)
        : from(from), norm(norm), eps(eps), n_columns(n_columns) {
        if (threadIdx.x < READERS && norm) ask_cache(norm, n_columns), load_weights(threadIdx.x);
    }

    __device__ __forceinline__ void load_weights(int i) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            weights[k] = 16 * i < n_columns ? __ldg((const float4*)norm + 4 * i + k) : float4{};
        }
    }

    // Fill x with the token: `from` as it is, halves, or, with a norm, f32 times its weights. Gives what results are to
    // be multiplied by: 1, or 1 / sqrt(mean(from²) + eps).
    template <class N>
    __device__ __forceinline__ float load(const N& x) {
        __shared__ float squares_of[WARPS];
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = n_columns / 16;
        uint4* halves = (uint4*)x.bytes;  // where they are, in as many bytes, before they are whole numbers
        if (!norm) {
            for (int i = threadIdx.x; i < n; i += READERS) {
                copy_ahead(halves + 2 * i, (const uint4*)from + 2 * i);
                copy_ahead(halves + 2 * i + 1, (const uint4*)from + 2 * i + 1);
            }
            close_group();
            await_groups<0>();
        }
        float squares = 0;
#pragma unroll 1
        for (int i = threadIdx.x; i - lane < n; i += READERS) {
            float v[16] = {};
            if (norm) {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float4 f = i < n ? __ldcg((const float4*)from + 4 * i + k) : float4{}, w = weights[k];
                    squares += f.x * f.x + f.y * f.y + f.z * f.z + f.w * f.w;
                    v[4 * k] = f.x * w.x, v[4 * k + 1] = f.y * w.y, v[4 * k + 2] = f.z * w.z, v[4 * k + 3] = f.w * w.w;
                }
                load_weights(i + READERS);
            } else if (i < n) {
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    u32 two = ((const u32*)(halves + 2 * i))[k];
                    v[2 * k] = low_half(two), v[2 * k + 1] = high_half(two);
                }
            }
            x.put(i, v, n);
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
