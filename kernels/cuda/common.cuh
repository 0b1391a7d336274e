// Words that all kernels share: halves in registers, tensor cores, copies that run ahead. No header of the CUDA
// toolkit is included, so that NVRTC alone compiles this.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 half_t;  // the bits of an IEEE half
typedef u32 half2_t;  // two of them, the first in the low bits

// what a step tells the kernels; the host writes it (backends/cuda/inputs.py)
struct Token {
    int position;
    int table;  // where the page table of its sequence begins, in Step.tables
};

[[maybe_unused]] constexpr int PAGE = 64;  // tokens of one page of the KV cache
[[maybe_unused]] constexpr float LOWEST = -1e30f;  // a score that no key reaches; finite, so that differences are no NaN

__device__ __forceinline__ float to_float(half_t h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// the nearest half; what is too large becomes the largest, not infinity
__device__ __forceinline__ half_t to_half(float f) {
    half_t h;
    f = fminf(fmaxf(f, -65504.0f), 65504.0f);
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// a number as one of the type that a pointer is of
__device__ __forceinline__ float as(float x, const float*) { return x; }
__device__ __forceinline__ half_t as(float x, const half_t*) { return to_half(x); }

__device__ __forceinline__ half2_t pack(half_t low, half_t high) { return low | (u32)high << 16; }
__device__ __forceinline__ half2_t pack(float low, float high) { return pack(to_half(low), to_half(high)); }
__device__ __forceinline__ half2_t twice(float x) { return pack(x, x); }

// the same of numbers that are not too large
__device__ __forceinline__ half2_t pack_small(float low, float high) {
#if __CUDA_ARCH__ >= 800
    half2_t h;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(high), "f"(low));
    return h;
#else
    return pack(low, high);
#endif
}

// 2 to the power of x; what is too small for a normal number becomes zero
__device__ __forceinline__ float power_of_two(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

__device__ __forceinline__ half2_t fma2(half2_t a, half2_t b, half2_t c) {
    half2_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

__device__ __forceinline__ half2_t sub2(half2_t a, half2_t b) { return fma2(b, 0xBC00BC00u, a); }

__device__ __forceinline__ half2_t mul2(half2_t a, half2_t b) {
    half2_t d;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int i = 16; i; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

// of numbers of either sign
__device__ __forceinline__ float largest_of_warp(float x) {
    for (int i = 16; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
}

// of numbers that are not negative
__device__ __forceinline__ float max_of_warp(float x) {
#if __CUDA_ARCH__ >= 800
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x)));
#else
    for (int i = 16; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
    return x;
#endif
}

// the same for a whole block, of at most 32 warps
__device__ __forceinline__ float sum_of_block(float x) {
    __shared__ float sums[32];
    x = sum_of_warp(x);
    __syncthreads();  // all have read what was here
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < blockDim.x / 32; i++) x += sums[i];
    return x;
}

// a pair of a head's numbers, turned by an angle whose (cos, sin) is `turn` (Su et al. 2021)
__device__ __forceinline__ float2 rotated(float x, float y, float2 turn) {
    return make_float2(x * turn.x - y * turn.y, y * turn.x + x * turn.y);
}

// which two of a head's numbers are pair number i: the n_pairs that turn are neighbours, or lie n_pairs apart; the
// rest stays as it is
__device__ __forceinline__ int2 pair_of(int i, int n_pairs, int neighbours) {
    return i < n_pairs && !neighbours ? make_int2(i, i + n_pairs) : make_int2(2 * i, 2 * i + 1);
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// c[16][8] += a[16][16] · b[16][8] on the tensor cores. Lane 4g + t holds (PTX ISA, mma.m16n8k16):
// a: row g columns 2t, 2t+1; row g+8 the same; row g columns 2t+8, 2t+9; row g+8 these. b: column g, rows 2t, 2t+1;
// rows 2t+8, 2t+9. c: row g columns 2t, 2t+1; row g+8 the same.
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#elif __CUDA_ARCH__ >= 750
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a2), "r"(a3), "r"(b1));
#else  // Volta: the lanes pass each other what they hold
    int lane = threadIdx.x % 32, row = lane & ~3, column = 2 * (lane & 3);
#pragma unroll 1
    for (int t = 0; t < 4; t++) {
#pragma unroll 1
        for (int part = 0; part < 2; part++) {
            u32 upper = __shfl_sync(~0u, part ? a2 : a0, row + t), lower = __shfl_sync(~0u, part ? a3 : a1, row + t);
            for (int i = 0; i < 2; i++) {
                u32 b = __shfl_sync(~0u, part ? b1 : b0, 4 * (column + i) + t);
                float low = to_float((half_t)b), high = to_float((half_t)(b >> 16));
                c[i] += to_float((half_t)upper) * low + to_float((half_t)(upper >> 16)) * high;
                c[2 + i] += to_float((half_t)lower) * low + to_float((half_t)(lower >> 16)) * high;
            }
        }
    }
#endif
}

#if __CUDA_ARCH__ >= 800
// c[16][8] += a[16][32] · b[32][8], unsigned bytes by signed ones. Lane 4g + t holds (PTX ISA, mma.m16n8k32): a: row g
// columns 4t … 4t+3; row g+8 the same; row g columns 4t+16 …; row g+8 these. b: column g, rows 4t …; rows 4t+16 …
__device__ __forceinline__ void mma(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif

// c + four unsigned bytes · four signed ones
__device__ __forceinline__ int dot4(u32 a, u32 b, int c) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(c) : "r"(a), "r"(b));
    return c;
}

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// four 8×8 tiles of halves in shared memory, transposed: lane 8i + r gives the address of row r of tile i, and gets
// of each tile rows 2t, 2t+1 of column g
__device__ __forceinline__ void load_transposed(u32 (&r)[4], const half_t* row) {
#if __CUDA_ARCH__ >= 750
    u32 at = shared_address(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#else
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        u64 even = __shfl_sync(~0u, (u64)row, 8 * i + 2 * (lane % 4));
        u64 odd = __shfl_sync(~0u, (u64)row, 8 * i + 2 * (lane % 4) + 1);
        r[i] = pack(((const half_t*)even)[lane / 4], ((const half_t*)odd)[lane / 4]);
    }
#endif
}

// The next kernel may begin: what it does before it waits, it does beside this one.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// wait until the kernel before has ended, and what it wrote can be read
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

#if __CUDA_ARCH__ >= 800
// 16 bytes from global to shared memory, in the background
__device__ __forceinline__ void copy_ahead(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
#endif

// the same, where the GPU can
__device__ __forceinline__ void copy_ahead(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    copy_ahead(shared_address(to), from);
#else
    *(uint4*)to = *(const uint4*)from;
#endif
}

__device__ __forceinline__ void close_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// wait until all groups of copies but the last N have arrived
template <int N>
__device__ __forceinline__ void await_groups() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
