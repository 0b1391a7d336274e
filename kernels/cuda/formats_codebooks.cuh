// IQ1, IQ2 and IQ3 of formats.cuh: points of four or eight columns, looked up in codebooks (codebooks.cuh, which
// source.py writes): sizes, plus the largest of them, to which signs are added; those of IQ1 are packed, 2 bits a column.
#include "codebooks.cuh"

// the four fields of 2 bits of a byte → four bytes
__device__ __forceinline__ u32 quarters(u32 x) { return (x | x << 6 | x << 12 | x << 18) & 0x03030303; }

// SUM - q in those of four bytes whose bits are 1
template <int SUM>
__device__ __forceinline__ u32 negated(u32 q, u32 bits) {
    u32 other = SUM * 0x01010101u - q;
    return q ^ ((q ^ other) & bit_bytes(bits) * 255);
}

// seven signs, and the eighth, which makes an even number of them negative
__device__ __forceinline__ u32 eight_signs(u32 seven) { return seven | (__popc(seven) & 1) << 7; }

// What all of them have in common: a lane has 64 columns in a row, d comes last.
template <int N_GROUPS, int Q_OFFSET>
struct Codebook256 {
    static constexpr int STEP = 256, GROUPS = N_GROUPS, OFFSET = Q_OFFSET;
    static constexpr bool HAS_LEAST = false;
    u32 d;
    float scale_[GROUPS];

    template <class P>
    __device__ __forceinline__ void fetch_d(P base, u64 tile, int half, int lane) {
        d = load2(base + 16 * (2 * tile + half) + 2 * (lane / 4));
    }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

struct IQ2_XXS : Codebook256<2, 43> {
    uint4 q;  // twice four indices, and four times seven signs and a scale

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 32 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        fetch_d(base + 1024 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = {}, d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = 0.25f * low_half(d);
        scale_[0] = f * (0.5f + (q.y >> 28)), scale_[1] = f * (0.5f + (q.w >> 28));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        int point = piece % 2 * 2 + i / 2;
        uint2 p = iq2_xxs[(piece < 2 ? q.x : q.z) >> 8 * point & 255];
        u32 signs = eight_signs((piece < 2 ? q.y : q.w) >> 7 * point & 127);
        return negated<86>(i % 2 ? p.y : p.x, signs >> 4 * (i % 2));
    }
};

struct IQ2_XS : Codebook256<4, 43> {
    uint4 q;  // eight times an index of 9 bits and seven signs
    u32 scales;

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 128 : i == 2 ? 32 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        scales = load2(base + 1024 * n_tiles + 64 * (2 * tile + half) + 2 * lane);
        fetch_d(base + 1152 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = {}, scales = d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = 0.25f * low_half(d);
        for (int i = 0; i < 4; i++) scale_[i] = f * (0.5f + (scales >> 4 * i & 15));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 x = word(q, piece) >> 16 * (i / 2);
        uint2 p = iq2_xs[x & 511];
        return negated<86>(i % 2 ? p.y : p.x, eight_signs(x >> 9 & 127) >> 4 * (i % 2));
    }
};

struct IQ2_S : Codebook256<4, 43> {
    uint2 q, signs;
    u32 high, scales;  // high: 2 bits of each index

    __device__ static constexpr int plane(int i) { return i < 2 ? 512 : i == 2 ? 256 : 32; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load8(base + 256 * (2 * tile + half) + 8 * lane);
        signs = load8(base + 512 * n_tiles + 256 * (2 * tile + half) + 8 * lane);
        P at = base + 1024 * n_tiles + 128 * (2 * tile + half) + 16 * (lane / 4) + 2 * (lane % 4);
        high = load2(at), scales = load2(at + 8);
        fetch_d(base + 1280 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = signs = {}, high = scales = d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = 0.25f * low_half(d);
        for (int i = 0; i < 4; i++) scale_[i] = f * (0.5f + (scales >> 4 * i & 15));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        int point = 2 * piece + i / 2;
        u32 low = (piece < 2 ? q.x : q.y) >> 8 * (point % 4) & 255;
        uint2 p = iq2_s[low | (high >> 2 * point & 3) << 8];
        return negated<86>(i % 2 ? p.y : p.x, (piece < 2 ? signs.x : signs.y) >> (16 * (piece % 2) + 4 * i));
    }
};

struct IQ3_XXS : Codebook256<2, 62> {
    uint4 q;
    uint2 signs;  // twice four times seven, and a scale

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 512 : i == 2 ? 32 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        signs = load8(base + 1024 * n_tiles + 256 * (2 * tile + half) + 8 * lane);
        fetch_d(base + 1536 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = {}, signs = {}, d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = 0.5f * low_half(d);
        scale_[0] = f * (0.5f + (signs.x >> 28)), scale_[1] = f * (0.5f + (signs.y >> 28));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 seven = (piece < 2 ? signs.x : signs.y) >> 7 * (piece % 2 * 2 + i / 2) & 127;
        return negated<124>(iq3_xxs[word(q, piece) >> 8 * i & 255], eight_signs(seven) >> 4 * (i % 2));
    }
};

struct IQ3_S : Codebook256<2, 15> {
    uint4 q;
    uint2 signs;
    u32 high, scales;  // high: a bit of each index

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 576 : i == 2 ? 128 : 32; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        P row = base + 1024 * n_tiles + 288 * (2 * tile + half) + 36 * (lane / 4);
        signs = {load4(row + 8 * (lane % 4)), load4(row + 8 * (lane % 4) + 4)};
        scales = load4(row + 32) >> 8 * (lane % 4);
        high = load2(base + 1600 * n_tiles + 64 * (2 * tile + half) + 2 * lane);
        fetch_d(base + 1728 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = {}, signs = {}, high = scales = d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = low_half(d);
        for (int i = 0; i < 2; i++) scale_[i] = f * (1 + 2 * (scales >> 4 * i & 15));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        u32 index = (word(q, piece) >> 8 * i & 255) | (high >> (4 * piece + i) & 1) << 8;
        return negated<30>(iq3_s[index], (piece < 2 ? signs.x : signs.y) >> (16 * (piece % 2) + 4 * i));
    }
};

// -1, 0 and 1, all moved by an eighth
struct IQ1_S : Codebook256<2, 0> {
    static constexpr bool HAS_LEAST = true;
    uint2 q;
    u32 high;  // twice: 3 bits of each of four indices, a scale of 3 bits, and whether moved down

    __device__ static constexpr int plane(int i) { return i == 0 ? 512 : i == 1 ? 256 : i == 2 ? 32 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load8(base + 256 * (2 * tile + half) + 8 * lane);
        high = load4(base + 512 * n_tiles + 128 * (2 * tile + half) + 4 * lane);
        fetch_d(base + 768 * n_tiles, tile, half, lane);
    }
    __device__ __forceinline__ void clear() { q = {}, high = d = 0; }
    __device__ __forceinline__ void prepare() {
        float f = low_half(d);
        for (int i = 0; i < 2; i++) scale_[i] = f * (1 + 2 * (high >> (16 * i + 12) & 7));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        int point = piece % 2 * 2 + i / 2;
        u32 low = (piece < 2 ? q.x : q.y) >> 8 * point & 255;
        u32 p = iq1[low | (high >> (16 * (piece / 2) + 3 * point) & 7) << 8];
        return quarters(p >> 8 * (i % 2) & 255);
    }
    __device__ __forceinline__ float least(int group) const {
        return scale_[group] * (high >> (16 * group + 15) & 1 ? 1.125f : 0.875f);
    }
};

// The same with each eight columns moved by themselves: q counts eighths.
struct IQ1_M : Codebook256<4, 9> {
    uint2 q, scales;  // scales: four times four of 3 bits, and 4 bits of d
    u32 high;  // of each of eight indices 3 bits, and whether moved down
    int unit_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 512 : i == 1 ? 256 : i == 2 ? 128 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load8(base + 256 * (2 * tile + half) + 8 * lane);
        high = load4(base + 512 * n_tiles + 128 * (2 * tile + half) + 4 * lane);
        scales = load8(base + 768 * n_tiles + 64 * (2 * tile + half) + 8 * (lane / 4));
        unit_ = lane % 4;
    }
    __device__ __forceinline__ void clear() { q = scales = {}, high = unit_ = 0; }
    __device__ __forceinline__ void prepare() {
        u32 d = (scales.x >> 12 & 0xF) | (scales.x >> 24 & 0xF0) | (scales.y >> 4 & 0xF00) | (scales.y >> 16 & 0xF000);
        float f = 0.125f * low_half(d);
        u32 own = (unit_ < 2 ? scales.x : scales.y) >> 16 * (unit_ % 2);
        for (int i = 0; i < 4; i++) scale_[i] = f * (1 + 2 * (own >> 3 * i & 7));
    }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        int point = 2 * piece + i / 2;
        u32 low = (piece < 2 ? q.x : q.y) >> 8 * (point % 4) & 255, more = high >> 4 * point;
        u32 p = iq1[low | (more & 7) << 8];
        return quarters(p >> 8 * (i % 2) & 255) * 8 + (more & 8 ? 0 : 0x02020202);
    }
};
