// Functions of a number, or of two, with up to four parameters.
#pragma once
#include "common.cuh"

namespace functions {

struct copy {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return a; }
};
struct add_scaled {
    static __device__ __forceinline__ float of(float a, float b, float p, float, float, float) { return a + p * b; }
};
struct mul {
    static __device__ __forceinline__ float of(float a, float b, float, float, float, float) { return a * b; }
};
struct scale {
    static __device__ __forceinline__ float of(float a, float, float p, float, float, float) { return a * p; }
};
struct sigmoid {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return 1 / (1 + expf(-a)); }
};
struct silu {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return a / (1 + expf(-a)); }
};
struct tanh {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return tanhf(a); }
};
struct exp {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return expf(a); }
};
struct relu {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return fmaxf(a, 0); }
};
struct squared_relu {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) {
        a = fmaxf(a, 0);
        return a * a;
    }
};
struct gelu {  // the form with tanh
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) {
        return 0.5f * a * (1 + tanhf(0.7978845608028654f * (a + 0.044715f * a * a * a)));
    }
};
struct softplus {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) {
        return fmaxf(a, 0) + log1pf(expf(-fabsf(a)));
    }
};
struct reciprocal {
    static __device__ __forceinline__ float of(float a, float, float, float, float, float) { return 1 / a; }
};
struct softcap {
    static __device__ __forceinline__ float of(float a, float, float p, float, float, float) { return p * tanhf(a / p); }
};
struct signed_sqrt {
    static __device__ __forceinline__ float of(float a, float, float p, float, float, float) {
        return a == 0 ? 0 : copysignf(sqrtf(fmaxf(fabsf(a), p)), a);
    }
};
struct clamp {
    static __device__ __forceinline__ float of(float a, float, float p, float q, float, float) { return fminf(fmaxf(a, p), q); }
};
struct xielu {  // Huang & Schlag 2024; p: alpha_n, q: alpha_p, r: beta, s: eps
    static __device__ __forceinline__ float of(float a, float, float p, float q, float r, float s) {
        return a > 0 ? q * a * a + r * a : p * (expm1f(fminf(a, s)) - a) + r * a;
    }
};
struct clamped_gate {  // gpt-oss
    static __device__ __forceinline__ float of(float a, float b, float p, float, float, float) {
        a = fminf(a, p), b = fminf(fmaxf(b, -p), p);
        return a / (1 + expf(-1.702f * a)) * (b + 1);
    }
};
template <class F>
struct gate {
    static __device__ __forceinline__ float of(float a, float b, float p, float q, float r, float s) {
        return F::of(a, 0, p, q, r, s) * b;
    }
};

}  // namespace functions
