// Products of weight matrices with the row of one token, straight from quantised planes, at the speed of memory.
//
// A block takes 16 rows of weights after another, and its warps share the columns. Lane 4g + t unpacks units of rows g
// and g + 8 to bytes in registers, the left operand of the tensor cores. The token's numbers are whole numbers of 16
// bits with a scale for every 128 of them, cut into a high and a low byte. In the right operand, column 2t has the high
// bytes that belong to lane t's weights, column 2t + 1 the low ones, with zeros elsewhere: so each lane gets the sums of
// just the weights that it unpacked, and has the scales to multiply them by. All is exact but for the token's rounding.
// With X the sum of a group's numbers, Σ (s·(q - offset) - m)·x = s·(Σ q·x - offset·X) - m·X.
//
// Weights run ahead through a ring (ring.cuh): from one row of tiles to the next, and from one kernel to the next, which
// fills its ring while the one before still runs. A block that is done asks for what the next kernel reads after that.
#include "ring.cuh"

constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 16;
constexpr float LARGEST = 32600;  // of the token's whole numbers; high bytes, rounded, end at 127

__device__ __forceinline__ int rows_of_tiles(int n_rows) { return (n_rows + ROWS - 1) / ROWS; }

// The token in shared memory, divided by the largest of every 128 numbers: as whole numbers, of every 16 the high bytes
// and then the low ones; as halves; which of both, A and B tell. Beside it zeros, the scales, and the sums of every 16.
template <class A, class B>
struct Numbers {
    static constexpr bool HALVES = same<A, F16> || same<B, F16>, BYTES = !(same<A, F16> && same<B, F16>);
    u8 *zeros, *bytes;
    half_t* halves;
    float *scales, *sums;

    __device__ __forceinline__ Numbers(u8* memory, int n_columns)
        : zeros(memory), bytes(zeros + 256), halves((half_t*)(bytes + 2 * BYTES * n_columns)),
          scales((float*)(halves + HALVES * n_columns)), sums(scales + n_columns / 128) {
        if (threadIdx.x < 64) ((u32*)zeros)[threadIdx.x] = 0;
    }

    // four numbers, the first of number 4i; a warp puts 128 at once
    __device__ __forceinline__ void put(int i, float4 v) {
        float largest = max_of_warp(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
        float shrink = largest > 1e-30f ? 1 / largest : 0;
        if (HALVES) {
            ((uint2*)halves)[i] = make_uint2(pack(v.x * shrink, v.y * shrink), pack(v.z * shrink, v.w * shrink));
        }
        if (BYTES) {
            shrink *= LARGEST;
            int a = __float2int_rn(v.x * shrink), b = __float2int_rn(v.y * shrink);
            int c = __float2int_rn(v.z * shrink), d = __float2int_rn(v.w * shrink);
            u32* to = (u32*)(bytes + i / 4 * 32 + i % 4 * 4);
            to[0] = __byte_perm(__byte_perm(a + 128, b + 128, 0x51), __byte_perm(c + 128, d + 128, 0x51), 0x5410);
            to[4] = __byte_perm(__byte_perm(a, b, 0x40), __byte_perm(c, d, 0x40), 0x5410);
            int sum = a + b + c + d;
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (i % 4 == 0) sums[i / 4] = sum;
        }
        if (i % 32 == 0) scales[i / 32] = largest;
    }
};

// Fill x with the token: `from` as it is, halves, or, where `norm` is given, f32 times the weights of a norm. Gives what
// results are to be multiplied by: 1, or 1 / sqrt(mean(from²) + eps).
template <class N>
__device__ __forceinline__ float load_token(N x, const void* from, const float* norm, float eps, int n_columns) {
    constexpr int AT_ONCE = 4;
    __shared__ float squares_of[WARPS];
    float squares = 0;
    for (int first = threadIdx.x; first < n_columns / 4; first += AT_ONCE * THREADS) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int i = first + k * THREADS;
            if (i >= n_columns / 4) break;
            if (norm) {
                v[k] = __ldcg((const float4*)from + i);
            } else {
                uint2 h = __ldcg((const uint2*)from + i);
                v[k] = make_float4(low_half(h.x), high_half(h.x), low_half(h.y), high_half(h.y));
            }
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int i = first + k * THREADS;
            if (i >= n_columns / 4) break;
            if (norm) {
                float4 w = __ldg((const float4*)norm + i);
                squares += v[k].x * v[k].x + v[k].y * v[k].y + v[k].z * v[k].z + v[k].w * v[k].w;
                v[k] = make_float4(v[k].x * w.x, v[k].y * w.y, v[k].z * w.z, v[k].w * w.w);
            }
            x.put(i, v[k]);
        }
    }
    squares = sum_of_warp(squares);
    if (threadIdx.x % 32 == 0) squares_of[threadIdx.x / 32] = squares;
    __syncthreads();
    if (!norm) return 1;
    squares = 0;
    for (int i = 0; i < WARPS; i++) squares += squares_of[i];
    return rsqrtf(squares / n_columns + eps);
}

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
        float scale = x.scales[first / 128];
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
        float scale = x.scales[column / 128] * (1 / LARGEST);
        upper += scale * high, lower += scale * low;
    }
}

// What a warp takes of matrices a and, below it, b: of each row of tiles that its block takes, every stride-th tile.
template <class A, class B, int STAGES>
struct Share {
    static constexpr int PLACE = tile_bytes<A> > tile_bytes<B> ? tile_bytes<A> : tile_bytes<B>;
    Ring<STAGES, PLACE> ring;
    const u8 *a, *b;
    int a_rows, n_rows, n_columns, start, stride;  // rows: of tiles
    int row, step;  // of the tile to ask for next

    __device__ __forceinline__ Share(u8* memory, const u8* a, int a_rows, const u8* b, int b_rows, int n_columns,
                                     int start, int stride)
        : ring(memory), a(a), b(b), a_rows(rows_of_tiles(a_rows)), n_rows(this->a_rows + rows_of_tiles(b_rows)),
          n_columns(n_columns), start(start), stride(stride), row(blockIdx.x), step(start) {
        for (int i = 0; i < STAGES; i++) ask();
    }

    __device__ __forceinline__ int n_steps(int row) const { return n_columns / (row < a_rows ? A::STEP : B::STEP); }

    __device__ __forceinline__ void ask() {
        while (row < n_rows && step >= n_steps(row)) row += gridDim.x, step = start;
        u64 steps = n_steps(row);
        if (row < a_rows) {
            ring.template ask<A>(a, a_rows * steps, row * steps + step);
        } else if (row < n_rows) {
            ring.template ask<B>(b, (n_rows - a_rows) * steps, (row - a_rows) * steps + step);
        }
        step += stride;
        ring.advance();
    }

    // this warp's part of the sums of the next row of tiles, of a or b
    template <class F, class N>
    __device__ __forceinline__ void multiply(const N& x, float (&sums)[ROWS]) {
        int lane = threadIdx.x % 32;
        float high = 0, low = 0;  // of rows g and g + 8
        for (int step = start; step < n_columns / F::STEP; step += stride) {
            Shared tile = ring.await();
            F upper, lower;
            upper.fetch(tile, 1, 0, 0, lane), lower.fetch(tile, 1, 0, 1, lane);
            __syncwarp();
            ask();
            dot(upper, lower, x, step * F::STEP, high, low);
        }
        high += __shfl_xor_sync(~0u, high, 1), low += __shfl_xor_sync(~0u, low, 1);
        high += __shfl_xor_sync(~0u, high, 2), low += __shfl_xor_sync(~0u, low, 2);
        if (lane % 4 == 0) sums[lane / 4] = high, sums[lane / 4 + 8] = low;
    }
};

// out[row] = Σ w[row][column]·x[column] (+ bias[row]) (+ what is there), for the rows of a and then those of b.
template <class A, class B, int STAGES>
__global__ void __launch_bounds__(THREADS, 2) matvec(
    const u8* a, int a_rows, const u8* b, int b_rows, int n_columns, const void* x, const float* norm, float eps,
    float* out, const float* bias, int add, const u8* next_a, const u8* next_b, u32 next_bytes) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float sums[2][WARPS][ROWS];
    int warp = threadIdx.x / 32, turn = 0;
    Share<A, B, STAGES> share(memory, a, a_rows, b, b_rows, n_columns, warp, WARPS);
    Numbers<A, B> numbers(memory + WARPS * share.ring.BYTES, n_columns);
    if (norm) ask_ahead((const u8*)norm, nullptr, 4 * n_columns, 0, 1);
    let_next_begin();
    await_previous();
    float scale = load_token(numbers, x, norm, eps, n_columns);
    for (int tile = blockIdx.x; tile < share.n_rows; tile += gridDim.x, turn ^= 1) {
        bool in_a = tile < share.a_rows;
        int end = in_a ? a_rows : a_rows + b_rows;
        int row = ROWS * tile + threadIdx.x + (in_a ? 0 : a_rows - ROWS * share.a_rows);
        bool writes = threadIdx.x < ROWS && row < end;
        float value = 0, more = writes && add ? __ldcg(out + row) : 0;
        if (writes && bias) more += bias[row];
        if (in_a) {
            share.template multiply<A>(numbers, sums[turn][warp]);
        } else {
            share.template multiply<B>(numbers, sums[turn][warp]);
        }
        __syncthreads();
        if (!writes) continue;
        for (int w = 0; w < WARPS; w++) value += sums[turn][w][threadIdx.x];
        out[row] = scale * value + more;
    }
    ask_ahead(next_a, next_b, next_bytes, blockIdx.x, gridDim.x);
}

// out[row] = silu(gate·x)·(up·x), as halves; both matrices have n_rows. Half of the warps take gate, half up.
template <class A, class B, int STAGES>
struct Gate {
    static constexpr int HALF = WARPS / 2;
    float (*sums)[WARPS][ROWS];  // [2]
    u8* memory;
    const void* x;
    const float* norm;
    float eps;
    half_t* out;
    int n_rows, n_columns;

    // what a warp does with its matrix, of type F
    template <class F, class G>
    __device__ __forceinline__ void walk(const u8* matrix) const {
        int warp = threadIdx.x / 32, turn = 0;
        Share<F, G, STAGES> share(memory, matrix, n_rows, nullptr, 0, n_columns, warp % HALF, HALF);
        Numbers<A, B> numbers(memory + WARPS * share.ring.BYTES, n_columns);
        if (norm) ask_ahead((const u8*)norm, nullptr, 4 * n_columns, 0, 1);
        let_next_begin();
        await_previous();
        float scale = load_token(numbers, x, norm, eps, n_columns);
        for (int tile = blockIdx.x; tile < share.n_rows; tile += gridDim.x, turn ^= 1) {
            share.template multiply<F>(numbers, sums[turn][warp]);
            __syncthreads();
            int row = ROWS * tile + threadIdx.x;
            if (threadIdx.x >= ROWS || row >= n_rows) continue;
            float a = 0, b = 0;
            for (int w = 0; w < HALF; w++) a += sums[turn][w][threadIdx.x], b += sums[turn][HALF + w][threadIdx.x];
            out[row] = to_half(silu(scale * a) * (scale * b));
        }
    }
};

template <class A, class B, int STAGES>
__global__ void __launch_bounds__(THREADS, 2) matvec_gate(
    const u8* gate, const u8* up, int n_rows, int n_columns, const void* x, const float* norm, float eps, half_t* out,
    const u8* next_a, const u8* next_b, u32 next_bytes) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float sums[2][WARPS][ROWS];
    Gate<A, B, STAGES> all{sums, memory, x, norm, eps, out, n_rows, n_columns};
    bool first = threadIdx.x / 32 < WARPS / 2;
    if constexpr (same<A, B>) {
        all.template walk<A, A>(first ? gate : up);
    } else if (first) {
        all.template walk<A, B>(gate);
    } else {
        all.template walk<B, A>(up);
    }
    ask_ahead(next_a, next_b, next_bytes, blockIdx.x, gridDim.x);
}
