// Keys and values in a page of the KV cache, as each type of cache keeps them: kernels/cpu/kv.py says how they lie.
//
// Each type brings KEYS tokens of a head, from token `first` of the page on, to shared memory as halves: keys as
// [dim][token], values as [token][dim], rows at `stride`. n threads do that together; the copies of f16 run ahead.
// And it puts 32 numbers of a token's head there, number `group` of these, a number for each lane of a warp; and it gives
// single numbers.
#pragma once
#include "common.cuh"

struct f16 {
    static __host__ __device__ constexpr int head_bytes(int dim) { return 2 * PAGE * dim; }

    template <int D, int KEYS>
    static __device__ __forceinline__ void keys(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        constexpr int PIECES = KEYS / 8;
        const half_t* from = (const half_t*)head + first;
        for (int i = thread; i < D * PIECES; i += n) {
            copy_ahead(to + i / PIECES * stride + i % PIECES * 8, from + i / PIECES * PAGE + i % PIECES * 8);
        }
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void values(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        const half_t* from = (const half_t*)head + first * D;
        for (int i = thread; i < KEYS * (D / 8); i += n) copy_ahead(to + i / (D / 8) * stride + i % (D / 8) * 8, from + 8 * i);
    }

    static __device__ __forceinline__ void put_key(u8* head, int place, int dim, int group, float x, int lane) {
        if (32 * group + lane < dim) ((half_t*)head)[(32 * group + lane) * PAGE + place] = to_half(x);
    }

    static __device__ __forceinline__ void put_value(u8* head, int place, int dim, int group, float x, int lane) {
        if (32 * group + lane < dim) ((half_t*)head)[place * ((dim + 15) / 16 * 16) + 32 * group + lane] = to_half(x);
    }

    static __device__ __forceinline__ float key(const u8* head, int place, int, int i) {
        return to_float(((const half_t*)head)[i * PAGE + place]);
    }

    static __device__ __forceinline__ float value(const u8* head, int place, int dim, int i) {
        return to_float(((const half_t*)head)[place * ((dim + 15) / 16 * 16) + i]);
    }
};

// four bytes, each less `zero` (given as that many more than 1024, in halves, twice), as halves
__device__ __forceinline__ void to_halves(u32 bytes, half2_t zero, half2_t& low, half2_t& high) {
    low = sub2(__byte_perm(bytes, 0x64646464, 0x4140), zero), high = sub2(__byte_perm(bytes, 0x64646464, 0x4342), zero);
}

// What quantised types share. BYTES: of a group of 32 numbers; Q::unpack(q, a, b, c, d): what a word of them holds,
// which for types of 4 bits are two words of bytes.
template <class Q>
struct Quantised {
    static constexpr int GROUP = Q::BYTES + 2;

    static __host__ __device__ constexpr int head_bytes(int dim) { return PAGE * (dim / 32) * GROUP; }

    template <int D, int KEYS>
    static __device__ __forceinline__ void keys(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        constexpr int PIECES = KEYS / 16;
        for (int i = thread; i < D / 32 * Q::BYTES * PIECES; i += n) {
            int line = i / PIECES, token = i % PIECES * 16;
            const u8* group = head + line / Q::BYTES * (GROUP * PAGE);
            uint4 q = *(const uint4*)(group + line % Q::BYTES * PAGE + first + token);
            const uint4* d = (const uint4*)(group + Q::BYTES * PAGE + 2 * (first + token));
            uint4 d0 = d[0], d1 = d[1];
            half_t* row = to + (line / Q::BYTES * 32 + line % Q::BYTES) * stride + token;
#pragma unroll
            for (int part = 0; part < 32 / Q::BYTES; part++) {
                uint4 low, high;
                to_halves(Q::bytes(q.x, part), Q::ZERO, low.x, low.y), to_halves(Q::bytes(q.y, part), Q::ZERO, low.z, low.w);
                to_halves(Q::bytes(q.z, part), Q::ZERO, high.x, high.y), to_halves(Q::bytes(q.w, part), Q::ZERO, high.z, high.w);
                *(uint4*)row = make_uint4(mul2(low.x, d0.x), mul2(low.y, d0.y), mul2(low.z, d0.z), mul2(low.w, d0.w));
                *(uint4*)(row + 8) = make_uint4(mul2(high.x, d1.x), mul2(high.y, d1.y), mul2(high.z, d1.z), mul2(high.w, d1.w));
                row += Q::BYTES * stride;
            }
        }
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void values(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        for (int i = thread; i < KEYS * (D / 32); i += n) {
            const u16* block = (const u16*)(head + (first * (D / 32) + i) * GROUP);
            half2_t d = pack((half_t)block[0], (half_t)block[0]);
            half_t* row = to + i / (D / 32) * stride + i % (D / 32) * 32;
#pragma unroll
            for (int word = 0; word < Q::BYTES / 4; word += 2) {
                u32 a = block[1 + 2 * word] | block[2 + 2 * word] << 16, b = block[3 + 2 * word] | block[4 + 2 * word] << 16;
#pragma unroll
                for (int part = 0; part < 32 / Q::BYTES; part++) {
                    uint4 w;
                    to_halves(Q::bytes(a, part), Q::ZERO, w.x, w.y), to_halves(Q::bytes(b, part), Q::ZERO, w.z, w.w);
                    *(uint4*)(row + part * Q::BYTES + 4 * word) = make_uint4(mul2(w.x, d), mul2(w.y, d), mul2(w.z, d), mul2(w.w, d));
                }
            }
        }
    }

    static __device__ __forceinline__ void put_key(u8* head, int place, int dim, int group, float x, int lane) {
        float d;
        u32 q = Q::quantise(x, d);
        head += group * GROUP * PAGE;
        if (lane < Q::BYTES) head[lane * PAGE + place] = q;
        if (lane == 0) ((half_t*)(head + Q::BYTES * PAGE))[place] = to_half(d);
    }

    static __device__ __forceinline__ void put_value(u8* head, int place, int dim, int group, float x, int lane) {
        float d;
        u32 q = Q::quantise(x, d);
        head += (place * (dim / 32) + group) * GROUP;
        if (lane < Q::BYTES) head[2 + lane] = q;
        if (lane == 0) *(half_t*)head = to_half(d);
    }

    static __device__ __forceinline__ float key(const u8* head, int place, int, int i) {
        head += i / 32 * GROUP * PAGE;
        float d = to_float(((const half_t*)(head + Q::BYTES * PAGE))[place]);
        return d * Q::number(head[i % Q::BYTES * PAGE + place], i % 32 / Q::BYTES);
    }

    static __device__ __forceinline__ float value(const u8* head, int place, int dim, int i) {
        head += (place * (dim / 32) + i / 32) * GROUP;
        return to_float(*(const half_t*)head) * Q::number(head[2 + i % Q::BYTES], i % 32 / Q::BYTES);
    }
};

struct Bytes {
    static constexpr int BYTES = 32;
    static constexpr half2_t ZERO = 0x64806480;  // 1024 + 128

    static __device__ __forceinline__ u32 bytes(u32 q, int) { return q ^ 0x80808080; }
    static __device__ __forceinline__ float number(u8 q, int) { return (signed char)q; }

    static __device__ __forceinline__ u32 quantise(float x, float& d) {
        float largest = fabsf(x);
        for (int i = 16; i; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, i));
        d = largest / 127.0f;
        return (u32)(int)rintf(x * (largest > 0 ? 127.0f / largest : 0.0f));
    }
};

struct Nibbles {
    static constexpr int BYTES = 16;
    static constexpr half2_t ZERO = 0x64086408;  // 1024 + 8

    static __device__ __forceinline__ u32 bytes(u32 q, int part) { return q >> 4 * part & 0x0F0F0F0F; }
    static __device__ __forceinline__ float number(u8 q, int part) { return (q >> 4 * part & 15) - 8; }

    // the largest, by size, becomes 0; what is positive is rounded by cutting off, and 8 + 8.5 does not fit
    static __device__ __forceinline__ u32 quantise(float x, float& d) {
        float top = x, bottom = x;
        for (int i = 16; i; i /= 2) {
            top = fmaxf(top, __shfl_xor_sync(~0u, top, i)), bottom = fminf(bottom, __shfl_xor_sync(~0u, bottom, i));
        }
        d = (-bottom > top ? bottom : top) / -8.0f;
        u32 q = (u32)fminf(x * (d != 0 ? 1.0f / d : 0.0f) + 8.5f, 15.0f);
        return q | __shfl_down_sync(~0u, q, 16) << 4;
    }
};

using q8_0 = Quantised<Bytes>;
using q4_0 = Quantised<Nibbles>;
