// One sweep of the cube for a tile of accounts: losses are summed in registers, compared with a bound, and never stored.
#pragma once

#include "answer.h"
#include "product.h"
#include "scratch.h"

namespace {

constexpr int64_t kVenueBlock = 64;             // accounts whose losses beyond their amounts are summed together
constexpr int64_t kScratch = int64_t{8} << 20;  // bytes of candidates of accounts that are swept together
constexpr int kSparse = 12;                     // so few of a span are kept faster one by one

// A tile, and where its answers go. Scenarios stand in the order in which they are visited.
template <typename Real>
struct Tile {
  int64_t accounts, scenarios, tails, width, rows, lane;
  bool dense;                  // accounts are summed as products of matrices
  const Real* slices;          // slices x rows x lane
  const int32_t* held;         // positions of each account, -1 where there is no account
  const int32_t* instruments;  // accounts x width
  const Real* quantities;      // accounts x width
  const Real* weights;         // padded with zeros to whole blocks; null where all are equal
  const Real* amounts;         // null for none
  const int32_t* firsts;       // the first scenario of each visited block, as the caller counts them
  Real *var, *shortfall, *error;  // tails x accounts
  Real* exceedance;
  int32_t* worst;
  double* venue;               // blocks of accounts x scenarios, padded to whole blocks
};

template <typename Real>
struct Account {
  Candidates<Real> held;
  Real bound;
  bool unknown;  // one loss is no number, and so is every answer
  double exceeded;
  Real worst;    // the greatest loss so far, and where the caller has the first of them
  int64_t place;
};

// Losses of a span that are at least the worst so far.
template <typename Real>
__attribute__((noinline)) void NoteWorst(const Real* losses, uint64_t bits, int64_t natural, Account<Real>& account) {
  for (; bits; bits &= bits - 1) {
    const int k = __builtin_ctzll(bits);
    if (losses[k] > account.worst || natural + k < account.place) account.worst = losses[k], account.place = natural + k;
  }
}

// Compares a span of summed losses of one account and keeps what is beyond its bound; `first` is its first scenario.
template <typename Real, bool kWeighted, int kSums>
__attribute__((always_inline)) inline void Select(const Tile<Real>& tile, const Asked& asked, int64_t a, const Vector<Real>* sums, int64_t first,
                   Account<Real>& account) {
  constexpr int kCount = Lanes<Real>::kCount, kSpan = kSums * kCount;
  const int64_t left = tile.scenarios - first, natural = tile.firsts[first / kBlock] + first % kBlock;
  const uint64_t valid = ~uint64_t{0} >> (64 - std::min<int64_t>(left, kSpan));
  Real losses[kSpan];
  if (tile.amounts) {
    const Vector<Real> amount = Spread(tile.amounts[a]);
    uint64_t beyond = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) beyond |= Compare<kNotAtMost, Real>(sums[v], amount) << v * kCount;
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
  for (int v = 0; v < kSums; ++v) keep |= Compare<kNotAtMost, Real>(sums[v], bound) << v * kCount;
  keep &= valid;
  // What is not beyond the bound is the worst only where all so far are equal.
  if (!keep && account.bound != account.worst) return;
#pragma GCC unroll 8
  for (int v = 0; v < kSums; ++v) Store(losses + v * kCount, sums[v]);
  const Vector<Real> worst = Spread(account.worst);
  uint64_t top = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kSums; ++v) top |= Compare<kAtLeast, Real>(sums[v], worst) << v * kCount;
  if (top & valid) NoteWorst(losses, top & valid, natural, account);
  if (!keep) return;
  const Real* weights = kWeighted ? tile.weights + first : nullptr;
  Candidates<Real>& held = account.held;
  int64_t count = held.count;
  if (__builtin_popcountll(keep) <= kSparse) {
    for (; keep; keep &= keep - 1) {
      const int k = __builtin_ctzll(keep);
      account.unknown |= losses[k] != losses[k];
      if constexpr (kWeighted) held.weight[count] = weights[k];
      if (held.scenario) held.scenario[count] = static_cast<Real>(natural + k);
      held.loss[count++] = losses[k];
    }
  } else {
    const Vector<Real> infinite = Spread(std::numeric_limits<Real>::infinity());
    uint64_t unknown = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) {
      const uint32_t bits = keep >> v * kCount & ((uint64_t{1} << kCount) - 1);
      unknown |= Compare<kNotAtMost, Real>(sums[v], infinite) & bits;
      if constexpr (kWeighted) Pack<Real>(held.weight + count, Load(weights + v * kCount), bits);
      if (held.scenario) Pack<Real>(held.scenario + count, Rising<Real>(natural + v * kCount), bits);
      Pack<Real>(held.loss + count, sums[v], bits);
      count += __builtin_popcount(bits);
    }
    account.unknown |= unknown != 0;
  }
  held.count = count;
  if (account.unknown) {
    held.count = 0;
    account.bound = std::numeric_limits<Real>::infinity();
  } else if (count > asked.room - kBlock && asked.room < tile.scenarios) {
    account.bound = Raise<Real, kWeighted>(held, asked);
    // Only weights that are no numbers, or a room that does not fit them, could leave it full.
    account.unknown = held.count > asked.room - kBlock;
  }
}

// One account's losses of a span, in position order; `from` is where the span begins in row 0 of the slice.
template <typename Real, int kSums>
inline void Gather(const Tile<Real>& tile, int64_t a, const Real* from, Vector<Real>* sums) {
  const int64_t positions = tile.held[a];
  const int32_t* instruments = tile.instruments + a * tile.width;
  const Real* quantities = tile.quantities + a * tile.width;
  Vector<Real> total[kSums] = {};
  for (int64_t p = 0; p < positions; ++p) {
    const Vector<Real> quantity = Spread(quantities[p]);
    const Real* row = from + instruments[p] * tile.lane;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) total[v] -= quantity * Load(row + v * Lanes<Real>::kCount);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kSums; ++v) sums[v] = total[v];
}

// Answers a tile for each of its tails, the greatest first; false where there is no memory for it.
template <typename Real, bool kWeighted, int kSums>
bool Sweep(const Tile<Real>& tile, const Asked* tails) {
  constexpr int64_t kSpan = kSums * Lanes<Real>::kCount;
  const Asked& asked = tails[0];  // what a greater tail keeps holds all that a smaller one needs
  thread_local Scratch scratch, states, blocks, columns, totals;
  thread_local GroupRoom<Real> product;
  // A line more than a power of two, so that not all accounts' candidates fall on the same sets of a cache.
  const int64_t stride = asked.room + 2 * kBlock + kLine / static_cast<int64_t>(sizeof(Real));
  const int64_t each = stride * (1 + kWeighted + (asked.scrambles > 0));
  const int64_t most = std::max<int64_t>(16, kScratch / (each * static_cast<int64_t>(sizeof(Real))));
  const int64_t together = std::max<int64_t>(1, std::min(tile.accounts, most));
  const int64_t members = tile.dense ? kGroup : 1, groups = (together + members - 1) / members;
  Real* room = scratch.Take<Real>(together * each);
  Account<Real>* accounts = states.Take<Account<Real>>(together);
  double* sums_of_scrambles = blocks.Take<double>(asked.scrambles);
  if (!room || !accounts || !sums_of_scrambles) return false;
  Group<Real>* dense = nullptr;
  Vector<Real>* losses = nullptr;
  const int64_t vectors = tile.lane / Lanes<Real>::kCount;
  if (tile.dense) {
    dense = columns.Take<Group<Real>>(groups), losses = totals.Take<Vector<Real>>(groups * kGroup * vectors);
    const int64_t height = std::max<int64_t>(1, kPanel / (tile.lane * static_cast<int64_t>(sizeof(Real))));
    if (!dense || !losses || !product.Take(groups, tile.rows, height)) return false;
  }
  for (int64_t start = 0; start < tile.accounts; start += together) {
    const int64_t end = std::min(tile.accounts, start + together), units = (end - start + members - 1) / members;
    for (int64_t a = start; a < end; ++a) {
      Real* loss = room + (a - start) * each;
      Real* scenario = asked.scrambles ? loss + stride * (1 + kWeighted) : nullptr;
      constexpr Real kLeast = -std::numeric_limits<Real>::infinity();
      const bool absent = tile.held[a] < 0;
      accounts[a - start] = {{loss, loss + stride, scenario, 0}, kLeast, absent, 0, kLeast, tile.scenarios};
    }
    for (int64_t u = 0; tile.dense && u < units; ++u) {
      const int64_t from = start + u * members;
      dense[u] = product.Lay(u, tile.rows, tile.width, tile.held + from, tile.instruments + from * tile.width,
                             tile.quantities + from * tile.width, std::min(members, end - from));
    }
    const auto idle = [&](int64_t k) { return accounts[k].unknown && !(tile.amounts && tile.held[start + k] >= 0); };
    for (int64_t first = 0; first < tile.scenarios; first += tile.lane) {
      const Real* slice = tile.slices + first / tile.lane * tile.rows * tile.lane;
      const int64_t spans = std::min(tile.lane, tile.scenarios - first);
      // The next slice is fetched a little with each account, so that none waits for it.
      const char* next = reinterpret_cast<const char*>(slice + tile.rows * tile.lane);
      const int64_t bytes = first + tile.lane < tile.scenarios ? tile.rows * tile.lane * sizeof(Real) : 0;
      const int64_t share = (bytes / units + kLine) / kLine * kLine;
      if (tile.dense) {
        std::fill_n(losses, units * kGroup * vectors, Vector<Real>{});
        for (int64_t panel = 0; panel < product.panels(); ++panel) {
          for (int64_t u = 0; u < units; ++u) Product(dense[u], panel, slice, vectors, losses + u * kGroup * vectors);
        }
      }
      for (int64_t u = 0; u < units; ++u) {
        const int64_t fetched = std::min(bytes, (u + 1) * share);
        for (int64_t at = u * share; at < fetched; at += kLine) __builtin_prefetch(next + at, 0, 2);
        const int64_t from = u * members, to = std::min(from + members, end - start);
        for (int64_t k = from; tile.dense && k < to; ++k) {
          const Vector<Real>* sums = losses + k * vectors;
          for (int64_t b = 0; b < spans && !idle(k); b += kSpan) {
            Select<Real, kWeighted, kSums>(tile, asked, start + k, sums + b / Lanes<Real>::kCount, first + b, accounts[k]);
          }
        }
        for (int64_t b = 0; !tile.dense && b < spans && !idle(from); b += kSpan) {
          Vector<Real> sums[kSums];
          Gather<Real, kSums>(tile, start + from, slice + b, sums);
          Select<Real, kWeighted, kSums>(tile, asked, start + from, sums, first + b, accounts[from]);
        }
      }
    }
    for (int64_t a = start; a < end; ++a) {
      Account<Real>& account = accounts[a - start];
      constexpr Real kUnknown = std::numeric_limits<Real>::quiet_NaN();
      for (int64_t t = 0; t < tile.tails; ++t) {
        const int64_t at = t * tile.accounts + a;
        tile.var[at] = tile.shortfall[at] = tile.error[at] = kUnknown;
        if (account.unknown) continue;
        Answer<Real, kWeighted>(account.held, account.bound, tails[t], sums_of_scrambles, tile.var + at,
                                tile.shortfall + at, tile.error + at);
        account.bound = tile.var[at];
      }
      tile.exceedance[a] = kUnknown;
      tile.worst[a] = -1;
      if (account.unknown) continue;
      tile.worst[a] = static_cast<int32_t>(account.place);
      if (tile.amounts && tile.amounts[a] == tile.amounts[a]) {
        tile.exceedance[a] = static_cast<Real>(account.exceeded * (kWeighted ? 1 : asked.even));
      }
    }
  }
  return true;
}

}  // namespace
