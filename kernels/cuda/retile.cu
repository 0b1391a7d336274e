// Weights as the file has them → tiles (formats.py): what comes over the bus is laid out here, at the memory's speed.
#include "common.cuh"

// Which row and which byte of a tile's row (of one plane) lies at place i of the plane, counted in units of `unit` bytes.
struct Place {
    int row, step, byte;

    // outer, pieces: as formats.Plane has them; row_units: units of a tile's row, n_steps: tiles side by side
    __device__ Place(u32 i, int n_steps, int row_units, int outer, int pieces, int unit) {
        u32 inner = row_units / (outer * pieces), x = i % inner;
        i /= inner;
        x += inner * pieces * (i % outer);
        i /= outer;
        row = i % 8;
        i /= 8;
        x += inner * (i % pieces);
        i /= pieces;
        row += 8 * (i % 2) + 16 * (i / 2 / n_steps);
        step = i / 2 % n_steps;
        byte = x * unit;
    }
};

// One plane of rows first_row … of a matrix. blocks: those rows as they are in the file, n_blocks to each; what fills
// up the last tile of a row becomes 0. out: the plane from the row of tiles on that has first_row. A thread for each
// unit, n of them.
template <class Unit>
__global__ void __launch_bounds__(256) retile(
    const u8* blocks, Unit* out, u32 n, int first_row, int n_rows, int n_blocks, int block_bytes, int n_steps,
    int per_step, int first, int size, int outer, int pieces) {
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    Place at(i, n_steps, per_step * size / sizeof(Unit), outer, pieces, sizeof(Unit));
    int row = at.row - first_row % 16, block = at.step * per_step + at.byte / size;
    if (row < 0 || row >= n_rows) return;
    u64 from = ((u64)row * n_blocks + block) * block_bytes + first + at.byte % size;
    out[i] = block < n_blocks ? *(const Unit*)(blocks + from) : Unit{};
}

// The same for single numbers, which become halves. T: half_t, bfloat, or a type of C's.
struct bfloat {
    u16 bits;
};
template <class T>
__device__ __forceinline__ float number(T x) { return x; }
__device__ __forceinline__ float number(half_t x) { return to_float(x); }
__device__ __forceinline__ float number(bfloat x) { return __uint_as_float((u32)x.bits << 16); }

template <class T>
__global__ void __launch_bounds__(256) retile_floats(
    const T* rows, half_t* out, u32 n, int first_row, int n_rows, int width, int n_steps, int step, int outer,
    int pieces) {
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    Place at(i, n_steps, step, outer, pieces, sizeof(half_t));
    int row = at.row - first_row % 16, column = at.step * step + at.byte / 2;
    if (row < 0 || row >= n_rows) return;
    out[i] = column < width ? to_half(number(rows[(u64)row * width + column])) : 0;
}
