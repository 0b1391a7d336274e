// Products of weight matrices with the row of one token, straight from quantised planes, at the speed of memory.
//
// A block takes 16 rows of weights after another, and its warps share the columns. Lane 4g + t unpacks units of rows g
// and g + 8 to bytes in registers, the left operand of the tensor cores. The token's numbers are whole numbers of 16
// bits with a scale for every 512 of them, cut into a high and a low byte. In the right operand, column 2t has the high
// bytes that belong to lane t's weights, column 2t + 1 the low ones, with zeros elsewhere: so each lane gets the sums of
// just the weights that it unpacked, and has the scales to multiply them by. All is exact but for the token's rounding.
// With X the sum of a group's numbers, Σ (s·(q - offset) - m)·x = s·(Σ q·x - offset·X) - m·X.
//
// Weights run ahead through a ring (ring.cuh): from one row of tiles to the next, and from one kernel to the next, which
// fills its ring as soon as it finds room, while the one before still runs.
#include "ring.cuh"
#include "matvec_input.cuh"

constexpr int ROWS = 16;
constexpr int CHUNK = 256;  // columns that a warp takes at a time
constexpr int EARLY = 2;  // places of weights that are asked for before the token is there

__device__ __forceinline__ int rows_of_tiles(int n_rows) { return (n_rows + ROWS - 1) / ROWS; }

// upper, lower += a unit of two rows · the token's numbers of columns `first` and on
template <class F, class N>
__device__ __forceinline__ void dot(F& a, F& b, const N& x, int first, float& upper, float& lower) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if constexpr (same<F, F16>) {
        float acc[4] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const half_t* at = g == 2 * t ? x.halves + first + 32 * t + 8 * i : (const half_t*)x.zeros;
            uint4 v = *(const uint4*)at, p = a.q[i], q = b.q[i];
            mma(acc, p.x, q.x, p.y, q.y, v.x, v.y);
            mma(acc, p.z, q.z, p.w, q.w, v.z, v.w);
        }
        float scale = x.scales[first / 512];
        upper += scale * acc[0], lower += scale * acc[2];
    } else {
        constexpr int PIECES = F::STEP / 64, PER_GROUP = PIECES / F::GROUPS;
        a.prepare(), b.prepare();
        int acc[F::GROUPS][4] = {}, column = first + F::piece(t, 0);
#if __CUDA_ARCH__ >= 800
        const u8* at = g / 2 == t ? x.bytes + 2 * column + 16 * (g % 2) : x.zeros;
#else
        const u8* at = x.bytes + 2 * column;
#endif
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            int(&c)[4] = acc[piece / PER_GROUP];
            const uint4* numbers = (const uint4*)(at + 2 * F::piece(0, piece));
#if __CUDA_ARCH__ >= 800
            uint4 v = *numbers;
            mma(c, a.columns(piece, 0), b.columns(piece, 0), a.columns(piece, 1), b.columns(piece, 1), v.x, v.y);
            mma(c, a.columns(piece, 2), b.columns(piece, 2), a.columns(piece, 3), b.columns(piece, 3), v.z, v.w);
#else  // tensor cores without bytes: each lane multiplies by itself
            uint4 high = numbers[0], low = numbers[1];
            for (int i = 0; i < 4; i++) {
                u32 p = a.columns(piece, i), q = b.columns(piece, i);
                c[0] = dot4(p, word(high, i), c[0]), c[1] = dot4(p, word(low, i), c[1]);
                c[2] = dot4(q, word(high, i), c[2]), c[3] = dot4(q, word(low, i), c[3]);
            }
#endif
        }
        float high = 0, low = 0, sums[PIECES];
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) sums[piece] = x.sums[column / 16 + F::piece(0, piece) / 16];
#pragma unroll
        for (int group = 0; group < F::GROUPS; group++) {
            int piece = group * PER_GROUP, factor = F::factor(piece);
            float p = 256 * acc[group][0] + acc[group][1], q = 256 * acc[group][2] + acc[group][3], sum = sums[piece];
            if (PER_GROUP == 2) sum += sums[piece + 1];
            if (F::OFFSET) p -= F::OFFSET * factor * sum, q -= F::OFFSET * factor * sum;
            high += a.scale(group) / factor * p, low += b.scale(group) / factor * q;
            if (F::HAS_LEAST) high -= a.least(group) * sum, low -= b.least(group) * sum;
        }
        float scale = x.scales[column / 512] * (1 / LARGEST);
        upper += scale * high, lower += scale * low;
    }
}

// What a block reads of matrices a and b, of types A and B: rows of tiles, those of a before those of b, or, BESIDE, of
// both at once, each by half of the warps. The warps of a team take CHUNK columns each at a time.
template <class A, class B, bool BESIDE>
struct Weights {
    static constexpr int TEAM = BESIDE ? WARPS / 2 : WARPS;
    template <class F>
    static constexpr int TILES = CHUNK / F::STEP;  // that a warp takes at a time
    template <class F>
    static constexpr int BYTES = TEAM * TILES<F> * tile_bytes<F>;
    static constexpr int PLACE = BESIDE ? BYTES<A> + BYTES<B> : BYTES<A> > BYTES<B> ? BYTES<A> : BYTES<B>;

    Ring ring;
    const u8 *a, *b;
    int a_rows, n_rows, n_columns, n_rounds;  // rows: of tiles
    int row, round = 0;  // to ask for next

    __device__ __forceinline__ Weights(
        u8* memory, int n_stages, const u8* a, int a_rows, const u8* b, int b_rows, int n_columns)
        : ring(memory, PLACE, n_stages, WARPS), a(a), b(b), a_rows(rows_of_tiles(a_rows)),
          n_rows(this->a_rows + (BESIDE ? 0 : rows_of_tiles(b_rows))), n_columns(n_columns),
          n_rounds((n_columns + TEAM * CHUNK - 1) / (TEAM * CHUNK)), row(blockIdx.x) {
        if (!HAS_SUPPLIER) {
            for (int i = 0; i < n_stages; i++) ask(), ring.advance();
        }
    }

    template <class F>
    __device__ __forceinline__ void ask_of(const u8* base, int row, int n_rows, u8* to) const {
        constexpr int ROOM = TEAM * TILES<F>;
        int steps = n_columns / F::STEP, first = round * ROOM, mine = threadIdx.x / 32 % TEAM * TILES<F>;
        ring.ask<F>(to, ROOM, base, (u64)n_rows * steps, (u64)row * steps + first, min(ROOM, steps - first), mine,
                    mine + TILES<F>);
    }

    // ask for what comes next, for the present place; does nothing after the last
    __device__ __forceinline__ void ask() {
        if (row < n_rows) {
            if (BESIDE) {
                if (HAS_SUPPLIER || threadIdx.x / 32 < TEAM) ask_of<A>(a, row, n_rows, ring.here());
                if (HAS_SUPPLIER || threadIdx.x / 32 >= TEAM) ask_of<B>(b, row, n_rows, ring.here() + BYTES<A>);
            } else if (same<A, B> || row < a_rows) {
                bool in_a = row < a_rows;
                ask_of<A>(in_a ? a : b, in_a ? row : row - a_rows, in_a ? a_rows : n_rows - a_rows, ring.here());
            } else {
                ask_of<B>(b, row - a_rows, n_rows - a_rows, ring.here());
            }
            if (++round == n_rounds) round = 0, row += gridDim.x;
        }
        ring.asked();
    }

    // By the supplier: ask for everything, as fast as places become free, but before the token is there for EARLY places
    // only, since the token would wait behind more. Then the next kernel may begin.
    __device__ __forceinline__ void supply() {
        int asked = 0;
        if constexpr (HAS_SUPPLIER) {
            for (; row < n_rows; asked++) {
                if (asked == EARLY) token_is_loaded();
                ring.await_free();
                ask();
                ring.advance();
            }
        }
        if (asked <= EARLY) token_is_loaded();
        let_next_begin();
    }

    // this warp's part of the sums of the next row of tiles, of a or b
    template <class F, class N>
    __device__ __forceinline__ void multiply(const N& x, float (&sums)[ROWS]) {
        constexpr int MINE = TILES<F>, ROOM = TEAM * MINE;
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, tile = warp % TEAM * MINE;
        float high = 0, low = 0;  // of rows g and g + 8
        for (int first = tile, end = n_columns / F::STEP, i = 0; i < n_rounds; i++, first += ROOM) {
            Shared place = {ring.await() + (BESIDE && warp >= TEAM ? BYTES<A> : 0)};
#pragma unroll
            for (int k = 0; k < MINE; k++) {
                bool there = first + k < end;
                F upper, lower;
                if (there) upper.fetch(place, ROOM, tile + k, 0, lane), lower.fetch(place, ROOM, tile + k, 1, lane);
                if (k == MINE - 1) {
                    __syncwarp();
                    if (HAS_SUPPLIER) {
                        ring.set_free();
                    } else {
                        ask();
                    }
                    ring.advance();
                }
                if (there) dot(upper, lower, x, (first + k) * F::STEP, high, low);
            }
        }
        high += __shfl_xor_sync(~0u, high, 1), low += __shfl_xor_sync(~0u, low, 1);
        high += __shfl_xor_sync(~0u, high, 2), low += __shfl_xor_sync(~0u, low, 2);
        if (lane % 4 == 0) sums[lane / 4] = high, sums[lane / 4 + 8] = low;
    }
};

// out[row] = Σ w[row][column]·x[column] (+ bias[row]) (+ what is there), for the rows of a and then those of b.
template <class A, class B>
__global__ void __launch_bounds__(THREADS, 2) matvec(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, int n_stages, const void* x, const float* norm,
    float eps, float* out, const float* bias, int add) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float sums[2][WARPS][ROWS];
    TokenPart token(x, norm, eps, n_columns);
    Weights<A, B, false> weights(memory, n_stages, a, a_rows, b, b_rows, n_columns);
    if (threadIdx.x >= READERS) return weights.supply();
    Numbers<A, B> numbers(weights.ring.end(), n_columns);
    await_previous();
    float scale = token.load(numbers);
    int warp = threadIdx.x / 32, turn = 0;
    for (int tile = blockIdx.x; tile < weights.n_rows; tile += gridDim.x, turn ^= 1) {
        bool in_a = tile < weights.a_rows;
        int row = ROWS * tile + threadIdx.x + (in_a ? 0 : a_rows - ROWS * weights.a_rows);
        bool writes = threadIdx.x < ROWS && row < (in_a ? a_rows : a_rows + b_rows);
        float value = 0, more = writes && add ? __ldcg(out + row) : 0;
        if (writes && bias) more += bias[row];
        if (same<A, B> || in_a) {
            weights.template multiply<A>(numbers, sums[turn][warp]);
        } else {
            weights.template multiply<B>(numbers, sums[turn][warp]);
        }
        readers_meet();
        if (!writes) continue;
        for (int w = 0; w < WARPS; w++) value += sums[turn][w][threadIdx.x];
        out[row] = scale * value + more;
    }
}

// out[row] = silu(a·x)·(b·x), as halves; both matrices have n_rows
template <class A, class B>
__global__ void __launch_bounds__(THREADS, 2) matvec_gate(
    const u8* a, const u8* b, int n_rows, int n_columns, int n_stages, const void* x, const float* norm, float eps,
    half_t* out) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float sums[2][WARPS][ROWS];
    TokenPart token(x, norm, eps, n_columns);
    Weights<A, B, true> weights(memory, n_stages, a, n_rows, b, n_rows, n_columns);
    if (threadIdx.x >= READERS) return weights.supply();
    Numbers<A, B> numbers(weights.ring.end(), n_columns);
    await_previous();
    float scale = token.load(numbers);
    int warp = threadIdx.x / 32, turn = 0;
    for (int tile = blockIdx.x; tile < weights.n_rows; tile += gridDim.x, turn ^= 1) {
        if (same<A, B> || warp < WARPS / 2) {
            weights.template multiply<A>(numbers, sums[turn][warp]);
        } else {
            weights.template multiply<B>(numbers, sums[turn][warp]);
        }
        readers_meet();
        int row = ROWS * tile + threadIdx.x;
        if (threadIdx.x >= ROWS || row >= n_rows) continue;
        float p = 0, q = 0;
        for (int w = 0; w < WARPS / 2; w++) {
            p += sums[turn][w][threadIdx.x], q += sums[turn][WARPS / 2 + w][threadIdx.x];
        }
        out[row] = to_half(silu(scale * p) * (scale * q));
    }
}
