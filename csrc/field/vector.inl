// Vectors of one instruction set: included inside namespace fastode::FASTODE_TARGET, in its unnamed namespace.
//
// Vec<T> has `lanes` elements; arithmetic operators, comparisons and the conditional operator are the compiler's. Unlike the
// step kernels (../cpu/kernels.inl), a field uses fused multiply-add where the processor has it: the last bits depend on the
// instruction set, never on which lane a sample is in or how wide a tile is.
#if !defined(FASTODE_VECTOR_BYTES)
#error "define FASTODE_VECTOR_BYTES: 64 for AVX-512, 32 for AVX2 with FMA, 16 else"
#endif

typedef float F32 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));
typedef double F64 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));
typedef std::int32_t I32 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));
typedef std::int64_t I64 __attribute__((vector_size(FASTODE_VECTOR_BYTES)));

template <class T>
struct Vectors;
template <>
struct Vectors<float> {
  using Vec = F32;
  using Int = I32;  // as wide; what comparisons return
};
template <>
struct Vectors<double> {
  using Vec = F64;
  using Int = I64;
};

template <class T>
using Vec = typename Vectors<T>::Vec;
template <class T>
using Int = typename Vectors<T>::Int;
template <class T>
constexpr int LANES = FASTODE_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};  // not 0 + x: that would lose the sign of a zero
}

#if FASTODE_VECTOR_BYTES == 64
inline F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F64 fma(F64 a, F64 b, F64 c) { return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
inline F32 root(F32 a) { return (F32)_mm512_maskz_sqrt_ps(0xffff, (__m512)a); }
inline F64 root(F64 a) { return (F64)_mm512_maskz_sqrt_pd(0xff, (__m512d)a); }
#elif FASTODE_VECTOR_BYTES == 32
inline F32 fma(F32 a, F32 b, F32 c) { return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline F64 fma(F64 a, F64 b, F64 c) { return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
inline F32 root(F32 a) { return (F32)_mm256_sqrt_ps((__m256)a); }
inline F64 root(F64 a) { return (F64)_mm256_sqrt_pd((__m256d)a); }
#elif defined(__SSE2__)
inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
inline F64 fma(F64 a, F64 b, F64 c) { return a * b + c; }
inline F32 root(F32 a) { return (F32)_mm_sqrt_ps((__m128)a); }
inline F64 root(F64 a) { return (F64)_mm_sqrt_pd((__m128d)a); }
#else
inline F32 fma(F32 a, F32 b, F32 c) {
  for (int i = 0; i < LANES<float>; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
inline F64 fma(F64 a, F64 b, F64 c) {
  for (int i = 0; i < LANES<double>; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
}
inline F32 root(F32 a) {
  for (int i = 0; i < LANES<float>; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
inline F64 root(F64 a) {
  for (int i = 0; i < LANES<double>; ++i) a[i] = __builtin_sqrt(a[i]);
  return a;
}
#endif
