// Q1_0, Q2_0, TQ1_0, TQ2_0, MXFP4, NVFP4 and Q8_K of formats.cuh.

// --- one or two bits, with a scale for 128 columns, or 64 ----------------------------------------------------------

template <bool TWO>
struct FewBits256 {
    static constexpr int STEP = 256, GROUPS = 2, OFFSET = 1;
    static constexpr bool HAS_LEAST = false;
    uint4 q;
    u32 d;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? (TWO ? 1024 : 512) : i == 1 ? (TWO ? 128 : 64) : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        if (TWO) {
            q = load16(base + 512 * (2 * tile + half) + 16 * lane);
            d = load2(base + 1024 * n_tiles + 64 * (2 * tile + half) + 2 * lane);
        } else {
            uint2 bits = load8(base + 256 * (2 * tile + half) + 8 * lane);
            q = {bits.x, bits.y, 0, 0};
            d = load2(base + 512 * n_tiles + 32 * (2 * tile + half) + lane / 2 * 2);
        }
    }
    __device__ __forceinline__ void clear() { q = {}, d = 0; }
    __device__ __forceinline__ void prepare() { scale_ = low_half(d); }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        if (TWO) return quarters(word(q, piece) >> 8 * i & 255);
        return bit_bytes(word(q, piece / 2) >> (16 * (piece % 2) + 4 * i)) * 2;
    }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

typedef FewBits256<false> Q1_0;
typedef FewBits256<true> Q2_0;

// --- digits to base 3 ----------------------------------------------------------------------------------------------

struct TQ2_0 : Runs256 {
    static constexpr int OFFSET = 1;
    static constexpr bool HAS_LEAST = false;
    uint4 q;
    u32 d;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 32 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        d = load2(base + 1024 * n_tiles + 16 * (2 * tile + half) + 2 * (lane / 4));
    }
    __device__ __forceinline__ void clear() { q = {}, d = 0; }
    __device__ __forceinline__ void prepare() { scale_ = low_half(d); }
    __device__ __forceinline__ u32 columns(int piece, int i) const { return word(q, i) >> 2 * piece & 0x03030303; }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
};

// Five digits in a byte, which is a fraction of 256: those of 32 bytes, then of 16, then four of the last 4.
struct TQ1_0 {
    static constexpr int STEP = 256, GROUPS = 2, OFFSET = 1;
    static constexpr bool HAS_LEAST = false;
    uint4 q[3];
    u32 last, d;
    int unit_;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 768 : i == 1 ? 96 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 384 * (2 * tile + half) + 48 * (lane / 4);
        q[0] = load16(at), q[1] = load16(at + 16), q[2] = load16(at + 32);
        at = base + 768 * n_tiles + 48 * (2 * tile + half) + 6 * (lane / 4);
        last = load2(at) | load2(at + 2) << 16, d = load2(at + 4);
        unit_ = lane % 4;
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = q[2] = {}, last = d = unit_ = 0; }
    __device__ __forceinline__ void prepare() { scale_ = low_half(d); }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        int n = 4 * unit_ + piece;  // which 16 columns
        const uint4& sixteen = n < 10 ? (n % 2 ? q[1] : q[0]) : q[2];
        u32 bytes = n == 15 ? last : word(sixteen, i), digit = n == 15 ? i : n < 10 ? n / 2 : n - 10;
        u32 power = digit == 4 ? 81 : 0x1B090301 >> 8 * digit & 255;
        u32 even = (bytes & 0x00FF00FF) * power & 0x00FF00FF, odd = (bytes >> 8 & 0x00FF00FF) * power & 0x00FF00FF;
        return (even * 3 >> 8 & 0x00FF00FF) | (odd * 3 & 0xFF00FF00);
    }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

// --- floats of 4 bits ----------------------------------------------------------------------------------------------

// 0, 1, 2, 3, 4, 6, 8, 12, and the same below zero, each plus 12
__device__ __forceinline__ u32 fp4_steps(u32 nibbles) {
    return looked_up<0x0F0E0D0C, 0x18141210, 0x090A0B0C, 0x00040608>(nibbles);
}

struct MXFP4 {
    static constexpr int STEP = 128, GROUPS = 1, OFFSET = 12;
    static constexpr bool HAS_LEAST = false;
    uint4 q;
    u32 e;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 1024 : i == 1 ? 64 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        q = load16(base + 512 * (2 * tile + half) + 16 * lane);
        e = load1(base + 1024 * n_tiles + 32 * (2 * tile + half) + lane);
    }
    __device__ __forceinline__ void clear() { q = {}, e = 0; }
    __device__ __forceinline__ void prepare() {  // half of 2 to the power of e - 127
        scale_ = __uint_as_float(e < 2 ? (e + 1) << 21 : (e - 1) << 23);
    }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        return fp4_steps(word(q, i) >> 4 * piece & 0x0F0F0F0F);
    }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 32 * t + 16 * piece; }
};

struct NVFP4 {
    static constexpr int STEP = 256, GROUPS = 4, OFFSET = 12;
    static constexpr bool HAS_LEAST = false;
    uint4 q[2];
    u32 scales;
    float scale_[4];

    __device__ static constexpr int plane(int i) { return i == 0 ? 2048 : i == 1 ? 256 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 1024 * (2 * tile + half) + 16 * lane;
        q[0] = load16(at), q[1] = load16(at + 512);
        scales = load4(base + 2048 * n_tiles + 128 * (2 * tile + half) + 4 * lane);
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = {}, scales = 0; }
    __device__ __forceinline__ void prepare() {
        for (int i = 0; i < 4; i++) {  // half of a float without a sign, with 4 bits of exponent and 3 of mantissa
            u32 s = scales >> 8 * i & 255;
            scale_[i] = s == 127 ? 0.0f : 128 * low_half((s & 127) << 7);
        }
    }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const {
        return fp4_steps(word(q[piece / 2], piece % 2 * 2 + i % 2) >> 4 * (i / 2) & 0x0F0F0F0F);
    }
    __device__ __forceinline__ float scale(int group) const { return scale_[group]; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

// --- bytes with a scale for 256 columns ----------------------------------------------------------------------------

struct Q8_K {
    static constexpr int STEP = 256, GROUPS = 2, OFFSET = 128;
    static constexpr bool HAS_LEAST = false;
    uint4 q[4];
    u32 d;
    float scale_;

    __device__ static constexpr int plane(int i) { return i == 0 ? 4096 : i == 1 ? 64 : 0; }
    template <class P>
    __device__ __forceinline__ void fetch(P base, u64 n_tiles, u64 tile, int half, int lane) {
        P at = base + 2048 * (2 * tile + half) + 16 * lane;
        for (int i = 0; i < 4; i++) q[i] = load16(at + 512 * i);
        d = load4(base + 4096 * n_tiles + 32 * (2 * tile + half) + 4 * (lane / 4));
    }
    __device__ __forceinline__ void clear() { q[0] = q[1] = q[2] = q[3] = {}, d = 0; }
    __device__ __forceinline__ void prepare() { scale_ = __uint_as_float(d); }
    __device__ static constexpr int factor(int) { return 1; }
    __device__ __forceinline__ u32 columns(int piece, int i) const { return word(q[piece], i) ^ 0x80808080; }
    __device__ __forceinline__ float scale(int) const { return scale_; }
    __device__ __forceinline__ float least(int) const { return 0; }
    __device__ static __forceinline__ int piece(int t, int piece) { return 64 * t + 16 * piece; }
};

typedef Q8_0 Q8_1;  // whose blocks also have a sum, which is left out
