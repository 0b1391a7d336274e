// Weights on their way from memory: a ring of places in shared memory. A warp of its own, the supplier, asks for what
// comes next, as soon as a place has been read, so that memory is never idle. Where the GPU has no such copies, each warp
// asks for what it will read itself.
#pragma once
#include "formats.cuh"

#if __CUDA_ARCH__ >= 900
#define HAS_SUPPLIER 1
#else
#define HAS_SUPPLIER 0
#endif

constexpr int MOST_STAGES = 8;

// n: arrivals that end a phase
__device__ __forceinline__ void init(u64* barrier, int n) {
#if HAS_SUPPLIER
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n) : "memory");
#endif
}

__device__ __forceinline__ void await_phase(const u64* barrier, u32 phase) {
#if HAS_SUPPLIER
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}" ::"r"(shared_address(barrier)), "r"(phase) : "memory");
#endif
}

// one lane for the whole warp
__device__ __forceinline__ void arrive(const u64* barrier) {
#if HAS_SUPPLIER
    asm volatile(
        "{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\n@one mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(
            shared_address(barrier)) : "memory");
#endif
}

// a number of places that are filled and read in turn
struct Turn {
    int n, place = 0;
    u32 phase = 0;  // how often they have been gone round, odd or even
    __device__ __forceinline__ Turn(int n) : n(n) {}
    __device__ __forceinline__ void advance() {
        if (++place == n) place = 0, phase ^= 1;
    }
};

struct Ring : Turn {
    u8* places;
    u64 *full, *empty;  // a barrier for each place
    int size;

    // by all threads of a block; n_readers: warps that read
    __device__ __forceinline__ Ring(u8* memory, int size, int n_stages, int n_readers)
        : Turn(n_stages), places(memory + 2 * MOST_STAGES * sizeof(u64)), full((u64*)memory), empty(full + MOST_STAGES),
          size(size) {
#if HAS_SUPPLIER
        if (threadIdx.x < 2 * n_stages) {
            bool is_full = threadIdx.x < n_stages;
            init(is_full ? full + threadIdx.x : empty + threadIdx.x - n_stages, is_full ? 1 : n_readers);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
        __syncthreads();
#endif
    }

    __device__ __forceinline__ u8* here() const { return places + place * size; }

    // the first byte after the ring
    __device__ __forceinline__ u8* end() const { return places + n * size; }

    // before `ask`, where there is a supplier: wait until all readers have read what was in the present place
    __device__ __forceinline__ void await_free() const { await_phase(empty + place, phase ^ 1); }

    // this warp has read what is in the present place
    __device__ __forceinline__ void set_free() const { arrive(empty + place); }

    // all that belongs into the present place has been asked for
    __device__ __forceinline__ void asked() const {
        arrive(full + place);
        close_group();
    }

    // the place to read, when all has arrived
    __device__ __forceinline__ u8* await() const {
#if HAS_SUPPLIER
        await_phase(full + place, phase);
#else
        if (n > 2) {
            await_groups<2>();
        } else if (n > 1) {
            await_groups<1>();
        } else {
            await_groups<0>();
        }
        __syncwarp();
#endif
        return here();
    }

    // Ask for n tiles, one after another in a matrix, for `to`, which has room for `room` in each plane. `mine` to
    // `mine_end` are those which this warp will read.
    template <class F>
    __device__ __forceinline__ void ask(
        u8* to, int room, const u8* base, u64 n_tiles, u64 tile, int n, int mine, int mine_end) const {
#if HAS_SUPPLIER
        u32 barrier = shared_address(full + place);
        asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\n"
                     "@one mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;\n}" ::"r"(barrier),
                     "r"(n * tile_bytes<F>) : "memory");
#endif
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int bytes = F::plane(i);
            if (!bytes) break;
            const u8* from = base + tile * bytes;
#if HAS_SUPPLIER
            asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\n@one cp.async.bulk.shared::cluster.global"
                         ".mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n}" ::"r"(shared_address(to)), "l"(from),
                         "r"(n * bytes), "r"(barrier) : "memory");
#else
            for (int at = mine * bytes + 16 * (threadIdx.x % 32); at < min(mine_end, n) * bytes; at += 16 * 32) {
                copy_ahead(to + at, from + at);
            }
#endif
            to += room * bytes, base += n_tiles * bytes;
        }
    }
};
