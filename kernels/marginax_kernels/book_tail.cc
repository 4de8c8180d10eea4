// The tail of every account of a tile in one sweep of the cube: losses are summed in registers and never stored.
//
// The cube comes in slices that stay in a core's cache: slices x rows x lane. For each slice and account a span of
// scenarios is summed in position order and compared with a proven lower bound of the account's value at risk; what is
// beyond it is kept. When the room for candidates is full, the bound rises to a loss at or above which the mass
// `needed` still lies, and what is not beyond it is dropped: the answer is exact, and ties take no room.
//
// All of an account follows from its own positions, the cube and the weights: no neighbour, tile or thread changes a
// bit. The code keeps no threads and no locks; scratch memory belongs to the thread that calls.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

constexpr int64_t kBlock = 64;                  // scenarios are padded to whole blocks
constexpr int64_t kVenueBlock = 64;             // accounts whose losses beyond their amounts are summed together
constexpr int64_t kScratch = int64_t{8} << 20;  // bytes of candidates of accounts that are swept together
constexpr int64_t kLine = 64;                   // bytes of a cache line
constexpr int kSparse = 12;                     // so few of a span are kept faster one by one
constexpr int kFew = 16;                        // so few candidates are sorted

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// ---------------------------------------------------------------------------------------------------- vectors

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

// One bit for each lane that is not at most `bound`: greater, or no number.
template <typename Real>
inline uint64_t NotAtMost(Vector<Real> x, Vector<Real> bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    return _mm512_cmp_ps_mask((__m512)x, (__m512)bound, _CMP_NLE_UQ);
  } else {
    return _mm512_cmp_pd_mask((__m512d)x, (__m512d)bound, _CMP_NLE_UQ);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)bound, _CMP_NLE_UQ)));
  } else {
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)x, (__m256d)bound, _CMP_NLE_UQ)));
  }
#else
  uint64_t bits = 0;
  for (int k = 0; k < Lanes<Real>::kCount; ++k) bits |= uint64_t{!(x[k] <= bound[k])} << k;
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

// ---------------------------------------------------------------------------------------------------- selection

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
  double needed;   // the mass to reach
  double tail;
  double grid;
  double squares;  // sum of the squares of all weights
  double even;     // the weight of a scenario where all are equal
  int64_t room;    // candidates of an account; less only where every scenario fits
};

// Losses beyond the bound, with their weights. Behind the last there is room for two blocks.
template <typename Real>
struct Candidates {
  Real* loss;
  Real* weight;
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
    const uint32_t bits = static_cast<uint32_t>(NotAtMost<Real>(x, bound));
    if constexpr (kWeighted) Pack<Real>(held.weight + kept, Load(held.weight + k), bits);
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
  Close<Real, kWeighted>(held, 4, kLeast);
  const double all = kWeighted ? MassAtLeast(held, kLeast, asked.grid) : static_cast<double>(held.count);
  if (all < asked.needed) return bound;
  const Bracket<Real> at = Narrow<Real, kWeighted>(held, asked, kFew, -1);
  const Real low = Value<Real>(at.low), high = Value<Real>(at.high);
  if (!at.Wide()) return LeastFrom(held, low);
  Real loss[kFew], weight[kFew];
  int inside = 0;
  for (int64_t k = 0; k < held.count; ++k) {
    // Where nothing is at or above `high`, a number that the processor takes for zero must not say otherwise.
    if (!(held.loss[k] >= low) || (at.at_high && held.loss[k] >= high)) continue;
    int to = inside++;
    for (; to > 0 && loss[to - 1] < held.loss[k]; --to) loss[to] = loss[to - 1], weight[to] = weight[to - 1];
    loss[to] = held.loss[k];
    if constexpr (kWeighted) weight[to] = held.weight[k];
  }
  double mass = kWeighted && at.at_high ? MassAtLeast(held, high, asked.grid) : static_cast<double>(at.at_high);
  for (int k = 0; k < inside; ++k) {
    mass += kWeighted ? std::floor(static_cast<double>(weight[k]) * asked.grid) : 1;
    if (mass >= asked.needed) return loss[k];
  }
  return low;
}

// ---------------------------------------------------------------------------------------------------- the sweep

// A tile, and where its answers go. Scenarios stand in the order in which they are visited.
template <typename Real>
struct Tile {
  int64_t accounts, scenarios, width, rows, lane;
  const Real* slices;          // slices x rows x lane
  const Real* losses;          // accounts x scenarios: given losses instead of positions, else null
  const int32_t* held;         // positions of each account, -1 where there is no account
  const int32_t* instruments;  // accounts x width
  const Real* quantities;      // accounts x width
  const Real* weights;         // padded with zeros to whole blocks; null where all are equal
  const Real* amounts;         // null for none
  Real *var, *shortfall, *error, *exceedance;
  double* venue;               // blocks of accounts x scenarios, padded to whole blocks
};

template <typename Real>
struct Account {
  Candidates<Real> held;
  Real bound;
  bool unknown;      // one loss is no number, and so is every answer
  double exceeded;
};

// Value at risk, expected shortfall and its standard error from the candidates of an account.
template <typename Real, bool kWeighted>
__attribute__((noinline)) void Answer(Candidates<Real>& held, Real bound, const Asked& asked, Real* var,
                                      Real* shortfall, Real* error) {
  const Real edge = Edge<Real, kWeighted>(held, bound, asked);
  KeepBeyond<Real, kWeighted>(held, edge);
  Close<Real, kWeighted>(held, 4, edge);
  double sums[4] = {};
  for (int64_t k = 0; k < held.count; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const double excess = static_cast<double>(held.loss[k + j]) - static_cast<double>(edge);
      sums[j] += kWeighted ? static_cast<double>(held.weight[k + j]) * excess : excess;
    }
  }
  const double beyond = (sums[0] + sums[1] + sums[2] + sums[3]) * (kWeighted ? 1 : asked.even);
  const double above = std::isinf(edge) ? std::numeric_limits<double>::quiet_NaN() : beyond / asked.tail;
  // psi is excess / tail - above beyond the edge, one by one, and -above everywhere else.
  const double scale = 1 / asked.tail;
  double spread[4] = {}, inside[4] = {};
  for (int64_t k = 0; k < held.count; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const double own = kWeighted ? static_cast<double>(held.weight[k + j]) : asked.even;
      const double weight = k + j < held.count ? own : 0;
      const double excess = static_cast<double>(held.loss[k + j]) - static_cast<double>(edge);
      const double influence = weight * (excess * scale - above);
      spread[j] += influence * influence;
      inside[j] += weight * weight;
    }
  }
  const double others = std::max(0.0, asked.squares - (inside[0] + inside[1] + inside[2] + inside[3]));
  *var = edge;
  *shortfall = static_cast<Real>(static_cast<double>(edge) + above);
  *error = static_cast<Real>(std::sqrt(spread[0] + spread[1] + spread[2] + spread[3] + others * above * above));
}

// Adds what each loss is beyond `amount` to the venue's, where that is a finite number; returns the mass of those.
template <typename Real, bool kWeighted, int kSpan>
__attribute__((noinline)) double Exceed(const Real* losses, const Real* weights, Real amount, double* venue) {
  double sums[4] = {};
  for (int k = 0; k < kSpan; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const Real excess = losses[k + j] - amount;
      const bool beyond = losses[k + j] > amount;
      venue[k + j] += beyond && excess <= std::numeric_limits<Real>::max() ? static_cast<double>(excess) : 0;
      sums[j] += !beyond ? 0 : kWeighted ? static_cast<double>(weights[k + j]) : 1;
    }
  }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// One span of scenarios of one account: sum, compare, keep. `from` is where the span begins in row 0 of the slice, or
// in the account's losses; `first` is its first scenario.
template <typename Real, bool kWeighted, int kSums>
inline void Visit(const Tile<Real>& tile, const Asked& asked, int64_t a, const Real* from, int64_t first,
                  Account<Real>& account) {
  constexpr int kCount = Lanes<Real>::kCount, kSpan = kSums * kCount;
  const int64_t left = tile.scenarios - first;
  Vector<Real> sums[kSums];
  if (tile.losses) {
    Real padded[kSpan] = {};
    if (left < kSpan) from = static_cast<const Real*>(std::memcpy(padded, from, left * sizeof(Real)));
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) sums[v] = Load(from + v * kCount);
  } else {
    const int64_t positions = tile.held[a];
    const int32_t* instruments = tile.instruments + a * tile.width;
    const Real* quantities = tile.quantities + a * tile.width;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) sums[v] = Vector<Real>{};
    for (int64_t p = 0; p < positions; ++p) {
      const Vector<Real> quantity = Spread(quantities[p]);
      const Real* row = from + instruments[p] * tile.lane;
#pragma GCC unroll 8
      for (int v = 0; v < kSums; ++v) sums[v] -= quantity * Load(row + v * kCount);
    }
  }
  const uint64_t valid = ~uint64_t{0} >> (64 - std::min<int64_t>(left, kSpan));
  Real losses[kSpan];
  if (tile.amounts) {
    const Vector<Real> amount = Spread(tile.amounts[a]);
    uint64_t beyond = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) beyond |= NotAtMost<Real>(sums[v], amount) << v * kCount;
    if (beyond & valid) {
      for (int v = 0; v < kSums; ++v) Store(losses + v * kCount, sums[v]);
      for (int64_t k = left; k < kSpan; ++k) losses[k] = -std::numeric_limits<Real>::infinity();
      const int64_t padded = (tile.scenarios + kBlock - 1) / kBlock * kBlock;
      double* venue = tile.venue + a / kVenueBlock * padded + first;
      const Real* weights = kWeighted ? tile.weights + first : nullptr;
      account.exceeded += Exceed<Real, kWeighted, kSpan>(losses, weights, tile.amounts[a], venue);
    }
  }
  const Vector<Real> bound = Spread(account.bound);
  uint64_t keep = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kSums; ++v) keep |= NotAtMost<Real>(sums[v], bound) << v * kCount;
  keep &= valid;
  if (!keep) return;
  const Real* weights = kWeighted ? tile.weights + first : nullptr;
  int64_t count = account.held.count;
  if (__builtin_popcountll(keep) <= kSparse) {
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) Store(losses + v * kCount, sums[v]);
    for (; keep; keep &= keep - 1) {
      const int k = __builtin_ctzll(keep);
      account.unknown |= losses[k] != losses[k];
      if constexpr (kWeighted) account.held.weight[count] = weights[k];
      account.held.loss[count++] = losses[k];
    }
  } else {
    const Vector<Real> infinite = Spread(std::numeric_limits<Real>::infinity());
    uint64_t unknown = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) {
      const uint32_t bits = keep >> v * kCount & ((uint64_t{1} << kCount) - 1);
      unknown |= NotAtMost<Real>(sums[v], infinite) & bits;
      if constexpr (kWeighted) Pack<Real>(account.held.weight + count, Load(weights + v * kCount), bits);
      Pack<Real>(account.held.loss + count, sums[v], bits);
      count += __builtin_popcount(bits);
    }
    account.unknown |= unknown != 0;
  }
  account.held.count = count;
  if (account.unknown) {
    account.held.count = 0;
    account.bound = std::numeric_limits<Real>::infinity();
  } else if (count > asked.room - kBlock && asked.room < tile.scenarios) {
    account.bound = Raise<Real, kWeighted>(account.held, asked);
    // Only weights that are no numbers, or a room that does not fit them, could leave it full.
    account.unknown = account.held.count > asked.room - kBlock;
  }
}

// Memory kept from call to call: fresh pages cost as much as the arithmetic.
struct Scratch {
  std::unique_ptr<char[]> bytes;
  int64_t size = 0;

  char* Take(int64_t wanted) {
    if (wanted > size) {
      bytes.reset(new (std::nothrow) char[wanted + kLine]);
      size = bytes ? wanted : 0;
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(bytes.get());
    return reinterpret_cast<char*>((start + kLine - 1) / kLine * kLine);
  }
};

template <typename Real, bool kWeighted, int kSums>
ffi::Error Sweep(const Tile<Real>& tile, const Asked& asked) {
  constexpr int64_t kSpan = kSums * Lanes<Real>::kCount;
  thread_local Scratch scratch, states;
  // A line more than a power of two, so that not all accounts' candidates fall on the same sets of a cache.
  const int64_t stride = asked.room + 2 * kBlock + kLine / static_cast<int64_t>(sizeof(Real));
  const int64_t each = stride * static_cast<int64_t>(sizeof(Real)) * (kWeighted ? 2 : 1);
  const int64_t together = std::max<int64_t>(1, std::min(tile.accounts, std::max<int64_t>(16, kScratch / each)));
  Real* room = reinterpret_cast<Real*>(scratch.Take(together * each));
  Account<Real>* accounts = reinterpret_cast<Account<Real>*>(states.Take(together * sizeof(Account<Real>)));
  if (!scratch.size || !states.size) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for the candidates of a tile");
  }
  const int64_t lane = tile.losses ? (tile.scenarios + kBlock - 1) / kBlock * kBlock : tile.lane;
  for (int64_t start = 0; start < tile.accounts; start += together) {
    const int64_t end = std::min(tile.accounts, start + together);
    for (int64_t a = start; a < end; ++a) {
      Real* loss = room + (a - start) * stride * (kWeighted ? 2 : 1);
      accounts[a - start] = {{loss, loss + stride, 0}, -std::numeric_limits<Real>::infinity(), false, 0};
    }
    for (int64_t first = 0; first < tile.scenarios; first += lane) {
      const Real* slice = tile.losses ? nullptr : tile.slices + first / lane * tile.rows * lane;
      // The next slice is fetched a little with each account, so that none waits for it.
      const char* next = reinterpret_cast<const char*>(slice + tile.rows * lane);
      const int64_t bytes = slice && first + lane < tile.scenarios ? tile.rows * lane * sizeof(Real) : 0;
      const int64_t share = (bytes / (end - start) + kLine) / kLine * kLine;
      for (int64_t a = start; a < end; ++a) {
        const int64_t fetched = std::min(bytes, (a - start + 1) * share);
        for (int64_t at = (a - start) * share; at < fetched; at += kLine) __builtin_prefetch(next + at, 0, 2);
        Account<Real>& account = accounts[a - start];
        if (tile.held[a] < 0 || (account.unknown && !tile.amounts)) continue;
        const Real* from = tile.losses ? tile.losses + a * tile.scenarios : slice;
        const int64_t spans = std::min(lane, tile.scenarios - first);
        for (int64_t b = 0; b < spans; b += kSpan) {
          Visit<Real, kWeighted, kSums>(tile, asked, a, from + b, first + b, account);
        }
      }
    }
    for (int64_t a = start; a < end; ++a) {
      Account<Real>& account = accounts[a - start];
      constexpr Real kUnknown = std::numeric_limits<Real>::quiet_NaN();
      tile.var[a] = tile.shortfall[a] = tile.error[a] = tile.exceedance[a] = kUnknown;
      if (tile.held[a] < 0 || account.unknown) continue;
      Answer<Real, kWeighted>(account.held, account.bound, asked, tile.var + a, tile.shortfall + a, tile.error + a);
      if (tile.amounts && tile.amounts[a] == tile.amounts[a]) {
        tile.exceedance[a] = static_cast<Real>(account.exceeded * (kWeighted ? 1 : asked.even));
      }
    }
  }
  return ffi::Error::Success();
}

// ---------------------------------------------------------------------------------------------------- the calls

template <ffi::DataType kType>
using Matrix = ffi::Buffer<kType, 2>;
template <ffi::DataType kType>
using Row = ffi::Buffer<kType, 1>;

ffi::Error Wrong(const char* what) { return ffi::Error::InvalidArgument(what); }

// What both calls share: `asked` holds needed, tail, grid, squares and room; empty weights are equal ones, and empty
// amounts ask for no exceedance and no venue loss.
template <ffi::DataType kType, typename Real>
ffi::Error Run(Tile<Real> tile, Row<ffi::S32> held, Row<kType> weights, Row<kType> amounts, Row<ffi::F64> asked,
               ffi::Result<Row<kType>> var, ffi::Result<Row<kType>> shortfall, ffi::Result<Row<kType>> error,
               ffi::Result<Row<kType>> exceedance, ffi::Result<Matrix<ffi::F64>> venue) {
  const int64_t padded = (tile.scenarios + kBlock - 1) / kBlock * kBlock;
  const bool weighted = weights.element_count() > 0, amounted = amounts.element_count() > 0;
  const auto accounts = [&tile](const auto& row) { return static_cast<int64_t>(row.element_count()) == tile.accounts; };
  if (asked.element_count() != 5) return Wrong("five numbers are asked");
  if (!accounts(held) || !accounts(*var) || !accounts(*shortfall) || !accounts(*error) || !accounts(*exceedance)) {
    return Wrong("operands and results differ in accounts");
  }
  if (weighted && static_cast<int64_t>(weights.element_count()) != padded) return Wrong("weights end inside a block");
  if (amounted && (!accounts(amounts) || venue->dimensions()[1] != padded ||
                   venue->dimensions()[0] != (tile.accounts + kVenueBlock - 1) / kVenueBlock)) {
    return Wrong("amounts and venue losses do not fit the tile");
  }
  const double* values = asked.typed_data();
  const double room = values[4];
  // Room for a whole span and for as many as are needed at most, unless every scenario fits.
  if (!(room >= 2 * kBlock && room <= padded + 2 * kBlock)) return Wrong("candidates have no room");
  const Asked question = {values[0], values[1], values[2], values[3], 1 / static_cast<double>(tile.scenarios),
                          static_cast<int64_t>(room)};
  tile.held = held.typed_data();
  tile.weights = weighted ? weights.typed_data() : nullptr;
  tile.amounts = amounted ? amounts.typed_data() : nullptr;
  tile.var = var->typed_data(), tile.shortfall = shortfall->typed_data(), tile.error = error->typed_data();
  tile.exceedance = exceedance->typed_data(), tile.venue = venue->typed_data();
  if (amounted) std::memset(tile.venue, 0, venue->size_bytes());
  constexpr int kMost = kBlock / Lanes<Real>::kCount;
  constexpr int kWide = kMost < 8 ? kMost : 8, kNarrow = kMost / 2 < 8 ? kMost / 2 : 8;
  if (tile.losses || tile.lane % (kWide * Lanes<Real>::kCount) == 0) {
    return weighted ? Sweep<Real, true, kWide>(tile, question) : Sweep<Real, false, kWide>(tile, question);
  }
  return weighted ? Sweep<Real, true, kNarrow>(tile, question) : Sweep<Real, false, kNarrow>(tile, question);
}

// Accounts of positions: `slices` of the cube, and for each account how many it holds, of what and how much.
template <ffi::DataType kType, typename Real>
ffi::Error OfPositions(ffi::Buffer<kType, 3> slices, Row<ffi::S32> held, Matrix<ffi::S32> instruments,
                       Matrix<kType> quantities, Row<kType> weights, Row<kType> amounts, Row<ffi::F64> asked,
                       ffi::Result<Row<kType>> var, ffi::Result<Row<kType>> shortfall, ffi::Result<Row<kType>> error,
                       ffi::Result<Row<kType>> exceedance, ffi::Result<Matrix<ffi::F64>> venue, int64_t scenarios) {
  const auto cube = slices.dimensions(), tiled = instruments.dimensions();
  const int64_t accounts = tiled[0], width = tiled[1];
  if (scenarios < 1 || cube[2] < 1 || cube[2] % (kBlock / 2) || cube[0] != (scenarios + cube[2] - 1) / cube[2]) {
    return Wrong("slices do not hold the scenarios");
  }
  if (quantities.dimensions()[0] != accounts || quantities.dimensions()[1] != width ||
      static_cast<int64_t>(held.element_count()) != accounts) {
    return Wrong("instruments and quantities differ in shape");
  }
  for (int64_t a = 0; a < accounts; ++a) {
    const int64_t count = held.typed_data()[a];
    if (count > width) return Wrong("an account holds more positions than its tile is wide");
    for (int64_t p = 0; p < count; ++p) {
      const int64_t row = instruments.typed_data()[a * width + p];
      if (row < 0 || row >= cube[1]) return Wrong("a position names a row that the cube does not have");
    }
  }
  Tile<Real> tile = {};
  tile.accounts = accounts, tile.scenarios = scenarios, tile.width = width, tile.rows = cube[1], tile.lane = cube[2];
  tile.slices = slices.typed_data();
  tile.instruments = instruments.typed_data(), tile.quantities = quantities.typed_data();
  return Run<kType, Real>(tile, held, weights, amounts, asked, var, shortfall, error, exceedance, venue);
}

// Accounts whose losses are known: accounts x scenarios. `held` is -1 where there is no account.
template <ffi::DataType kType, typename Real>
ffi::Error OfLosses(Matrix<kType> losses, Row<ffi::S32> held, Row<kType> weights, Row<kType> amounts,
                    Row<ffi::F64> asked, ffi::Result<Row<kType>> var, ffi::Result<Row<kType>> shortfall,
                    ffi::Result<Row<kType>> error, ffi::Result<Row<kType>> exceedance,
                    ffi::Result<Matrix<ffi::F64>> venue) {
  if (losses.dimensions()[1] < 1) return Wrong("there are no scenarios");
  Tile<Real> tile = {};
  tile.accounts = losses.dimensions()[0], tile.scenarios = losses.dimensions()[1];
  tile.losses = losses.typed_data();
  return Run<kType, Real>(tile, held, weights, amounts, asked, var, shortfall, error, exceedance, venue);
}

template <ffi::DataType kType, typename Operands>
auto WithResults(Operands&& operands) {
  return std::forward<Operands>(operands)
      .template Arg<Row<kType>>()
      .template Arg<Row<kType>>()
      .template Arg<Row<ffi::F64>>()
      .template Ret<Row<kType>>()
      .template Ret<Row<kType>>()
      .template Ret<Row<kType>>()
      .template Ret<Row<kType>>()
      .template Ret<Matrix<ffi::F64>>();
}

template <ffi::DataType kType>
auto PositionsBinding() {
  return WithResults<kType>(ffi::Ffi::Bind()
                                .Arg<ffi::Buffer<kType, 3>>()
                                .template Arg<Row<ffi::S32>>()
                                .template Arg<Matrix<ffi::S32>>()
                                .template Arg<Matrix<kType>>())
      .template Attr<int64_t>("scenarios");
}

template <ffi::DataType kType>
auto LossesBinding() {
  return WithResults<kType>(ffi::Ffi::Bind().Arg<Matrix<kType>>().template Arg<Row<ffi::S32>>());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(marginax_positions_f32, (OfPositions<ffi::F32, float>), PositionsBinding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(marginax_positions_f64, (OfPositions<ffi::F64, double>), PositionsBinding<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(marginax_losses_f32, (OfLosses<ffi::F32, float>), LossesBinding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(marginax_losses_f64, (OfLosses<ffi::F64, double>), LossesBinding<ffi::F64>());
