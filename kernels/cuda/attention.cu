// Flash attention over the pages of the KV cache, on tensor cores.
//
// K, V: how a page keeps keys and values (kv.cuh); DK, DV: dims of a head, rounded up to 16.
// A tile of queries has 16 rows: heads that share a key head, of one token or of several.
#include "attention.cuh"

// How the pages that a token sees are cut into spans, at most 32, one for a block of `attend_one` each.
struct Spans {
    int first_key, first_page, end_page, pages, n;

    template <bool MORE>
    __device__ Spans(int position, const Form<MORE>& form, int most) {
        first_key = max(0, form.first(position));
        first_page = first_key / PAGE, end_page = position / PAGE + 1;
        pages = max(2, (end_page - first_page + most - 1) / most);
        n = (end_page - first_page + pages - 1) / pages;
    }
};

// Attention of tokens that each stand alone, as in decoding: a block takes a span of the pages, each of its warps a
// quarter of every page, and the last block of a head to be done joins the spans.
// grid: (key heads × tiles of 16 query heads, spans, tokens).
//
// With `turns` (one token, a cache of f16): q, k, v are f32 rows, rotated and saved here, as rotate_and_save does. Without, that has
// been done, and q is halves[token][head][DK]. out[token][head·v_dim + column]: halves, rows at out_stride.
// sums: f32[token][head][span][DV]; states: (largest, sum)[token][head][span]; done: zeros, one for each token and
// head, left as zeros.
template <int DK, int DV, int STAGES, class K, class V, bool MORE>
__global__ void __launch_bounds__(32 * WARPS) attend_one(
    const void* q, const float* k_row, const float* v_row, const float2* turns, int n_pairs, int neighbours,
    float scale, int k_dim, half_t* out, int out_stride, int v_dim, float* sums, float2* states, int* done,
    int n_heads, int group, int window, int chunk, float cap, const float* sinks, u64 k_offset, u64 v_offset,
    const int* n_tokens, const Token* tokens, const u64* tables) {
    constexpr int KEYS = PAGE / WARPS, K_STRIDE = KEYS + 8, V_STRIDE = DV + 8, STAGE = DK * K_STRIDE + KEYS * V_STRIDE;
    extern __shared__ __align__(16) half_t shared[];
    int number = blockIdx.z;
    if (number >= *n_tokens) return;
    Token token = tokens[number];
    Form<MORE> form = {window, chunk, cap, sinks};
    Spans spans(token.position, form, gridDim.y);
    if (blockIdx.y >= spans.n) return;
    int n_tiles = (group + ROWS - 1) / ROWS, kv_head = blockIdx.x / n_tiles, first_head = blockIdx.x % n_tiles * ROWS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int page = spans.first_page + blockIdx.y * spans.pages, end = min(page + spans.pages, spans.end_page);
    int n_rows = min(ROWS, group - first_head);
    const u64* table = tables + token.table;
    half_t* own = shared + warp * STAGES * STAGE;

    auto load = [&](int number) {
        if (number < end) {
            half_t* to = own + number % STAGES * STAGE;
            const u8* k = (const u8*)table[number] + k_offset + kv_head * K::head_bytes(DK);
            const u8* v = (const u8*)table[number] + v_offset + kv_head * V::head_bytes(DV);
            K::template keys<DK, KEYS>(to, K_STRIDE, k, warp * KEYS, lane, 32);
            V::template values<DV, KEYS>(to + DK * K_STRIDE, V_STRIDE, v, warp * KEYS, lane, 32);
        }
        close_group();
    };

    constexpr int K_LINES = K::head_bytes(DK) / 128, V_LINES = V::head_bytes(DV) / 128, LINES = K_LINES + V_LINES;
    for (int i = threadIdx.x, last = min(end, page + STAGES); i < (last - page) * LINES; i += 32 * WARPS) {
        const u8* at = (const u8*)table[page + i / LINES];  // what is read first comes nearer
        int line = i % LINES;
        at += line < K_LINES ? k_offset + (kv_head * K_LINES + line) * 128
                             : v_offset + (kv_head * V_LINES + line - K_LINES) * 128;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
    }
    await_previous();
    Rows<DK, DV> rows;
    if (turns) {
        __shared__ __align__(16) half_t queries[ROWS * DK];
        const float* heads = (const float*)q + (kv_head * group + first_head) * k_dim;
        int half = k_dim / 2, place = token.position % PAGE;
        u8* last = (u8*)table[token.position / PAGE];
        bool saves = end == spans.end_page;
        for (int i = threadIdx.x; i < n_rows * (DK - k_dim); i += 32 * WARPS) {
            queries[i / (DK - k_dim) * DK + k_dim + i % (DK - k_dim)] = 0;
        }
        constexpr int AT_ONCE = 4;  // pairs that a thread reads before it turns the first
        for (int first = threadIdx.x, n = (n_rows + saves) * half; first < n; first += AT_ONCE * 32 * WARPS) {
            float2 y[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                int i = min(first + k * 32 * WARPS, n - 1), row = i / half;
                const float* x = row < n_rows ? heads + row * k_dim : k_row + kv_head * k_dim;
                int2 at = pair_of(i % half, n_pairs, neighbours);
                y[k] = make_float2(__ldcg(x + at.x), __ldcg(x + at.y));
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                int i = first + k * 32 * WARPS, row = i / half, pair = i % half;
                if (i >= n) break;
                int2 at = pair_of(pair, n_pairs, neighbours);
                if (pair < n_pairs) y[k] = rotated(y[k].x, y[k].y, turns[pair]);
                if (row < n_rows) {
                    half_t* to = queries + row * DK;
                    to[at.x] = to_half(y[k].x * scale), to[at.y] = to_half(y[k].y * scale);
                } else {
                    half_t* to = (half_t*)(last + k_offset) + (u64)kv_head * DK * PAGE + place;
                    to[at.x * PAGE] = to_half(y[k].x), to[at.y * PAGE] = to_half(y[k].y);
                }
            }
        }
        if (saves) {
            half_t* to = (half_t*)(last + v_offset) + ((u64)kv_head * PAGE + place) * DV;
            for (int i = threadIdx.x; i < v_dim; i += 32 * WARPS) to[i] = to_half(__ldcg(v_row + kv_head * v_dim + i));
        }
        __syncthreads();
        rows.start(g < n_rows ? queries + g * DK : nullptr, g + 8 < n_rows ? queries + (g + 8) * DK : nullptr);
    } else {
        const half_t* heads = (const half_t*)q + ((u64)number * n_heads + kv_head * group + first_head) * DK;
        rows.start(g < n_rows ? heads + g * DK : nullptr, g + 8 < n_rows ? heads + (g + 8) * DK : nullptr);
    }
    int from[2] = {spans.first_key, spans.first_key}, to[2] = {token.position, token.position};
    for (int i = 0; i < STAGES - 1; i++) load(page + i);
    for (; page < end; page++) {
        load(page + STAGES - 1);
        await_groups<STAGES - 1>();
        __syncwarp();
        const half_t* k = own + page % STAGES * STAGE;
        rows.template take<KEYS>(form, k, K_STRIDE, k + DK * K_STRIDE, V_STRIDE, page * PAGE + warp * KEYS, from, to);
        __syncwarp();
    }
    let_next_begin();
    rows.finish();

    // join the warps
    await_groups<0>();
    __syncthreads();
    __shared__ float2 state[WARPS][ROWS];
    __shared__ bool is_last;
    float* parts = (float*)shared;  // [warp][row][DV]
    for (int row = 0; row < 2; row++) {
        if (t == 0) state[warp][g + 8 * row] = make_float2(rows.largest[row], rows.sum[row]);
        float* o = parts + (warp * ROWS + g + 8 * row) * DV + 2 * t;
        for (int i = 0; i < DV / 8; i++) o[8 * i] = rows.o[i][2 * row], o[8 * i + 1] = rows.o[i][2 * row + 1];
    }
    __syncthreads();
    half_t* results = out + number * (u64)out_stride + (kv_head * group + first_head) * v_dim;
    u64 first = ((u64)number * n_heads + kv_head * group + first_head) * gridDim.y;
    for (int i = threadIdx.x; i < n_rows * DV; i += 32 * WARPS) {
        int row = i / DV, column = i % DV;
        float largest = state[0][row].x, value = 0, sum = 0;
        for (int w = 1; w < WARPS; w++) largest = fmaxf(largest, state[w][row].x);
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2f(state[w][row].x - largest);
            value += weight * parts[(w * ROWS + row) * DV + column], sum += weight * state[w][row].y;
        }
        if (spans.n == 1) {
            sum += form.sink(kv_head * group + first_head + row, largest);
            if (column < v_dim) results[row * v_dim + column] = to_half(value / sum);
            continue;
        }
        u64 at = first + row * gridDim.y + blockIdx.y;
        sums[at * DV + column] = value;
        if (column == 0) states[at] = make_float2(largest, sum);
    }
    if (spans.n == 1) return;

    // join the spans
    __threadfence();
    __syncthreads();
    int* counter = done + number * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) is_last = atomicAdd(counter, 1) == spans.n - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
    float* weights = parts;  // [row][span], what to multiply each span's sums by
    for (int row = warp; row < n_rows; row += WARPS) {
        float2 own = make_float2(LOWEST, 0);
        if (lane < spans.n) own = __ldcg(states + first + row * gridDim.y + lane);
        float largest = own.x, weight, sum;
        for (int i = 16; i; i /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, i));
        weight = exp2f(own.x - largest), sum = sum_of_warp(weight * own.y);
        sum += form.sink(kv_head * group + first_head + row, largest);
        weights[32 * row + lane] = weight / sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_rows * DV / 4; i += 32 * WARPS) {
        int row = i / (DV / 4), column = 4 * (i % (DV / 4));
        const float* at = sums + (first + row * gridDim.y) * DV + column;
        float total[4] = {};
#pragma unroll 8
        for (int span = 0; span < spans.n; span++) {
            float4 part = __ldcg((const float4*)(at + span * DV));
            float weight = weights[32 * row + span];
            total[0] += weight * part.x, total[1] += weight * part.y;
            total[2] += weight * part.z, total[3] += weight * part.w;
        }
        for (int k = 0; k < 4; k++) {
            if (column + k < v_dim) results[row * v_dim + column + k] = to_half(total[k]);
        }
    }
}

// Attention of many tokens of a sequence: a block takes half of a task's rows, each of its warps 16. grid: (halves of
// tasks, key heads). q, out: as Seen has them.
template <int DK, int DV, int STAGES, class K, class V, bool MORE>
__global__ void __launch_bounds__(32 * WARPS) attend_many(
    const half_t* q, half_t* out, int out_stride, int v_dim, int n_heads, int group, int window, int chunk, float cap,
    const float* sinks, u64 k_offset, u64 v_offset, const Task* tasks, const Token* tokens, const u64* tables) {
    static_assert(2 * ROWS * WARPS == TASK_ROWS);
    constexpr int K_STRIDE = PAGE + 8, V_STRIDE = DV + 8, STAGE = DK * K_STRIDE + PAGE * V_STRIDE;
    extern __shared__ __align__(16) half_t shared[];
    int part = gridDim.x - 1 - blockIdx.x;  // those with the most keys first
    Task task = tasks[part / 2];
    int first_row = task.first_row + part % 2 * ROWS * WARPS, kv_head = blockIdx.y;
    if (first_row >= task.n_tokens * group) return;
    Form<MORE> form = {window, chunk, cap, sinks};
    Pages pages(task, first_row, ROWS * WARPS, group, form, tokens, tables);
    Seen seen(task, pages, first_row + threadIdx.x / 32 * ROWS, kv_head, group, form);

    auto load = [&](int number) {
        if (number < pages.end) {
            half_t* to = shared + number % STAGES * STAGE;
            const u8* page = (const u8*)pages.table[number];
            K::template keys<DK, PAGE>(to, K_STRIDE, page + k_offset + kv_head * K::head_bytes(DK), 0, threadIdx.x, 32 * WARPS);
            V::template values<DV, PAGE>(
                to + DK * K_STRIDE, V_STRIDE, page + v_offset + kv_head * V::head_bytes(DV), 0, threadIdx.x, 32 * WARPS);
        }
        close_group();
    };

    Rows<DK, DV> rows;
    seen.start(rows, q, n_heads);
    for (int i = 0; i < STAGES - 1; i++) load(pages.page + i);
    for (int page = pages.page; page < pages.end; page++) {
        load(page + STAGES - 1);
        await_groups<STAGES - 1>();
        __syncthreads();
        const half_t* k = shared + page % STAGES * STAGE;
        const half_t* v = k + DK * K_STRIDE;
        if (seen.all_of(page)) {
            rows.template take<PAGE, false>(form, k, K_STRIDE, v, V_STRIDE, page * PAGE, seen.from, seen.to);
        } else {
            rows.template take<PAGE>(form, k, K_STRIDE, v, V_STRIDE, page * PAGE, seen.from, seen.to);
        }
        __syncthreads();
    }
    seen.finish(form, rows, out, out_stride, v_dim);
}
