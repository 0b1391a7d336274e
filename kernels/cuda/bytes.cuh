// Words of four bytes out of bits and nibbles.
#pragma once
#include "common.cuh"

// bits 0 … 3 → the lowest bits of four bytes
__device__ __forceinline__ u32 bit_bytes(u32 bits) { return (bits & 15) * 0x00204081 & 0x01010101; }

// four bytes' nibbles, each the place of a byte among those of A, B, C and D
template <u32 A, u32 B, u32 C, u32 D>
__device__ __forceinline__ u32 looked_up(u32 nibbles) {
    u32 s = (nibbles | nibbles >> 4) & 0x00FF00FF;  // → the four lowest nibbles
    s = (s | s >> 8) & 0xFFFF;
    u32 low = __byte_perm(A, B, s & 0x7777), high = __byte_perm(C, D, s & 0x7777);
    return __byte_perm(low, high, 0x3210 | (s & 0x8888) >> 1);
}

// the steps -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, each plus 128
__device__ __forceinline__ u32 steps(u32 nibbles) {
    return looked_up<0x3F2D1801, 0x766A5D4F, 0xA6998D81, 0xF1D9C5B5>(nibbles);
}
