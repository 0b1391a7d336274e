// Keys and values in a page of the KV cache, as each type of cache keeps them: kernels/cpu/kv.py says how they lie.
//
// Each type brings KEYS tokens of a head, from token `first` of the page on, to shared memory as halves: keys as
// [dim][token], values as [token][dim], rows at `stride`. n threads do that together; the copies of f16 run ahead.
// And it puts 32 numbers of a token's head there, number `group` of these, a number for each lane of a warp; and it gives
// single numbers.
#pragma once
#include "bytes.cuh"

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

// Single numbers that become halves in shared memory. T::get, T::put: one, in memory.
template <class T>
struct Converted {
    static __host__ __device__ constexpr int head_bytes(int dim) { return T::BYTES * PAGE * dim; }

    // n_lines rows of `width` numbers, `step` numbers apart in the cache
    static __device__ __forceinline__ void copy(
        half_t* to, int stride, const u8* from, int n_lines, int width, int step, int thread, int n) {
        for (int i = thread; i < n_lines * (width / 4); i += n) {
            int line = i / (width / 4), column = i % (width / 4) * 4;
            const u8* at = from + T::BYTES * (line * step + column);
            float x[4];
            for (int k = 0; k < 4; k++) x[k] = T::get(at + T::BYTES * k);
            *(uint2*)(to + line * stride + column) = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
        }
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void keys(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        copy(to, stride, head + T::BYTES * first, D, KEYS, PAGE, thread, n);
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void values(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        copy(to, stride, head + T::BYTES * first * D, KEYS, D, D, thread, n);
    }

    static __device__ __forceinline__ void put_key(u8* head, int place, int dim, int group, float x, int lane) {
        if (32 * group + lane < dim) T::put(head + T::BYTES * ((32 * group + lane) * PAGE + place), x);
    }

    static __device__ __forceinline__ void put_value(u8* head, int place, int dim, int group, float x, int lane) {
        int column = 32 * group + lane;
        if (column < dim) T::put(head + T::BYTES * (place * ((dim + 15) / 16 * 16) + column), x);
    }

    static __device__ __forceinline__ float key(const u8* head, int place, int, int i) {
        return T::get(head + T::BYTES * (i * PAGE + place));
    }

    static __device__ __forceinline__ float value(const u8* head, int place, int dim, int i) {
        return T::get(head + T::BYTES * (place * ((dim + 15) / 16 * 16) + i));
    }
};

struct Single {
    static constexpr int BYTES = 4;

    static __device__ __forceinline__ float get(const u8* at) { return *(const float*)at; }
    static __device__ __forceinline__ void put(u8* at, float x) { *(float*)at = x; }
};

struct Brain {
    static constexpr int BYTES = 2;

    static __device__ __forceinline__ float get(const u8* at) { return __uint_as_float(*(const u16*)at << 16); }
    static __device__ __forceinline__ void put(u8* at, float x) {  // to nearest even
        u32 bits = __float_as_uint(x);
        *(u16*)at = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    }
};

using f32 = Converted<Single>;
using bf16 = Converted<Brain>;

// four bytes, each less `zero` (given as that many more than 1024, in halves, twice), as halves
__device__ __forceinline__ void to_halves(u32 bytes, half2_t zero, half2_t& low, half2_t& high) {
    low = sub2(__byte_perm(bytes, 0x64646464, 0x4140), zero), high = sub2(__byte_perm(bytes, 0x64646464, 0x4342), zero);
}

// What blocks of 32 numbers share: d·(q - zero), plus a minimum in some. Q::BYTES: of a block's q; Q::HIGH: of its fifth
// bits; Q::MIN: whether it has a minimum; Q::bytes(word, part): what a word of q holds, which for nibbles are two words
// of bytes, the second those of 16 numbers on.
template <class Q>
struct Quantised {
    static constexpr int LINES = Q::BYTES + Q::HIGH, GROUP = LINES + (Q::MIN ? 4 : 2);

    static __host__ __device__ constexpr int head_bytes(int dim) { return PAGE * (dim / 32) * GROUP; }

    // eight numbers, in two words of bytes
    static __device__ __forceinline__ void put_eight(half_t* to, u32 a, u32 b, const half2_t (&d)[4], const half2_t (&m)[4]) {
        half2_t w[4];
        to_halves(a, Q::ZERO, w[0], w[1]), to_halves(b, Q::ZERO, w[2], w[3]);
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = Q::MIN ? fma2(w[i], d[i], m[i]) : mul2(w[i], d[i]);
        *(uint4*)to = make_uint4(w[0], w[1], w[2], w[3]);
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void keys(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        constexpr int PIECES = KEYS / 8;
        for (int i = thread; i < D / 32 * Q::BYTES * PIECES; i += n) {
            int line = i / PIECES, token = first + i % PIECES * 8;
            const u8* group = head + line / Q::BYTES * (GROUP * PAGE);
            line %= Q::BYTES;
            uint2 q = *(const uint2*)(group + line * PAGE + token);
            uint4 d4 = *(const uint4*)(group + LINES * PAGE + 2 * token), m4 = {};
            if (Q::MIN) m4 = *(const uint4*)(group + (LINES + 2) * PAGE + 2 * token);
            half2_t d[4] = {d4.x, d4.y, d4.z, d4.w}, m[4] = {m4.x, m4.y, m4.z, m4.w};
            half_t* row = to + (i / PIECES / Q::BYTES * 32 + line) * stride + i % PIECES * 8;
#pragma unroll
            for (int part = 0; part < 32 / Q::BYTES; part++) {
                u32 a = Q::bytes(q.x, part), b = Q::bytes(q.y, part);
                if (Q::HIGH) {
                    int dim = line + part * Q::BYTES;
                    uint2 high = *(const uint2*)(group + (Q::BYTES + dim / 8) * PAGE + token);
                    a |= (high.x >> dim % 8 & 0x01010101) << 4, b |= (high.y >> dim % 8 & 0x01010101) << 4;
                }
                put_eight(row + part * Q::BYTES * stride, a, b, d, m);
            }
        }
    }

    template <int D, int KEYS>
    static __device__ __forceinline__ void values(
        half_t* to, int stride, const u8* head, int first, int thread, int n) {
        for (int i = thread; i < KEYS * (D / 32); i += n) {
            const u16* block = (const u16*)(head + (first * (D / 32) + i) * GROUP);
            half2_t twice_d = pack((half_t)block[0], (half_t)block[0]), twice_m = 0;
            if (Q::MIN) twice_m = pack((half_t)block[1], (half_t)block[1]);
            half2_t d[4] = {twice_d, twice_d, twice_d, twice_d}, m[4] = {twice_m, twice_m, twice_m, twice_m};
            block += Q::MIN ? 2 : 1;
            u32 high = Q::HIGH ? block[0] | block[1] << 16 : 0;
            block += Q::HIGH / 2;
            half_t* row = to + i / (D / 32) * stride + i % (D / 32) * 32;
#pragma unroll
            for (int word = 0; word < Q::BYTES / 4; word += 2) {
                u32 x = block[2 * word] | block[2 * word + 1] << 16, y = block[2 * word + 2] | block[2 * word + 3] << 16;
#pragma unroll
                for (int part = 0; part < 32 / Q::BYTES; part++) {
                    int dim = part * Q::BYTES + 4 * word;
                    u32 a = Q::bytes(x, part), b = Q::bytes(y, part);
                    if (Q::HIGH) a |= bit_bytes(high >> dim) << 4, b |= bit_bytes(high >> (dim + 4)) << 4;
                    put_eight(row + dim, a, b, d, m);
                }
            }
        }
    }

    static __device__ __forceinline__ void put_key(u8* head, int place, int dim, int group, float x, int lane) {
        float d, m;
        u32 q = Q::quantise(x, d, m), low = lowered(q);
        head += group * GROUP * PAGE;
        if (lane < Q::BYTES) head[lane * PAGE + place] = low;
        if (Q::HIGH) {
            u32 high = __ballot_sync(~0u, q >> 4 & 1);
            if (lane < Q::HIGH) head[(Q::BYTES + lane) * PAGE + place] = high >> 8 * lane;
        }
        if (lane == 0) ((half_t*)(head + LINES * PAGE))[place] = to_half(d);
        if (Q::MIN && lane == 0) ((half_t*)(head + (LINES + 2) * PAGE))[place] = to_half(m);
    }

    static __device__ __forceinline__ void put_value(u8* head, int place, int dim, int group, float x, int lane) {
        float d, m;
        u32 q = Q::quantise(x, d, m), low = lowered(q);
        head += (place * (dim / 32) + group) * GROUP;
        if (lane < Q::BYTES) head[GROUP - Q::BYTES + lane] = low;
        if (Q::HIGH) {
            u32 high = __ballot_sync(~0u, q >> 4 & 1);
            if (lane < Q::HIGH) head[GROUP - LINES + lane] = high >> 8 * lane;
        }
        if (lane == 0) *(half_t*)head = to_half(d);
        if (Q::MIN && lane == 0) ((half_t*)head)[1] = to_half(m);
    }

    // a byte of q as it is kept: of nibbles with that of 16 lanes on
    static __device__ __forceinline__ u32 lowered(u32 q) {
        if (Q::BYTES == 32) return q;
        return (q & 15) | (__shfl_down_sync(~0u, q, 16) & 15) << 4;
    }

    static __device__ __forceinline__ float key(const u8* head, int place, int, int i) {
        head += i / 32 * GROUP * PAGE, i %= 32;
        float d = to_float(((const half_t*)(head + LINES * PAGE))[place]);
        float m = Q::MIN ? to_float(((const half_t*)(head + (LINES + 2) * PAGE))[place]) : 0;
        return number(head[i % Q::BYTES * PAGE + place], Q::HIGH ? head[(Q::BYTES + i / 8) * PAGE + place] : 0, i) * d + m;
    }

    static __device__ __forceinline__ float value(const u8* head, int place, int dim, int i) {
        head += (place * (dim / 32) + i / 32) * GROUP, i %= 32;
        float d = to_float(*(const half_t*)head), m = Q::MIN ? to_float(((const half_t*)head)[1]) : 0;
        return number(head[GROUP - Q::BYTES + i % Q::BYTES], Q::HIGH ? head[GROUP - LINES + i / 8] : 0, i) * d + m;
    }

    // number i of a block, less `zero`, from its byte of q and its byte of fifth bits
    static __device__ __forceinline__ float number(u8 low, u8 high, int i) {
        int q = Q::bytes(low, i / Q::BYTES) & 255;
        return (q | (high >> i % 8 & 1) << 4) - (int)((Q::ZERO & 0xFFFF) - 0x6400);
    }
};

// the largest of a warp's numbers, by size, with its sign; where both are as large, what is above zero
__device__ __forceinline__ float farthest_of_warp(float x) {
    float top = largest_of_warp(x), bottom = -largest_of_warp(-x);
    return -bottom > top ? bottom : top;
}

struct Bytes {
    static constexpr int BYTES = 32, HIGH = 0;
    static constexpr bool MIN = false;
    static constexpr half2_t ZERO = 0x64806480;  // 1024 + 128

    static __device__ __forceinline__ u32 bytes(u32 q, int) { return q ^ 0x80808080; }

    static __device__ __forceinline__ u32 quantise(float x, float& d, float& m) {
        float largest = largest_of_warp(fabsf(x));
        d = largest / 127.0f, m = 0;
        return (u32)(int)rintf(x * (largest > 0 ? 127.0f / largest : 0.0f));
    }
};

// BITS: 4 or 5. Without a minimum the largest, by size, becomes 0. What is positive is rounded by cutting off; 8 + 8.5
// does not fit.
template <int BITS, bool HAS_MIN>
struct Nibbles {
    static constexpr int BYTES = 16, HIGH = BITS == 5 ? 4 : 0, MOST = (1 << BITS) - 1, MIDDLE = HAS_MIN ? 0 : 1 << (BITS - 1);
    static constexpr bool MIN = HAS_MIN;
    static constexpr half2_t ZERO = (0x6400 + MIDDLE) * 0x10001u;

    static __device__ __forceinline__ u32 bytes(u32 q, int part) { return q >> 4 * part & 0x0F0F0F0F; }

    static __device__ __forceinline__ u32 quantise(float x, float& d, float& m) {
        m = MIN ? -largest_of_warp(-x) : 0.0f;
        d = MIN ? (largest_of_warp(x) - m) / MOST : farthest_of_warp(x) / -MIDDLE;
        return (u32)fminf((x - m) * (d != 0 ? 1.0f / d : 0.0f) + (MIDDLE + 0.5f), MOST);
    }
};

// nibbles that index uneven steps (formats.cuh)
struct Steps {
    static constexpr int BYTES = 16, HIGH = 0;
    static constexpr bool MIN = false;
    static constexpr half2_t ZERO = 0x64806480;  // 1024 + 128

    static __device__ __forceinline__ u32 bytes(u32 q, int part) { return steps(q >> 4 * part & 0x0F0F0F0F); }

    // The largest, by size, becomes the first step, and d what then fits all best, weighted by their squares.
    static __device__ __forceinline__ u32 quantise(float x, float& d, float& m) {
        float largest = farthest_of_warp(x), at = x * (largest != 0 ? -127.0f / largest : 0.0f);
        u32 q = 0;
        for (u32 i = 1; i < 16; i++) {
            float middle = 0.5f * ((int)(steps(i - 1) & 255) + (int)(steps(i) & 255)) - 128;
            q += at >= middle;
        }
        float step = (int)(steps(q) & 255) - 128, squares = sum_of_warp(x * x * step * step);
        d = squares > 0 ? sum_of_warp(x * x * x * step) / squares : 0.0f, m = 0;
        return q;
    }
};

using q8_0 = Quantised<Bytes>;
using q5_1 = Quantised<Nibbles<5, true>>;
using q5_0 = Quantised<Nibbles<5, false>>;
using q4_1 = Quantised<Nibbles<4, true>>;
using q4_0 = Quantised<Nibbles<4, false>>;
using iq4_nl = Quantised<Steps>;
