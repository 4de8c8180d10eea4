// One sweep of the cube for a tile of accounts: losses are summed in registers, compared with a bound, and never stored.
#pragma once

#include "answer.h"
#include "product.h"
#include "scratch.h"

namespace {

constexpr int64_t kVenueBlock = 64;             // accounts whose losses beyond their amounts are summed together
constexpr int64_t kScratch = int64_t{8} << 20;  // bytes of candidates of accounts that are swept together
constexpr int kDeepest = 4;                     // losses of a lane that a first bound is looked for in, at most
constexpr int kSparse = 12;                     // so few of a span are kept faster one by one

// Some accounts of a book, the cube they are asked of, and where their answers go: those of account `a` of the tile at
// `accounts[a]` of all. Scenarios stand in the order in which they are visited. `native_tail.Tile` is the same in Python.
template <typename Real>
struct Tile {
  int64_t scenarios, rows, lane, tails;
  int64_t count, book;         // accounts of the tile, and of the book
  int64_t dense;               // whether accounts are summed as products of matrices
  const Real* slices;          // slices x rows x lane
  const int32_t* firsts;       // the first scenario of each visited block, as the caller counts them
  const Real* weights;         // padded with zeros to whole blocks; null where all are equal
  const int64_t* accounts;
  const int64_t* starts;       // of the book: account `k` holds entries `starts[k]` to `starts[k + 1]`
  const int32_t* instruments;  // entries
  const Real* quantities;      // entries
  const Real* amounts;         // of the book; null for none
  Real *var, *shortfall, *error;  // tails x accounts of the book
  Real* exceedance;               // of the book; null where no amounts are given
  int32_t* worst;
  double* venue;  // blocks of accounts of the tile x scenarios, padded to whole blocks and zero; null without amounts
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
__attribute__((always_inline)) inline void Select(const Tile<Real>& tile, const Asked& asked, int64_t a,
                                                  const Vector<Real>* sums, int64_t first, Account<Real>& account) {
  constexpr int kCount = Lanes<Real>::kCount, kSpan = kSums * kCount;
  const int64_t left = tile.scenarios - first, natural = tile.firsts[first / kBlock] + first % kBlock;
  const uint64_t valid = ~uint64_t{0} >> (64 - std::min<int64_t>(left, kSpan));
  Real losses[kSpan];
  if (tile.amounts) {
    const Real limit = tile.amounts[tile.accounts[a]];
    const Vector<Real> amount = Spread(limit);
    uint64_t beyond = 0;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) beyond |= Compare<kNotAtMost, Real>(sums[v], amount) << v * kCount;
    if (beyond & valid) {
      for (int v = 0; v < kSums; ++v) Store(losses + v * kCount, sums[v]);
      for (int64_t k = left; k < kSpan; ++k) losses[k] = -std::numeric_limits<Real>::infinity();
      const int64_t padded = (tile.scenarios + kBlock - 1) / kBlock * kBlock;
      double* venue = tile.venue + a / kVenueBlock * padded + first;
      const Real* weights = kWeighted ? tile.weights + first : nullptr;
      account.exceeded += Exceed<Real, kWeighted, kSpan>(losses, weights, limit, venue);
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
  const int64_t account = tile.accounts[a];
  Vector<Real> total[kSums] = {};
  for (int64_t p = tile.starts[account]; p < tile.starts[account + 1]; ++p) {
    const Vector<Real> quantity = Spread(tile.quantities[p]);
    const Real* row = from + tile.instruments[p] * tile.lane;
#pragma GCC unroll 8
    for (int v = 0; v < kSums; ++v) total[v] -= quantity * Load(row + v * Lanes<Real>::kCount);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kSums; ++v) sums[v] = total[v];
}

// The least over lanes of the `kDeep` greatest losses of each: so many times the lanes lie at or above it. NaN is passed
// over. `greatest` becomes the greatest of all.
template <typename Real, int kDeep>
inline Real Opening(const Vector<Real>* sums, int64_t vectors, Real* greatest) {
  Vector<Real> top[kDeep];
#pragma GCC unroll 8
  for (int d = 0; d < kDeep; ++d) top[d] = Spread(-std::numeric_limits<Real>::infinity());
  for (int64_t v = 0; v < vectors; ++v) {
    Vector<Real> x = sums[v];
#pragma GCC unroll 8
    for (int d = 0; d < kDeep; ++d) {
      const Vector<Real> up = x > top[d] ? x : top[d];
      x = x > top[d] ? top[d] : x;
      top[d] = up;
    }
  }
  Real least = top[kDeep - 1][0];
  *greatest = top[0][0];
  for (int k = 1; k < Lanes<Real>::kCount; ++k) {
    least = std::min(least, top[kDeep - 1][k]);
    *greatest = std::max(*greatest, top[0][k]);
  }
  return least;
}

// Raises the bound of an account that has seen nothing yet to one that enough of equal weights reach; few are needed.
template <typename Real>
inline void Open(const Vector<Real>* sums, int64_t vectors, double needed, Account<Real>& account) {
  constexpr int kCount = Lanes<Real>::kCount;
  if (needed <= kCount) {
    account.bound = Opening<Real, 1>(sums, vectors, &account.worst);
  } else if (needed <= 2 * kCount) {
    account.bound = Opening<Real, 2>(sums, vectors, &account.worst);
  } else {
    account.bound = Opening<Real, kDeepest>(sums, vectors, &account.worst);
  }
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
  const int64_t together = std::max<int64_t>(1, std::min(tile.count, most));
  const int64_t members = tile.dense ? kGroup : 1, groups = (together + members - 1) / members;
  Real* room = scratch.Take<Real>(together * each);
  Account<Real>* accounts = states.Take<Account<Real>>(together);
  double* sums_of_scrambles = blocks.Take<double>(asked.scrambles);
  if (!room || !accounts || !sums_of_scrambles) return false;
  Group<Real>* dense = nullptr;
  const int64_t vectors = tile.lane / Lanes<Real>::kCount;
  Vector<Real>* losses = totals.Take<Vector<Real>>(vectors * (tile.dense ? groups * kGroup : 1));
  if (!losses) return false;
  if (tile.dense) {
    dense = columns.Take<Group<Real>>(groups);
    const int64_t height = std::max<int64_t>(1, kPanel / (tile.lane * static_cast<int64_t>(sizeof(Real))));
    if (!dense || !product.Take(groups, tile.rows, height)) return false;
  }
  // Whether a first bound is found in the first slice before anything of it is kept.
  const bool opens = !kWeighted && asked.needed <= kDeepest * Lanes<Real>::kCount;
  for (int64_t start = 0; start < tile.count; start += together) {
    const int64_t end = std::min(tile.count, start + together), units = (end - start + members - 1) / members;
    for (int64_t a = start; a < end; ++a) {
      Real* loss = room + (a - start) * each;
      Real* scenario = asked.scrambles ? loss + stride * (1 + kWeighted) : nullptr;
      constexpr Real kLeast = -std::numeric_limits<Real>::infinity();
      accounts[a - start] = {{loss, loss + stride, scenario, 0}, kLeast, false, 0, kLeast, tile.scenarios};
    }
    for (int64_t u = 0; tile.dense && u < units; ++u) {
      const int64_t from = start + u * members;
      dense[u] = product.Lay(u, tile.rows, tile.accounts + from, std::min(members, end - from), tile.starts,
                             tile.instruments, tile.quantities);
    }
    const auto idle = [&](int64_t k) { return accounts[k].unknown && !tile.amounts; };
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
        const auto select = [&](int64_t k, const Vector<Real>* sums, int64_t b) {
          Select<Real, kWeighted, kSums>(tile, asked, start + k, sums, first + b, accounts[k]);
        };
        const auto select_all = [&](int64_t k, const Vector<Real>* sums) {
          for (int64_t b = 0; b < spans && !idle(k); b += kSpan) select(k, sums + b / Lanes<Real>::kCount, b);
        };
        if (tile.dense) {
          for (int64_t k = from; k < to; ++k) select_all(k, losses + k * vectors);
        } else if (opens && !first) {
          for (int64_t b = 0; b < spans; b += kSpan) {
            Gather<Real, kSums>(tile, start + from, slice + b, losses + b / Lanes<Real>::kCount);
          }
          Open<Real>(losses, spans / Lanes<Real>::kCount, asked.needed, accounts[from]);
          select_all(from, losses);
        } else {
          for (int64_t b = 0; b < spans && !idle(from); b += kSpan) {
            Vector<Real> sums[kSums];
            Gather<Real, kSums>(tile, start + from, slice + b, sums);
            select(from, sums, b);
          }
        }
      }
    }
    for (int64_t a = start; a < end; ++a) {
      Account<Real>& account = accounts[a - start];
      const int64_t whose = tile.accounts[a];
      constexpr Real kUnknown = std::numeric_limits<Real>::quiet_NaN();
      for (int64_t t = 0; t < tile.tails; ++t) {
        const int64_t at = t * tile.book + whose;
        tile.var[at] = tile.shortfall[at] = tile.error[at] = kUnknown;
        if (account.unknown) continue;
        Answer<Real, kWeighted>(account.held, account.bound, tails[t], sums_of_scrambles, tile.var + at,
                                tile.shortfall + at, tile.error + at);
        account.bound = tile.var[at];
      }
      tile.worst[whose] = account.unknown ? -1 : static_cast<int32_t>(account.place);
      if (tile.amounts) {
        const Real limit = tile.amounts[whose];
        const bool known = !account.unknown && limit == limit;
        tile.exceedance[whose] = known ? static_cast<Real>(account.exceeded * (kWeighted ? 1 : asked.even)) : kUnknown;
      }
    }
  }
  return true;
}

}  // namespace
