// Operations that keep a state of each sequence: a convolution, the token before, recurrences. And one row for a sequence.
//
// A state is f32, and a batch's segments say which tokens take it from where it is to where it will be, perhaps the same
// place. Columns are independent of each other, so that a thread takes one through all segments of a sequence.
#include "common.cuh"

// tokens of one sequence, and its segments
struct Chunk {
    int first, n, first_segment, n_segments;
};

struct Segment {
    u64 first, n;
    const u8* source;  // null: zeros
    u8* target;
};

__device__ __forceinline__ float* at(const u8* record, u64 offset) { return (float*)(record ? record + offset : nullptr); }

// out[t] = Σ weight[column][tap]·x[t - (taps - 1 - tap)·dilation] (+ bias). state: [(taps - 1)·dilation][column], the first
// the oldest. grid: (parts of the columns, sequences)
extern "C" __global__ void __launch_bounds__(128) conv(
    const float* x, int x_stride, const float* weight, const float* bias, float* out, int out_stride, int n_columns,
    int taps, int dilation, u64 offset, const Chunk* chunks, const Segment* segments, const int* n_chunks) {
    int column = blockIdx.x * 128 + threadIdx.x, before = (taps - 1) * dilation;
    if (blockIdx.y >= *n_chunks || column >= n_columns) return;
    Chunk chunk = chunks[blockIdx.y];
    const float* w = weight + column * taps;
    for (int i = 0; i < chunk.n_segments; i++) {
        Segment segment = segments[chunk.first_segment + i];
        const float* source = at(segment.source, offset);
        float* target = at(segment.target, offset);
        const float* rows = x + segment.first * x_stride + column;
        auto seen = [&](int t) {
            if (t >= 0) return rows[t * (u64)x_stride];
            return source ? source[(before + t) * n_columns + column] : 0.0f;
        };
        for (int t = 0; t < segment.n; t++) {
            float sum = bias ? bias[column] : 0;
            for (int tap = 0; tap < taps; tap++) sum += w[tap] * seen(t - (taps - 1 - tap) * dilation);
            out[(segment.first + t) * out_stride + column] = sum;
        }
        for (int k = 0; k < before; k++) target[k * n_columns + column] = seen((int)segment.n - before + k);
    }
}

// out[t] = x[t - 1]; state: the last row
extern "C" __global__ void __launch_bounds__(128) shift(
    const float* x, int x_stride, float* out, int out_stride, int n_columns, u64 offset, const Chunk* chunks,
    const Segment* segments, const int* n_chunks) {
    int column = blockIdx.x * 128 + threadIdx.x;
    if (blockIdx.y >= *n_chunks || column >= n_columns) return;
    Chunk chunk = chunks[blockIdx.y];
    for (int i = 0; i < chunk.n_segments; i++) {
        Segment segment = segments[chunk.first_segment + i];
        const float* source = at(segment.source, offset);
        float last = source ? source[column] : 0;
        for (u64 t = segment.first; t < segment.first + segment.n; t++) {
            out[t * out_stride + column] = last;
            last = x[t * x_stride + column];
        }
        at(segment.target, offset)[column] = last;
    }
}

// --- recurrences: backends/reference/recurrence.py says what they are ----------------------------------------------
//
// `step` takes a column s of the state one token further and gives what is read of it: s(i) is its number i of n, v the
// column's own input, q, k, d, a, b those of its head.

struct Inputs {
    const float *q, *k, *d, *a, *b;
    float v;
    int n, d_step, a_step;  // steps: 0 where one number serves the head
};

struct ssm {
    template <class S>
    static __device__ __forceinline__ float step(const S& s, const Inputs& x) {
        float y = x.b[0] * x.v, input = x.d[0] * x.v;
        for (int i = 0; i < x.n; i++) y += (s(i) = expf(x.d[0] * x.a[i * x.a_step]) * s(i) + input * x.k[i]) * x.q[i];
        return y;
    }
};
struct delta {
    template <class S>
    static __device__ __forceinline__ float step(const S& s, const Inputs& x) {
        float y = 0, known = 0;
        for (int i = 0; i < x.n; i++) known += (s(i) *= expf(x.d[i * x.d_step])) * x.k[i];
        float more = x.a[0] * (x.v - known);
        for (int i = 0; i < x.n; i++) y += (s(i) += x.k[i] * more) * x.q[i];
        return y;
    }
};
struct linear {
    template <class S>
    static __device__ __forceinline__ float step(const S& s, const Inputs& x) {
        float y = 0;
        for (int i = 0; i < x.n; i++) y += (s(i) = x.d[i * x.d_step] * s(i) + x.k[i] * x.v) * x.q[i];
        return y;
    }
};
struct rwkv6 {
    template <class S>
    static __device__ __forceinline__ float step(const S& s, const Inputs& x) {
        float y = 0;
        for (int i = 0; i < x.n; i++) {
            float more = x.k[i] * x.v;
            y += (s(i) + x.a[i] * more) * x.q[i];
            s(i) = x.d[i * x.d_step] * s(i) + more;
        }
        return y;
    }
};
struct rwkv7 {
    template <class S>
    static __device__ __forceinline__ float step(const S& s, const Inputs& x) {
        float y = 0, known = 0;
        for (int i = 0; i < x.n; i++) known += s(i) * x.a[i];
        for (int i = 0; i < x.n; i++) {
            y += (s(i) = x.d[i * x.d_step] * s(i) + x.b[i] * known + x.k[i] * x.v) * x.q[i];
        }
        return y;
    }
};

// Of each argument: its numbers, and how many on the next token and the next head begin; q, k: n for a head, of which
// `share` of the state's have one. out[token][column]. state: [n][columns]. grid: (32 columns, sequences); shared: n·128
// bytes
template <class Kind>
__global__ void __launch_bounds__(32) scan(
    const float* q, int q_token, const float* k, int k_token, int share, const float* v, int v_token, const float* d,
    int d_token, int d_head, const float* a, int a_token, int a_head, const float* b, int b_token, int b_head,
    float* out, int out_token, int n_columns, int width, int n, u64 offset, const Chunk* chunks, const Segment* segments,
    const int* n_chunks) {
    extern __shared__ float states[];
    int column = blockIdx.x * 32 + threadIdx.x;
    if (blockIdx.y >= *n_chunks || column >= n_columns) return;
    Chunk chunk = chunks[blockIdx.y];
    int head = column / width, shared_head = head / share;
    auto s = [&](int i) -> float& { return states[32 * i + threadIdx.x]; };
    for (int i = 0; i < chunk.n_segments; i++) {
        Segment segment = segments[chunk.first_segment + i];
        const float* source = at(segment.source, offset);
        float* target = at(segment.target, offset);
        for (int j = 0; j < n; j++) s(j) = source ? source[j * (u64)n_columns + column] : 0;
        for (u64 t = segment.first; t < segment.first + segment.n; t++) {
            Inputs x = {q + t * q_token + shared_head * n, k + t * k_token + shared_head * n,
                        d + t * d_token + head * d_head, a + t * a_token + head * a_head, b + t * b_token + head * b_head,
                        v[t * v_token + column], n, d_head > 1, a_head > 1};
            out[t * out_token + column] = Kind::step(s, x);
        }
        for (int j = 0; j < n; j++) target[j * (u64)n_columns + column] = s(j);
    }
}

enum Pooling { MEAN, FIRST, LAST };

// One row for each sequence. grid: (parts of a row, sequences)
extern "C" __global__ void __launch_bounds__(128) pool(
    const float* x, int x_stride, float* out, int out_stride, int n_columns, int how, const Chunk* chunks,
    const int* n_chunks) {
    int column = blockIdx.x * 128 + threadIdx.x;
    if (blockIdx.y >= *n_chunks || column >= n_columns) return;
    Chunk chunk = chunks[blockIdx.y];
    int first = how == LAST ? chunk.first + chunk.n - 1 : chunk.first, n = how == MEAN ? chunk.n : 1;
    float sum = 0;
    for (int t = first; t < first + n; t++) sum += x[t * (u64)x_stride + column];
    out[blockIdx.y * (u64)out_stride + column] = sum / n;
}
