// GGUF tensor types on the GPU.
//
// A matrix lies in tiles of 16 rows and STEP columns, a tile being what a warp takes at a time: lane 4g + t has a *unit*
// of STEP/4 columns of row g, and one of row g + 8. Each field of a type's blocks has a plane by itself, and in a plane
// lie the tiles of a row of tiles, one after another; what the lanes of a warp read at the same time lies side by side
// (formats.py puts it there).
//
// `plane` gives the bytes of a tile in each plane. `fetch` reads a unit, of row g for half 0 and g + 8 for half 1, from
// global memory or from a tile in shared memory, `prepare` makes the scales of its GROUPS, and `columns` gives four
// columns of a piece of 16 as unsigned bytes f·q, with f = factor(piece), the same in a group: nibbles need not be moved
// down. Every type is affine in a group: w = scale·(q - OFFSET) - least. `piece` gives where in the tile's columns a
// piece of lane t begins.
#pragma once
#include "bytes.cuh"

__device__ __forceinline__ uint4 load16(const u8* p) { return __ldg((const uint4*)p); }
__device__ __forceinline__ uint2 load8(const u8* p) { return __ldg((const uint2*)p); }
__device__ __forceinline__ u32 load4(const u8* p) { return __ldg((const u32*)p); }
__device__ __forceinline__ u32 load2(const u8* p) { return __ldg((const u16*)p); }
__device__ __forceinline__ u32 load1(const u8* p) { return __ldg(p); }

// an address in shared memory
struct Shared {
    const u8* at;
    __device__ __forceinline__ Shared operator+(u64 n) const { return {at + n}; }
    __device__ __forceinline__ void operator+=(u64 n) { at += n; }
};

__device__ __forceinline__ uint4 load16(Shared p) { return *(const uint4*)p.at; }
__device__ __forceinline__ uint2 load8(Shared p) { return *(const uint2*)p.at; }
__device__ __forceinline__ u32 load4(Shared p) { return *(const u32*)p.at; }
__device__ __forceinline__ u32 load2(Shared p) { return *(const u16*)p.at; }
__device__ __forceinline__ u32 load1(Shared p) { return *p.at; }

__device__ __forceinline__ u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
__device__ __forceinline__ float low_half(u32 v) { return to_float((half_t)v); }
__device__ __forceinline__ float high_half(u32 v) { return to_float((half_t)(v >> 16)); }

// --- blocks of 32 columns: a scale, perhaps a minimum, perhaps fifth bits -----------------------------------------

template <bool MIN, bool FIFTH>
struct Nibbles32 {
    static constexpr int STEP = 128, GROUPS = FIFTH ? 1 : 2, OFFSET = MIN ? 0 : FIFTH ? 16 : 8;
    static constexpr bool HAS_LEAST = MIN;
    uint4 q;
    u32 high, d;
    float scale_, least_;

    __device__ static constexpr int plane(int i) {
        return i == 0 ? 1024 : i == 1 && FIFTH ? 256 : i == 1 + FIFTH ? (MIN ? 256 : 128) : 0;
    }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        base += 1024 * n_tiles;
        if (FIFTH) high = load4(base + 128 * (2 * tile + half) + 4 * lane), base += 256 * n_tiles;
        d = MIN ? load4(base + 128 * (2 * tile + half) + 4 * lane) : load2(base + 64 * (2 * tile + half) + 2 * lane);
    }
    __device__ __forceinline__ void clear() { q = {}, high = d = 0; }
    __device__ __forceinline__ void prepare() {
        scale_ = low_half(d), least_ = MIN ? -high_half(d) : 0.0f;
    }
    __device__ static constexpr int factor(int piece) { return FIFTH || piece == 0 ? 1 : 16; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        if (FIFTH) return (word(q, i) >> 4 * piece & 0x0F0F0F0F) | bit_bytes(high >> (16 * piece + 4 * i)) << 4;
        return word(q, i) & (piece ? 0xF0F0F0F0 : 0x0F0F0F0F);
    }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return least_; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 32 * t + 16 * piece; }
};

typedef Nibbles32<false, false> Q4_0;
typedef Nibbles32<true, false> Q4_1;
typedef Nibbles32<false, true> Q5_0;
typedef Nibbles32<true, true> Q5_1;

struct Q8_0 {
    static constexpr int STEP = 128, GROUPS = 1, OFFSET = 128;
    static constexpr bool HAS_LEAST = false;
    uint4 q[2];
    u32 d;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 2048 : i == 1 ? 128 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 1024 * (2 * tile + half) + 16 * lane;
        q[0] = load16(at), q[1] = load16(at + 512);
        d = load2(base + 2048 * n_tiles + 64 * (2 * tile + half) + 2 * lane);
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = {}, d = 0; }
    __device__ __forceinline__ void prepare() { scale_ = low_half(d); }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const { return word(q[piece], i) ^ 0x80808080; }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 32 * t + 16 * piece; }
};

// --- IQ4: nibbles that index a table of uneven steps --------------------------------------------------------------

struct IQ4_NL {
    static constexpr int STEP = 128, GROUPS = 1, OFFSET = 128;
    static constexpr bool HAS_LEAST = false;
    uint4 q;
    u32 d;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 128 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        d = load2(base + 1024 * n_tiles + 64 * (2 * tile + half) + 2 * lane);
    }
    __device__ __forceinline__ void clear() { q = {}, d = 0; }
    __device__ __forceinline__ void prepare() { scale_ = low_half(d); }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        return steps(word(q, i) >> 4 * piece & 0x0F0F0F0F);
    }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 32 * t + 16 * piece; }
};

struct IQ4_XS {
    static constexpr int STEP = 256, GROUPS = 2, OFFSET = 128;
    static constexpr bool HAS_LEAST = false;
    uint4 q[2];
    uint2 header;  // d, high bits of the scales, low bits of the scales
    int group;
    float scale_[2];

    __device__ static constexpr int plane(int i) { return i == 0 ? 2048 : i == 1 ? 128 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 1024 * (2 * tile + half) + 16 * lane;
        q[0] = load16(at), q[1] = load16(at + 512);
        header = load8(base + 2048 * n_tiles + 64 * (2 * tile + half) + 8 * (lane / 4));
        group = lane % 4 * 2;
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = {}, header = {}, group = 0; }
    __device__ __forceinline__ void prepare() {
        float d = low_half(header.x);
        for (int i = 0; i < 2; i++) {
            int s = (header.y >> 4 * (group + i) & 15) | (header.x >> (16 + 2 * (group + i)) & 3) << 4;
            scale_[i] = d * (s - 32);
        }
    }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        return steps(word(q[piece / 2], i) >> 4 * (piece % 2) & 0x0F0F0F0F);
    }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

// --- K-quants: blocks of 256 columns, whose scales are themselves quantised ---------------------------------------

template <bool FIFTH>
struct Nibbles256 {
    static constexpr int STEP = 256, GROUPS = 2, OFFSET = 0;
    static constexpr bool HAS_LEAST = true;
    uint4 q[2], header;  // header: d, dmin, and 12 bytes that hold eight scales and eight mins of 6 bits
    uint4 high[FIFTH ? 2 : 1];
    int group;
    float scale_[2], least_[2];

    __device__ static constexpr int plane(int i) {
        return i == 0 ? 2048 : i == 1 && FIFTH ? 512 : i == 1 + FIFTH ? 256 : 0;
    }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 1024 * (2 * tile + half) + 16 * lane;
        q[0] = load16(at), q[1] = load16(at + 512);
        base += 2048 * n_tiles;
        if (FIFTH) {
            at = base + 256 * (2 * tile + half) + 32 * (lane / 4);
            high[0] = load16(at), high[1] = load16(at + 16);
            base += 512 * n_tiles;
        }
        header = load16(base + 128 * (2 * tile + half) + 16 * (lane / 4));
        group = lane % 4 * 2;
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = header = high[0] = high[FIFTH] = {}, group = 0; }
    __device__ __forceinline__ void prepare() {
        u32 a = header.y, b = header.z, c = header.w;
        u32 s = group < 4 ? a & 0x3F3F3F3F : (c & 0x0F0F0F0F) | (a >> 2 & 0x30303030);
        u32 m = group < 4 ? b & 0x3F3F3F3F : (c >> 4 & 0x0F0F0F0F) | (b >> 2 & 0x30303030);
        s >>= 8 * (group % 4), m >>= 8 * (group % 4);
        float d = low_half(header.x), dmin = high_half(header.x);
        scale_[0] = d * (s & 255), scale_[1] = d * (s >> 8 & 255);
        least_[0] = dmin * (m & 255), least_[1] = dmin * (m >> 8 & 255);
    }
    __device__ static constexpr int factor(int piece) { return FIFTH || piece < 2 ? 1 : 16; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 v = word(q[piece % 2], i);
        if (!FIFTH) return v & (piece < 2 ? 0x0F0F0F0F : 0xF0F0F0F0);
        v = v >> 4 * (piece / 2) & 0x0F0F0F0F;
        return v | (word(high[piece % 2], i) >> (group + piece / 2) & 0x01010101) << 4;
    }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int group) const { return least_[group]; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

typedef Nibbles256<false> Q4_K;
typedef Nibbles256<true> Q5_K;

// Q2_K, Q3_K and Q6_K take 128 columns in four runs of 32; a unit is a half of each run, so pieces lie 32 apart
struct Runs256 {
    static constexpr int STEP = 256, GROUPS = 4;
    __device__ static constexpr int factor(int) { return 1; }
    __device__ static __forceinline__ int piece(int t, int piece) { return t / 2 * 128 + t % 2 * 16 + 32 * piece; }
};

struct Q6_K : Runs256 {
    static constexpr int OFFSET = 32;
    static constexpr bool HAS_LEAST = false;
    uint4 q[2], high;
    uint2 scales;  // of eight pieces, every other one ours
    u32 d;
    int odd;
    float scale_[4];

    __device__ static constexpr int plane(int i) { return i == 0 ? 2048 : i == 1 ? 1024 : i == 2 ? 256 : 32; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 1024 * (2 * tile + half) + 16 * lane;
        q[0] = load16(at), q[1] = load16(at + 512);
        high = load16(base + 2048 * n_tiles + 512 * (2 * tile + half) + 16 * lane);
        scales = load8(base + 3072 * n_tiles + 128 * (2 * tile + half) + 8 * (lane / 2));
        d = load2(base + 3328 * n_tiles + 16 * (2 * tile + half) + 2 * (lane / 4));
        odd = lane % 2;
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = high = {}, scales = {}, d = odd = 0; }
    __device__ __forceinline__ void prepare() {
        float f = low_half(d);
        u32 a = scales.x >> 8 * odd, b = scales.y >> 8 * odd;
        scale_[0] = f * (signed char)a, scale_[1] = f * (signed char)(a >> 16);
        scale_[2] = f * (signed char)b, scale_[3] = f * (signed char)(b >> 16);
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 low = word(q[piece % 2], i) >> 4 * (piece / 2) & 0x0F0F0F0F;
        return low | (word(high, i) >> 2 * piece & 0x03030303) << 4;
    }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int) const { return 0; }
};

struct Q3_K : Runs256 {
    static constexpr int OFFSET = 4;
    static constexpr bool HAS_LEAST = false;
    uint4 q, high;
    u32 a, b, c, d;  // 12 bytes of scales; d
    int unit_;
    float scale_[4];

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 512 : i == 2 ? 192 : 32; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        high = load16(base + 1024 * n_tiles + 256 * (2 * tile + half) + 32 * (lane / 4) + 16 * (lane % 2));
        P s = base + 1536 * n_tiles + 96 * (2 * tile + half) + 12 * (lane / 4);
        a = load4(s), b = load4(s + 4), c = load4(s + 8);
        d = load2(base + 1728 * n_tiles + 16 * (2 * tile + half) + 2 * (lane / 4));
        unit_ = lane % 4;
    }
    __device__ __forceinline__ void clear() { q = high = {}, a = b = c = d = unit_ = 0; }
    __device__ __forceinline__ void prepare() {
        float f = low_half(d);
        bool second = unit_ / 2;
        // scales 0-3, 4-7 (8-11, 12-15 in the second half): 4 low bits in a and b, 2 high ones in c
        u32 low = (second ? a >> 4 : a) & 0x0F0F0F0F, next = (second ? b >> 4 : b) & 0x0F0F0F0F;
        u32 two = c >> (second ? 4 : 0);
        low |= (two & 0x03030303) << 4, next |= (two >> 2 & 0x03030303) << 4;
        low >>= 8 * (unit_ % 2), next >>= 8 * (unit_ % 2);
        scale_[0] = f * ((int)(low & 255) - 32), scale_[1] = f * ((int)(low >> 16 & 255) - 32);
        scale_[2] = f * ((int)(next & 255) - 32), scale_[3] = f * ((int)(next >> 16 & 255) - 32);
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 bit = word(high, i) >> (unit_ / 2 * 4 + piece) & 0x01010101;
        return (word(q, i) >> 2 * piece & 0x03030303) | bit << 2;
    }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int) const { return 0; }
};

struct Q2_K : Runs256 {
    static constexpr int OFFSET = 0;
    static constexpr bool HAS_LEAST = true;
    uint4 q;
    uint2 scales;  // of eight pieces: low nibbles scales, high ones mins
    u32 d;
    int odd;
    float scale_[4], least_[4];

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 256 : i == 2 ? 64 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        scales = load8(base + 1024 * n_tiles + 128 * (2 * tile + half) + 8 * (lane / 2));
        d = load4(base + 1280 * n_tiles + 32 * (2 * tile + half) + 4 * (lane / 4));
        odd = lane % 2;
    }
    __device__ __forceinline__ void clear() { q = {}, scales = {}, d = odd = 0; }
    __device__ __forceinline__ void prepare() {
        float f = low_half(d), dmin = high_half(d);
        for (int i = 0; i < 4; i++) {
            u32 s = (i < 2 ? scales.x : scales.y) >> (16 * (i % 2) + 8 * odd);
            scale_[i] = f * (s & 15), least_[i] = dmin * (s >> 4 & 15);
        }
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const { return word(q, i) >> 2 * piece & 0x03030303; }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int group) const { return least_[group]; }
};

#include "formats_codebooks.cuh"
#include "formats_few_bits.cuh"

// --- halves: what float types become on the GPU -------------------------------------------------------------------

struct F16 {
    static constexpr int STEP = 128;
    uint4 q[4];

    __device__ static constexpr int plane(int i) { return i == 0 ? 4096 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        for (int i = 0; i < 4; i++) q[i] = load16(base + 2048 * (2 * tile + half) + 512 * i + 16 * lane);
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = q[2] = q[3] = {}; }
    __device__ __forceinline__ void prepare() {}
    __device__ static __forceinline__ int piece(int t, int piece) { return 32 * t + 16 * piece; }
};

// bytes of a tile
template <class F>
constexpr int tile_bytes = F::plane(0) + F::plane(1) + F::plane(2) + F::plane(3);

// --- 16 columns of a unit as halves --------------------------------------------------------------------------------

// the weights themselves, w[i] being columns 2i and 2i+1 of the piece; magic: 0x64646464, the high bytes of 1024 + q
template <class F>
__device__ __forceinline__ void halves(const F& f, int piece, half2_t (&w)[8], u32 magic = 0x64646464) {
    int group = piece / (F::STEP / 64 / F::GROUPS);
    half2_t scale = twice(f.scale(group) / F::factor(piece)), least = F::HAS_LEAST ? twice(-f.least(group)) : 0;
    half2_t zero = (0x6400 + F::OFFSET * F::factor(piece)) * 0x10001u;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 q = f.columns(piece, i);
        half2_t low = sub2(__byte_perm(q, magic, 0x4140), zero), high = sub2(__byte_perm(q, magic, 0x4342), zero);
        w[2 * i] = F::HAS_LEAST ? fma2(low, scale, least) : mul2(low, scale);
        w[2 * i + 1] = F::HAS_LEAST ? fma2(high, scale, least) : mul2(high, scale);
    }
}

template <>
__device__ __forceinline__ void halves<F16>(const F16& f, int piece, half2_t (&w)[8], u32) {
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = word(f.q[2 * piece + i / 4], i % 4);
}
