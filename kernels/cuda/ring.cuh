// Tiles of weights on their way from memory to a warp: a ring of places in shared memory. All of them are asked for
// before the first is read, and each again as soon as it has been read, so that memory is never idle.
#pragma once
#include "formats.cuh"

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

template <int STAGES, int SIZE>
struct Ring {
    u64* arrived;  // a barrier for each place
    u8* places;
    int place = 0;
    u32 turn = 1;  // how often the ring has been filled, odd or even

    static constexpr int BYTES = 128 + STAGES * SIZE;

    // memory: of the block, BYTES for each warp
    __device__ __forceinline__ explicit Ring(u8* memory)
        : arrived((u64*)(memory + threadIdx.x / 32 * BYTES)), places((u8*)arrived + 128) {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == 0) {
            for (int i = 0; i < STAGES; i++) {
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrived + i)) : "memory");
            }
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
        __syncwarp();
#endif
    }

    // ask for a tile of a matrix, for the present place
    template <class F>
    __device__ __forceinline__ void ask(const u8* base, u64 n_tiles, u64 tile) {
        u8* to = places + place * SIZE;
        int lane = threadIdx.x % 32;
#if __CUDA_ARCH__ >= 900
        if (lane) return;
        u32 barrier = shared_address(arrived + place);
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(tile_bytes<F>)
                     : "memory");
#endif
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int size = F::plane(i);
            const u8* from = base + tile * size;
            if (!size) break;
#if __CUDA_ARCH__ >= 900
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                             shared_address(to)), "l"(from), "r"(size), "r"(barrier) : "memory");
#else
            for (int at = 16 * lane; at < size; at += 16 * 32) copy_ahead(to + at, from + at);
#endif
            to += size, base += n_tiles * size;
        }
    }

    // after `ask`, or instead of it where there is no tile any more: go on to the next place
    __device__ __forceinline__ void advance() {
#if __CUDA_ARCH__ < 900
        close_group();
#endif
        if (++place == STAGES) place = 0, turn ^= 1;
    }

    // the tile in the present place, when it has arrived
    __device__ __forceinline__ Shared await() {
#if __CUDA_ARCH__ >= 900
        asm volatile(
            "{\n.reg .pred done;\nagain:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
                shared_address(arrived + place)), "r"(turn) : "memory");
#else
        await_groups<STAGES - 1>();
        __syncwarp();
#endif
        return {places + place * SIZE};
    }
};
