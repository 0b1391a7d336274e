// Products of weight matrices with the rows of many tokens, on Hopper's tensor cores: weights are unpacked in registers,
// where wgmma takes its first factor from, so that they never lie anywhere as halves.
//
// A block takes 128 rows of weights, 64 to each of two groups of four warps, and N tokens. A third group supplies them:
// weights in tiles as they lie, and tokens in *panels*, of 64 columns of N tokens, as `arrange` has put them. Two blocks
// with the same tokens form a cluster: each asks for half of every panel, for both.
#include "ring.cuh"
#include "wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define PAIRS __cluster_dims__(2, 1, 1)
#else
#define PAIRS
#endif
#if __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "this is for sm_90a"
#endif

constexpr int PANEL = 128;  // tokens of a panel as it lies in memory; a row of it has 128 bytes
[[maybe_unused]] constexpr int ROWS = 128, WEIGHT_PLACES = 2, MOST_PANELS = 14;

// Tokens in panels [tokens / PANEL][n_columns / 64][PANEL][64], for weights of type F: in the order in which a warp that
// unpacks a piece of a tile has its columns, and swizzled as wgmma reads shared memory (wgmma.cuh). grid: (parts of a
// token's columns, tokens).
template <class F>
__global__ void __launch_bounds__(256) arrange(const half_t* x, int stride, int n_columns, half_t* out) {
    constexpr int PIECES = F::STEP / 64;
    int i = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y, panel = i / 8, c = i % 8;
    if (i >= n_columns / 8) return;
    const half_t* from = x + token * (u64)stride + panel / PIECES * F::STEP + 2 * c;
    half2_t v[4];
#pragma unroll
    for (int t = 0; t < 4; t++) v[t] = *(const half2_t*)(from + F::piece(t, panel % PIECES));
    u64 row = (token / PANEL * (u64)(n_columns / 64) + panel) * PANEL + token % PANEL;
    *(uint4*)(out + 64 * row + 8 * (c ^ token % 8)) = make_uint4(v[0], v[1], v[2], v[3]);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__device__ __forceinline__ void expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void arrive_at_cluster() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void await_cluster() {
    __syncwarp();
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

struct Barriers {
    u64 panel_full[MOST_PANELS], panel_empty[MOST_PANELS], weights_full[WEIGHT_PLACES], weights_empty[WEIGHT_PLACES];
    u64 open;  // its first phase is over from the beginning
};

// tiles of one row of tiles, one after another, for one warp; by one lane
template <class F>
__device__ __forceinline__ void supply_tile(u8* to, const u8* base, u64 n_tiles, u64 tile, u64* barrier) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int bytes = F::plane(i);
        if (!bytes) break;
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(to)), "l"(base + tile * bytes), "r"(bytes), "r"(shared_address(barrier))
                     : "memory");
        to += bytes, base += n_tiles * bytes;
    }
}

// for a warp, a lane for each of the block's eight rows of tiles; `row`: the lane's one
template <class F>
__device__ __forceinline__ void supply_weights(
    u8* places, int size, int at, Barriers& barriers, const u8* base, int n_rows, int n_steps, int row) {
    int rows_of_tiles = (n_rows + 15) / 16;
    bool exists = row < rows_of_tiles;
    Turn turn(WEIGHT_PLACES);
    for (int step = 0; step < n_steps; step++) {
        u64* full = barriers.weights_full + turn.place;
        await_phase(barriers.weights_empty + turn.place, turn.phase ^ 1);
        expect(full, exists ? tile_bytes<F> : 0);
        if (exists) {
            u64 n_tiles = (u64)rows_of_tiles * n_steps;
            supply_tile<F>(places + turn.place * size + at, base, n_tiles, (u64)row * n_steps + step, full);
        }
        turn.advance();
    }
}

// x: panels of the block's n tokens
__device__ __forceinline__ void supply_panels(
    u8* places, int n_places, int n, Barriers& barriers, const half_t* x, int n_columns, u32 rank) {
    int half = n * 64;  // bytes: a panel of its own, or half of each
    const u8* from = (const u8*)x + (n > PANEL ? rank * (u64)(n_columns / 64) * PANEL * 128 : rank * half);
    Turn turn(n_places);
    for (int i = 0; i < n_columns / 64; i++) {
        u64* full = barriers.panel_full + turn.place;
        await_phase(barriers.panel_empty + turn.place, turn.phase ^ 1);
        expect(full, 2 * half);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                     "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(places + (2 * turn.place + rank) * half)),
                     "l"(from + i * (PANEL * 128)), "r"(half), "r"(shared_address(full)), "h"((u16)3) : "memory");
        turn.advance();
    }
}

// The sums of 64 rows for N tokens; tile: of this warp, in the first place of the weights. While wgmma multiplies with a
// piece of weights, the next one is unpacked. Until it is done, nobody may write to the registers that it reads: F is no
// F16, whose halves are what `fetch` writes.
template <class F, int N>
__device__ __forceinline__ void multiply(
    float (&sums)[N / 128][64], const u8* tile, int size, const u8* panels, int n_places, Barriers& barriers,
    int n_columns) {
    static_assert(!same<F, F16>);
    constexpr int PIECES = F::STEP / 64;
    int lane = threadIdx.x % 32, n_steps = n_columns / F::STEP;
    Turn weights(WEIGHT_PLACES), panel(n_places);
    F a, b;
    half2_t w[2][16];

    auto fetch = [&] {
        await_phase(barriers.weights_full + weights.place, weights.phase);
        Shared at = {tile + weights.place * size};
        a.fetch(at, 1, 0, 0, lane), b.fetch(at, 1, 0, 1, lane);
        a.prepare(), b.prepare();
        __syncwarp();
        arrive(barriers.weights_empty + weights.place);
        weights.advance();
    };
    auto unpack = [&](int piece) {
        u32 magic;  // it comes from a barrier, lest the compiler unpack between one product and the next, which waits
        asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], 0;\n"
                     "selp.b32 %0, 0x64646464, 0, p;\n}" : "=r"(magic) : "r"(shared_address(&barriers.open)) : "memory");
        half2_t upper[8], lower[8];
        halves(a, piece, upper, magic);
        halves(b, piece, lower, magic);
#pragma unroll
        for (int i = 0; i < 8; i++) w[piece % 2][2 * i] = upper[i], w[piece % 2][2 * i + 1] = lower[i];
    };

    fetch();
    unpack(0);
    await_phase(barriers.panel_full + panel.place, panel.phase);
#pragma unroll 1
    for (int step = 0; step < n_steps; step++) {
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            const half2_t(&own)[16] = w[piece % 2];
            u64 description = described(shared_address(panels) + panel.place * N * 128);
            products_begin();
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int part = 0; part < N / 128; part++) {
                    wgmma<false>(sums[part], own[4 * i], own[4 * i + 1], own[4 * i + 2], own[4 * i + 3],
                                 description + part * (128 * 128 >> 4) + i * (32 >> 4));
                }
            }
            products_end();
            if (piece + 1 < PIECES) {
                unpack(piece + 1);
            } else if (step + 1 < n_steps) {
                fetch();
                unpack(0);
            }
#pragma unroll
            for (int i = 0; i < 16; i++) asm volatile("" : "+r"(w[(piece + 1) % 2][i]));  // not later than here
            int read = panel.place;
            panel.advance();
            if (piece + 1 < PIECES || step + 1 < n_steps) await_phase(barriers.panel_full + panel.place, panel.phase);
            await_products<0>();
            if (lane < 2) {  // the panel is read: in both blocks
                asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                             "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(
                                 shared_address(barriers.panel_empty + read)), "r"(lane) : "memory");
            }
        }
    }
#pragma unroll
    for (int part = 0; part < N / 128; part++) {
#pragma unroll
        for (int i = 0; i < 64; i++) asm volatile("" : "+f"(sums[part][i])::"memory");
    }
}

// Sums are spread over a warp as those of `mma`: number i belongs to row g + i / 2 % 2 · 8 and token i / 4 · 8 + 2t + i % 2.

// out[token][row] = sums (+ what is there), for a warp's 16 rows
template <int N>
__device__ __forceinline__ void put(float (&sums)[N / 128][64], float* out, u64 stride, int n_rows, int n_tokens, bool add) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    bool upper = g < n_rows, lower = g + 8 < n_rows;
    float* at = out + 2 * t * stride + g;
    n_tokens -= 2 * t;
    if (add) {  // much is read before anything is written, so that it comes at once
        const float* from = at;
#pragma unroll
        for (int i = 0; i < N / 2; i += 4, from += 8 * stride) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                bool exists = i * 2 + k % 2 < n_tokens && (k / 2 ? lower : upper);
                if (exists) sums[i / 64][i % 64 + k] += from[k % 2 * stride + k / 2 * 8];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < N / 2; i += 4, at += 8 * stride) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            bool exists = i * 2 + k % 2 < n_tokens && (k / 2 ? lower : upper);
            if (exists) at[k % 2 * stride + k / 2 * 8] = sums[i / 64][i % 64 + k];
        }
    }
}

// out[token][row] = silu(gate)·up, which two groups of warps have the sums of: each hands half of them to the other
template <int N>
__device__ __forceinline__ void put_gated(
    const float (&sums)[N / 128][64], float* exchange, bool is_up, half_t* out, u64 stride, int n_rows, int n_tokens) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, thread = threadIdx.x % 128;
    bool upper = g < n_rows, lower = g + 8 < n_rows;
    int first = is_up ? N / 2 : 0;  // the tokens of the sums that it keeps
    half_t* at = out + (first + 2 * t) * stride + g;
    n_tokens -= first + 2 * t;
    asm volatile("bar.sync 1, 256;" ::: "memory");  // both have read the panels
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        int later = N / 4 + i;
        exchange[(is_up ? i : later) * 128 + thread] = is_up ? sums[i / 64][i % 64] : sums[later / 64][later % 64];
    }
    asm volatile("bar.sync 1, 256;" ::: "memory");
    exchange += is_up ? N / 4 * 128 : 0;
#pragma unroll
    for (int i = 0; i < N / 4; i += 4, at += 8 * stride) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int later = N / 4 + i + k;
            float own = is_up ? sums[later / 64][later % 64] : sums[i / 64][i % 64 + k];
            float got = exchange[(i + k) * 128 + thread], gate = is_up ? got : own;
            bool exists = i * 2 + k % 2 < n_tokens && (k / 2 ? lower : upper);
            half_t value = to_half(silu(gate) * (is_up ? own : got));
            if (exists) at[k % 2 * stride + k / 2 * 8] = value;
        }
    }
}

// What a group of warps does for N of the tokens, from first_token on.
template <class A, class B, int N, bool GATE>
__device__ __forceinline__ void work(
    u8* panels, int n_places, const u8* tiles, int weight_bytes, Barriers& barriers, int n_columns, bool second,
    int first_row, int n_rows, int column, int first_token, int n_tokens, void* out, int out_stride, bool add) {
    float sums[N / 128][64] = {};
    int warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128, number = 4 * group + warp;
    if (!same<A, B> && (GATE ? group == 1 : second)) {
        const u8* tile = tiles + (GATE ? 4 * tile_bytes<A> + warp * tile_bytes<B> : number * tile_bytes<B>);
        multiply<B, N>(sums, tile, weight_bytes, panels, n_places, barriers, n_columns);
    } else {
        multiply<A, N>(sums, tiles + number * tile_bytes<A>, weight_bytes, panels, n_places, barriers, n_columns);
    }
    arrive_at_cluster();
    u64 from = first_token * (u64)out_stride + column;
    if constexpr (GATE) {
        int row = first_row + 16 * warp;
        put_gated<N>(sums, (float*)panels, group, (half_t*)out + from + row, out_stride, n_rows - row, n_tokens - first_token);
    } else {
        int row = first_row + 16 * number;
        put<N>(sums, (float*)out + from + row, out_stride, n_rows - row, n_tokens - first_token, add);
    }
}
#endif

// out[token][row] = Σ w[row][column]·x[token][column] (+ what is there), for the rows of a and then those of b. With
// GATE, out = silu(a·x)·(b·x), as halves, with as many rows as a and b have each, and x_b = x_a.
//
// x_a, x_b: panels, as a and b want them. weight_bytes, panel_bytes: of shared memory, for the tiles of a block in one
// place, and for all places of panels. A cluster takes the rows of two blocks; long_pairs: how many such pairs of blocks
// take 256 tokens at once; the others, fewer than the GPU's processors, take 128. grid: two blocks for each pair of
// these and each of their parts of the tokens.
template <class A, class B, bool GATE>
__global__ void __launch_bounds__(384, 1) PAIRS prompt(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const half_t* x_a, const half_t* x_b, int n_tokens,
    void* out, int out_stride, int add, int weight_bytes, int panel_bytes, int long_pairs) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ u8 memory[];
    __shared__ Barriers barriers;
    u8* panels = memory + (-shared_address(memory) & 1023);  // as the swizzle wants it
    u8* tiles = panels + panel_bytes;
    int warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128, lane = threadIdx.x % 32;
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));

    int pair = blockIdx.x / 2, parts = (n_tokens + 255) / 256, n = 256, pairs_before = 0;
    if (pair >= long_pairs * parts) {
        pair -= long_pairs * parts, pairs_before = long_pairs, parts = (n_tokens + 127) / 128, n = 128;
    }
    int block = 2 * (pairs_before + pair / parts) + rank, first_token = pair % parts * n;
    int a_blocks = (a_rows + 2 * ROWS - 1) / (2 * ROWS) * 2, n_places = panel_bytes / (n * 128);
    bool second = !GATE && block >= a_blocks;
    int first_row = GATE ? block * (ROWS / 2) : (second ? block - a_blocks : block) * ROWS;

    if (threadIdx.x == 0) {
        for (int i = 0; i < n_places; i++) init(barriers.panel_full + i, 1), init(barriers.panel_empty + i, 16);
        for (int i = 0; i < WEIGHT_PLACES; i++) init(barriers.weights_full + i, 8), init(barriers.weights_empty + i, 8);
        init(&barriers.open, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        expect(&barriers.open, 0);
    }
    __syncthreads();
    arrive_at_cluster();
    await_cluster();
    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        const half_t* x = (second ? x_b : x_a) + (u64)first_token * n_columns;
        if (warp == 0 && lane == 0) supply_panels(panels, n_places, n, barriers, x, n_columns, rank);
        if (warp == 1 && lane < 8) {
            bool of_b = GATE ? lane >= 4 : second;
            int row = first_row / 16 + (GATE ? lane % 4 : lane);
            if (of_b) {
                int at = GATE ? 4 * tile_bytes<A> + lane % 4 * tile_bytes<B> : lane * tile_bytes<B>;
                supply_weights<B>(tiles, weight_bytes, at, barriers, b, GATE ? a_rows : b_rows, n_columns / B::STEP, row);
            } else {
                supply_weights<A>(tiles, weight_bytes, lane * tile_bytes<A>, barriers, a, a_rows, n_columns / A::STEP, row);
            }
        }
        arrive_at_cluster();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        int n_rows = second ? b_rows : a_rows, column = second ? a_rows : 0;
        if (n == 256) {
            work<A, B, 256, GATE>(panels, n_places, tiles, weight_bytes, barriers, n_columns, second, first_row, n_rows,
                                  column, first_token, n_tokens, out, out_stride, add);
        } else {
            work<A, B, 128, GATE>(panels, n_places, tiles, weight_bytes, barriers, n_columns, second, first_row, n_rows,
                                  column, first_token, n_tokens, out, out_stride, add);
        }
    }
    await_cluster();  // nobody leaves while the other may still write here
#endif
}
