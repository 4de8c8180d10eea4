// Vectors of the widest kind that the processor has, comparisons of them as bits, and packing of chosen lanes.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kBlock = 64;  // scenarios are padded to whole blocks

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename Real>
struct Lanes {
  typedef Real Vector __attribute__((vector_size(kVectorBytes)));
  typedef Real Anywhere __attribute__((vector_size(kVectorBytes), aligned(alignof(Real)), may_alias));
  using Whole = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Whole Mask __attribute__((vector_size(kVectorBytes)));
  static constexpr int kCount = kVectorBytes / sizeof(Real);
};

template <typename Real>
using Vector = typename Lanes<Real>::Vector;

template <typename Real>
inline Vector<Real> Load(const Real* from) {
  return *reinterpret_cast<const typename Lanes<Real>::Anywhere*>(from);
}

template <typename Real>
inline void Store(Real* to, Vector<Real> x) {
  *reinterpret_cast<typename Lanes<Real>::Anywhere*>(to) = x;
}

template <typename Real>
inline Vector<Real> Spread(Real x) {
  return x - Vector<Real>{};
}

// from, from + 1, from + 2 ...
template <typename Real>
inline Vector<Real> Rising(int64_t from) {
  Vector<Real> x;
  for (int k = 0; k < Lanes<Real>::kCount; ++k) x[k] = static_cast<Real>(from + k);
  return x;
}

// How lanes are compared, by the number that the processor knows it by: not at most is greater, or no number.
constexpr int kNotAtMost = 0x16, kAtLeast = 0x1d;

// One bit for each lane that is so to `bound`.
template <int kSo, typename Real>
inline uint64_t Compare(Vector<Real> x, Vector<Real> bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, kSo);
  } else {
    return _mm512_cmp_pd_mask((__m512d)x, (__m512d)bound, kSo);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)bound, kSo)));
  } else {
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)x, (__m256d)bound, kSo)));
  }
#else
  uint64_t bits = 0;
  for (int k = 0; k < Lanes<Real>::kCount; ++k) {
    const bool is = kSo == kNotAtMost ? !(x[k] <= bound[k]) : x[k] >= bound[k];
    bits |= uint64_t{is} << k;
  }
  return bits;
#endif
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// For every set of eight lanes the numbers of those in it, a byte each.
struct Packing {
  uint64_t of[256];
  constexpr Packing() : of() {
    for (int bits = 0; bits < 256; ++bits) {
      int to = 0;
      for (int k = 0; k < 8; ++k) {
        if (bits >> k & 1) of[bits] |= uint64_t(k) << 8 * to++;
      }
    }
  }
};
constexpr Packing kPacking;
#endif

// Writes the lanes in `bits` one after the other; up to a whole vector is overwritten.
template <typename Real>
inline void Pack(Real* to, Vector<Real> x, uint32_t bits) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    Store<Real>(to, (Vector<Real>)_mm512_maskz_compress_ps(static_cast<__mmask16>(bits), (__m512)x));
  } else {
    Store<Real>(to, (Vector<Real>)_mm512_maskz_compress_pd(static_cast<__mmask8>(bits), (__m512d)x));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 8) bits = (bits & 1) * 3 | (bits & 2) * 6 | (bits & 4) * 12 | (bits & 8) * 24;
  const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kPacking.of[bits])));
  Store<Real>(to, (Vector<Real>)_mm256_permutevar8x32_epi32((__m256i)x, order));
#else
  for (; bits; bits &= bits - 1) *to++ = x[__builtin_ctz(bits)];
#endif
}

}  // namespace
