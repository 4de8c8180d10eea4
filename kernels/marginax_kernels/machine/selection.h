// The tail of losses that were kept: the edge at which enough mass is reached, exactly, and what is beyond it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "vectors.h"

namespace {

constexpr int kFew = 16;  // so few candidates are sorted

template <typename Real>
using Bits = typename Lanes<Real>::Whole;

// A float's bits as an integer in the same order, and back.
template <typename Real>
inline Bits<Real> Ordered(Bits<Real> bits) {
  return bits < 0 ? bits ^ std::numeric_limits<Bits<Real>>::max() : bits;
}

template <typename Real>
inline Bits<Real> Key(Real x) {
  Bits<Real> bits;
  std::memcpy(&bits, &x, sizeof(x));
  return Ordered<Real>(bits);
}

template <typename Real>
inline Real Value(Bits<Real> key) {
  const Bits<Real> bits = Ordered<Real>(key);
  Real x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// What is asked of every account. Masses are counted in whole numbers, whose sums are exact in any order: scenarios
// where weights are equal, and floor(weight x grid) where not.
struct Asked {
  double needed;  // the mass to reach
  double tail;
  double grid;
  double squares;                  // sum of the squares of all weights
  double even;                     // the weight of a scenario where all are equal
  int64_t room;                    // candidates of an account; less only where every scenario fits
  int64_t scrambles = 0;           // independent blocks that the error is told from; 0 for independent draws
  int64_t draws = 0;               // scenarios that the scrambles hold, the first ones
  const double* shares = nullptr;  // mass of each scramble
  const double* widths = nullptr;  // logarithm of Student's factor at 65 steps of scarcity from 0 to 1
};

// Losses beyond the bound, with their weights and, for scrambles, their scenarios as numbers. Behind the last there is
// room for two blocks.
template <typename Real>
struct Candidates {
  Real* loss;
  Real* weight;
  Real* scenario;  // null where no scramble is asked for
  int64_t count;
};

template <typename Real, bool kWeighted>
inline void Close(Candidates<Real>& held, int lanes, Real loss) {
  for (int k = 0; k < lanes; ++k) {
    held.loss[held.count + k] = loss;
    if constexpr (kWeighted) held.weight[held.count + k] = 0;
  }
}

struct Above {
  double mass;
  int64_t count;
};

// Count and mass of the candidates at or above `at`; the mass is a sum in Real of weights as they are.
template <typename Real, bool kWeighted>
inline Above AtLeast(const Candidates<Real>& held, Real at) {
  constexpr int kCount = Lanes<Real>::kCount;
  using Mask = typename Lanes<Real>::Mask;
  const Vector<Real> edge = Spread(at);
  Mask counts[2] = {};
  Vector<Real> masses[2] = {};
  for (int64_t k = 0; k < held.count; k += 2 * kCount) {
    for (int half = 0; half < 2; ++half) {
      const Mask above = (Mask)(Load(held.loss + k + half * kCount) >= edge);
      counts[half] -= above;
      if constexpr (kWeighted) {
        masses[half] += (Vector<Real>)(above & (Mask)Load(held.weight + k + half * kCount));
      }
    }
  }
  const Mask count = counts[0] + counts[1];
  const Vector<Real> mass = masses[0] + masses[1];
  Above total = {0, 0};
  for (int k = 0; k < kCount; ++k) {
    total.count += count[k];
    total.mass += static_cast<double>(mass[k]);
  }
  if (!kWeighted) total.mass = static_cast<double>(total.count);
  return total;
}

// Exact mass of the candidates at or above `at`.
template <typename Real>
inline double MassAtLeast(const Candidates<Real>& held, Real at, double grid) {
  double sums[4] = {};
  for (int64_t k = 0; k < held.count; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const double mass = std::floor(static_cast<double>(held.weight[k + j]) * grid);
      sums[j] += held.loss[k + j] >= at ? mass : 0;
    }
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// Enough mass lies at or above `low`, and not enough at or above `high`.
template <typename Real>
struct Bracket {
  Bits<Real> low, high;
  int64_t at_low, at_high;  // candidates at or above

  bool Wide() const { return low < 0 && high > 0 ? low < -1 || high > 1 || low < high - 1 : high - low > 1; }
  Bits<Real> Middle() const { return (low < 0) == (high < 0) ? low + (high - low) / 2 : (low + high) / 2; }
};

// Narrows until at most `few` candidates are inside, or the mass at `low` is at most `close`; all together must have
// enough. In a tail the logarithm of the mass is nearly straight in the loss: two steps along that line, from either
// side in turn, then one that halves the range. After 24 steps the range of bits is halved, which ends.
template <typename Real, bool kWeighted>
__attribute__((noinline)) Bracket<Real> Narrow(Candidates<Real>& held, const Asked& asked, int64_t few, double close) {
  constexpr int kCount = Lanes<Real>::kCount;
  Close<Real, kWeighted>(held, kCount, held.loss[0]);
  Vector<Real> top = Load(held.loss), bottom = top;
  for (int64_t k = kCount; k < held.count; k += kCount) {
    const Vector<Real> x = Load(held.loss + k);
    top = x > top ? x : top;
    bottom = x < bottom ? x : bottom;
  }
  Real greatest = top[0], least = bottom[0];
  for (int k = 1; k < kCount; ++k) greatest = std::max(greatest, top[k]), least = std::min(least, bottom[k]);
  Close<Real, kWeighted>(held, 2 * kCount, -std::numeric_limits<Real>::infinity());

  const double needed = kWeighted ? asked.needed / asked.grid : asked.needed;
  const double one = kWeighted ? 0.5 * needed / static_cast<double>(held.count) : 0.5;
  // A lane's sum is off by half an epsilon an addition, and each weight by up to one step from the grid.
  const double additions = static_cast<double>(held.count / (2 * kCount) + 16);
  const double unsure = needed * additions * std::numeric_limits<Real>::epsilon() + held.count / asked.grid;
  Bracket<Real> at = {Key(least), Key(greatest) + 1, held.count, 0};
  double mass_low = AtLeast<Real, kWeighted>(held, least).mass, mass_high = 0;
  for (int step = 0; at.Wide() && at.at_low - at.at_high > few && mass_low > close; ++step) {
    Bits<Real> middle = at.Middle();
    if (step < 24) {
      const double low = Value<Real>(at.low), high = Value<Real>(at.high - 1);
      double share = 0.5;
      if (step % 3 < 2) {
        const double aim = close > 0 ? (needed + close) / 2 : needed * (step % 2 ? 0.97 : 1.03);
        share = std::log(mass_low / aim) / std::log(mass_low / std::max(mass_high, one));
      }
      const Real guess = static_cast<Real>(low + (high - low) * share);
      if (std::isfinite(guess) && Key(guess) > at.low && Key(guess) < at.high) middle = Key(guess);
    }
    const Above above = AtLeast<Real, kWeighted>(held, Value<Real>(middle));
    bool enough = above.mass >= needed;
    if (kWeighted && std::abs(above.mass - needed) <= unsure) {
      enough = MassAtLeast(held, Value<Real>(middle), asked.grid) >= asked.needed;
    }
    if (enough) {
      at.low = middle, at.at_low = above.count, mass_low = above.mass;
    } else {
      at.high = middle, at.at_high = above.count, mass_high = above.mass;
    }
  }
  return at;
}

// Drops the candidates that are not beyond `edge`.
template <typename Real, bool kWeighted>
inline void KeepBeyond(Candidates<Real>& held, Real edge) {
  constexpr int kCount = Lanes<Real>::kCount;
  Close<Real, kWeighted>(held, kCount, -std::numeric_limits<Real>::infinity());
  const Vector<Real> bound = Spread(edge);
  int64_t kept = 0;
  for (int64_t k = 0; k < held.count; k += kCount) {
    const Vector<Real> x = Load(held.loss + k);
    const uint32_t bits = static_cast<uint32_t>(Compare<kNotAtMost, Real>(x, bound));
    if constexpr (kWeighted) Pack<Real>(held.weight + kept, Load(held.weight + k), bits);
    if (held.scenario) Pack<Real>(held.scenario + kept, Load(held.scenario + k), bits);
    Pack<Real>(held.loss + kept, x, bits);
    kept += __builtin_popcount(bits);
  }
  held.count = kept;
}

// The least candidate at or above `low`; some bit pattern between two losses never is an answer.
template <typename Real>
inline Real LeastFrom(const Candidates<Real>& held, Real low) {
  constexpr int kCount = Lanes<Real>::kCount;
  const Vector<Real> from = Spread(low), infinite = Spread(std::numeric_limits<Real>::infinity());
  Vector<Real> lowest = infinite;
  for (int64_t k = 0; k < held.count; k += kCount) {
    const Vector<Real> x = Load(held.loss + k);
    const Vector<Real> inside = x >= from ? x : infinite;
    lowest = inside < lowest ? inside : lowest;
  }
  Real least = lowest[0];
  for (int k = 1; k < kCount; ++k) least = std::min(least, lowest[k]);
  return least;
}

// The new bound: a candidate at or above which enough mass lies, not much more than that. What is beyond it stays.
template <typename Real, bool kWeighted>
__attribute__((noinline)) Real Raise(Candidates<Real>& held, const Asked& asked) {
  const double needed = kWeighted ? asked.needed / asked.grid : asked.needed;
  const Bracket<Real> at = Narrow<Real, kWeighted>(held, asked, 0, needed * 1.125 + !kWeighted);
  const Real bound = LeastFrom(held, Value<Real>(at.low));
  KeepBeyond<Real, kWeighted>(held, bound);
  return bound;
}

// The value at risk: the greatest loss at or above which enough mass lies; `bound` where the candidates lack it.
template <typename Real, bool kWeighted>
Real Edge(Candidates<Real>& held, Real bound, const Asked& asked) {
  constexpr Real kLeast = -std::numeric_limits<Real>::infinity();
  Close<Real, kWeighted>(held, std::max(4, Lanes<Real>::kCount), kLeast);
  const double all = kWeighted ? MassAtLeast(held, kLeast, asked.grid) : static_cast<double>(held.count);
  if (all < asked.needed) return bound;
  const Bracket<Real> at = Narrow<Real, kWeighted>(held, asked, kFew, -1);
  const Real low = Value<Real>(at.low), high = Value<Real>(at.high);
  if (!at.Wide()) return LeastFrom(held, low);
  constexpr int kCount = Lanes<Real>::kCount, kRoom = (kFew + kCount - 1) / kCount * kCount;
  Real loss[kRoom + kCount], weight[kRoom + kCount];
  int inside = 0;
  const Vector<Real> from = Spread(low), below = Spread(high);
  for (int64_t k = 0; k < held.count; k += kCount) {
    const Vector<Real> x = Load(held.loss + k);
    uint64_t bits = Compare<kAtLeast, Real>(x, from);
    // Where nothing is at or above `high`, a number that the processor takes for zero must not say otherwise.
    if (at.at_high) bits &= ~Compare<kAtLeast, Real>(x, below);
    // What closes the candidates is at or above a `low` of minus infinity too.
    if (held.count - k < kCount) bits &= (uint64_t{1} << (held.count - k)) - 1;
    if constexpr (kWeighted) Pack<Real>(weight + inside, Load(held.weight + k), static_cast<uint32_t>(bits));
    Pack<Real>(loss + inside, x, static_cast<uint32_t>(bits));
    inside += __builtin_popcountll(bits);
  }
  for (int k = inside; k < kRoom; k += kCount) Store(loss + k, Spread(kLeast));
  double masses[kRoom] = {};
  for (int k = 0; kWeighted && k < inside; ++k) masses[k] = std::floor(static_cast<double>(weight[k]) * asked.grid);
  const double beyond = kWeighted && at.at_high ? MassAtLeast(held, high, asked.grid) : static_cast<double>(at.at_high);
  // Each of them against all, which a processor need not guess about as it must when it sorts.
  Real edge = kLeast;
  for (int k = 0; k < inside; ++k) {
    const Vector<Real> own = Spread(loss[k]);
    double mass = beyond;
    int64_t count = 0;
    for (int j = 0; j < kRoom; j += kCount) {
      uint64_t above = Compare<kAtLeast, Real>(Load(loss + j), own);
      count += __builtin_popcountll(above);
      for (; kWeighted && above; above &= above - 1) mass += masses[j + __builtin_ctzll(above)];
    }
    if (!kWeighted) mass += static_cast<double>(count);
    edge = mass >= asked.needed ? std::max(edge, loss[k]) : edge;
  }
  return edge > low ? edge : low;
}

}  // namespace
