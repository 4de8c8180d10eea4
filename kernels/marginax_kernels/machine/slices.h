// The cube cut into slices that stay in a core's cache, scenarios in the order in which they are visited.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

constexpr int64_t kAbreast = 32;  // rows that are copied side by side: what they fill of a slice is in one piece

// Copies rows `begin` to `end` of the cube (rows x scenarios) into `slices` (slices x rows x lane). Visited block `b`
// begins at scenario `firsts[b]`; what lies behind the last scenario is zero. Lanes are whole blocks, or half of one.
template <typename Real>
void FillSlices(const Real* cube, Real* slices, const int32_t* firsts, int64_t rows, int64_t scenarios, int64_t lane,
                int64_t begin, int64_t end) {
  const int64_t padded = (scenarios + lane - 1) / lane * lane, piece = std::min(lane, kBlock);
  for (int64_t top = begin; top < end; top += kAbreast) {
    const int64_t bottom = std::min(end, top + kAbreast);
    for (int64_t at = 0; at < padded; at += piece) {
      const int64_t count = std::clamp<int64_t>(scenarios - at, 0, piece);
      const int64_t from = count ? firsts[at / kBlock] + at % kBlock : 0;
      // Blocks follow each other in strides, so nothing else fetches the ones that come.
      const int64_t ahead = std::min(at + 2 * piece, scenarios - 1);
      const Real* next = cube + firsts[ahead / kBlock] + ahead % kBlock;
      Real* to = slices + at / lane * rows * lane + at % lane;
      for (int64_t r = top; r < bottom; ++r) {
        for (int64_t k = 0; k < piece; k += 64 / sizeof(Real)) __builtin_prefetch(next + r * scenarios + k);
        std::memcpy(to + r * lane, cube + r * scenarios + from, count * sizeof(Real));
        std::memset(to + r * lane + count, 0, (piece - count) * sizeof(Real));
      }
    }
  }
}

}  // namespace
