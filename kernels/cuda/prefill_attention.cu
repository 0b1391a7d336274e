// Attention of many tokens on Hopper's tensor cores, over a cache of f16: flash attention, as attention.cu's, but both
// products are wgmma's, and 128 rows share what comes of the cache.
#include "attention.cuh"
#include "wgmma.cuh"

[[maybe_unused]] constexpr int THREADS = 2 * TASK_ROWS;  // two groups of four warps, each with 64 rows
[[maybe_unused]] constexpr int PLACES = 4;  // of pages in shared memory: two are on their way, two are read

// A block takes a task's rows. grid: (tasks, key heads). D: dims of a head; the rest as attend_many has it.
template <int D, bool MORE>
__global__ void __launch_bounds__(THREADS, 128 / D) attend_prompt(
    const half_t* q, half_t* out, int out_stride, int n_heads, int group, int window, int chunk, float cap,
    const float* sinks, u64 k_offset, u64 v_offset, const Task* tasks, const Token* tokens, const u64* tables) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    static_assert(D == 64 || D == 128);
    constexpr int BYTES = D * PAGE * 2;  // of a page's keys, and of its values
    extern __shared__ u8 memory[];
    u8* places = memory + (-shared_address(memory) & 1023);  // as the swizzle wants it
    Task task = tasks[gridDim.x - 1 - blockIdx.x];  // those with the most keys first
    if (!task.n_tokens) return;
    int kv_head = blockIdx.y, warp = threadIdx.x / 32;
    Form<MORE> form = {window, chunk, cap, sinks};
    Pages pages(task, task.first_row, TASK_ROWS, group, form, tokens, tables);
    Seen seen(task, pages, task.first_row + warp * ROWS, kv_head, group, form);

    // Each thread copies 16 bytes, and again 16 that are as many rows further as threads copy at once. Values have D / 64
    // planes, of 64 columns each.
    int i = threadIdx.x, dim = i / 8, key = i / (D / 8), c = i % (D / 8);
    u32 k_to = shared_address(places) + dim * 128 + 16 * (i % 8 ^ dim % 8);
    u32 v_to = shared_address(places) + BYTES + (c / 8 * PAGE + key) * 128 + 16 * (c % 8 ^ key % 8);
    k_offset += kv_head * BYTES + 16 * i, v_offset += kv_head * BYTES + 16 * i;
    const u8* next = (const u8*)pages.table[pages.page];  // to be asked for: its address is here when it is needed
    auto load = [&](int number) {
        if (number < pages.end) {
            const u8 *k = next + k_offset, *v = next + v_offset;
            u32 place = number % PLACES * (2 * BYTES);
            if (number + 1 < pages.end) next = (const u8*)pages.table[number + 1];
#pragma unroll
            for (int n = 0; n < BYTES / 16 / THREADS; n++) {
                copy_ahead(k_to + place + n * (THREADS / 8 * 128), k + n * (16 * THREADS));
                copy_ahead(v_to + place + n * (THREADS / (D / 8) * 128), v + n * (16 * THREADS));
            }
        }
        close_group();
    };

    auto place_of = [&](int page) { return shared_address(places + page % PLACES * (2 * BYTES)); };

    Rows<D, D> rows;
    seen.start(rows, q, n_heads);
    float s[PAGE / 8][4], less[2];
    half2_t p[PAGE / 16][4];
    auto begin_scores = [&](int page) {
        await_groups<1>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // wgmma is to see what copies have written
        __syncthreads();
        u32 k = place_of(page);
        products_begin();
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            wgmma<true>(reinterpret_cast<float(&)[PAGE / 2]>(s), rows.q[i][0], rows.q[i][1], rows.q[i][2], rows.q[i][3],
                        described(k + i * (16 * 128)), i > 0);
        }
        products_end();
    };
    auto begin_sums = [&](int page) {
        u32 v = place_of(page) + BYTES;
        products_begin();
#pragma unroll
        for (int i = 0; i < PAGE / 16; i++) {
            wgmma<true>(reinterpret_cast<float(&)[D / 2]>(rows.o), p[i][0], p[i][1], p[i][2], p[i][3],
                        described(v + i * (16 * 128), PAGE * 128));
        }
        products_end();
    };
    auto weigh = [&](int page) {
        form.limit(s);
        if (seen.all_of(page)) {
            rows.template weigh<PAGE, false>(s, less, page * PAGE, seen.from, seen.to);
        } else {
            rows.template weigh<PAGE, true>(s, less, page * PAGE, seen.from, seen.to);
        }
    };

    int page = pages.page;
    load(page), load(page + 1);
    begin_scores(page);
    load(page + 2);
    await_products<0>();
    weigh(page);
    rows.template pack_all<PAGE>(s, p);
    while (++page < pages.end) {
        begin_scores(page);
        begin_sums(page - 1);
        load(page + 2);  // to the place of page - 2, which all have read
        await_products<1>();
        weigh(page);  // while values are multiplied
        await_products<0>();
        rows.shrink(less);
        rows.template pack_all<PAGE>(s, p);
    }
    begin_sums(page - 1);
    await_products<0>();
    seen.finish(form, rows, out, out_stride, D);
#endif
}
