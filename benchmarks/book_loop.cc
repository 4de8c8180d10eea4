// The hand-written loop that `book_tail` is measured against: value at risk and expected shortfall of equally weighted
// scenarios and nothing else. No weights, no error, no amounts, no NaN: the least that the answer can cost.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes), aligned(4), may_alias));
constexpr int kLanes = kBytes / 4, kSums = 64 / kLanes < 8 ? 64 / kLanes : 8, kSpan = kSums * kLanes;

// `slices` is slices x instruments x lane; account `a` holds entries `starts[a]` to `starts[a + 1]`; `count` scenarios are the tail; answers are two numbers an account.
extern "C" void book_loop(const float* slices, int64_t scenarios, int64_t instruments, int64_t lane,
                          const int64_t* starts, const int32_t* ids, const float* quantities, int64_t accounts,
                          int64_t count, float* answers) {
  const int64_t room = 4 * count + kSpan;
  std::vector<float> kept(accounts * room), bound(accounts, -std::numeric_limits<float>::infinity());
  std::vector<int64_t> held(accounts, 0);
  for (int64_t first = 0; first < scenarios; first += lane) {
    const float* slice = slices + first / lane * instruments * lane;
    for (int64_t a = 0; a < accounts; ++a) {
      float* mine = kept.data() + a * room;
      for (int64_t b = 0; b < std::min(lane, scenarios - first); b += kSpan) {
        Vector sums[kSums] = {};
        for (int64_t p = starts[a]; p < starts[a + 1]; ++p) {
          const float* row = slice + ids[p] * lane + b;
#pragma GCC unroll 8
          for (int v = 0; v < kSums; ++v) {
            sums[v] -= quantities[p] * reinterpret_cast<const Vector*>(row)[v];
          }
        }
        float losses[kSpan];
        std::memcpy(losses, sums, sizeof(losses));
        const int64_t left = std::min<int64_t>(kSpan, scenarios - first - b);
        for (int64_t k = 0; k < left; ++k) {
          mine[held[a]] = losses[k];
          held[a] += losses[k] > bound[a];
        }
        if (held[a] > room - kSpan) {
          std::nth_element(mine, mine + count - 1, mine + held[a], [](float x, float y) { return x > y; });
          bound[a] = mine[count - 1], held[a] = count;
        }
      }
    }
  }
  for (int64_t a = 0; a < accounts; ++a) {
    float* mine = kept.data() + a * room;
    std::nth_element(mine, mine + count - 1, mine + held[a], [](float x, float y) { return x > y; });
    double beyond = 0;
    for (int64_t k = 0; k < count; ++k) beyond += mine[k] - mine[count - 1];
    answers[2 * a] = mine[count - 1], answers[2 * a + 1] = static_cast<float>(beyond);
  }
}
