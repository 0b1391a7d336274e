// Hopper's tensor cores, which four warps use together, in the background (PTX ISA, wgmma). The first factor is in
// registers, 16 rows in each warp, as `mma` has them; so are the sums. The second is in shared memory, in rows of 128
// bytes, eight of which begin at a multiple of 1024: 16 bytes number c of row r lie at c ^ r % 8.
#pragma once
#include "common.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define C4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define C16(i) C4(i), C4(i + 4), C4(i + 8), C4(i + 12)

// c[64][128] += a[64][16] · b[16][128]; DOWN: a row of b's has 64 of the 128 columns, else it has 64 of a's columns
template <bool DOWN>
__device__ __forceinline__ void wgmma(float (&c)[64], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, "
        "p, 1, 1, %69;\n}"
        : C16(0), C16(16), C16(32), C16(48) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "n"(DOWN));
}

// the same for 64 columns; unless `add`, what c had is forgotten
template <bool DOWN>
__device__ __forceinline__ void wgmma(float (&c)[32], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int add = 1) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}"
        : C16(0), C16(16) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(DOWN));
}

// How wgmma finds b at an address: eight rows after another in 1024 bytes, and columns 64 and on, if they are not in
// the same rows, `columns` bytes further.
__device__ __forceinline__ u64 described(u32 address, int columns = 16) {
    return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)(columns >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// before the first product after registers that it reads, or adds to, have been written
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// wait for all products but those of the last N times
template <int N>
__device__ __forceinline__ void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
#endif
