// An account's answers from the losses that were kept, and what its losses beyond its amount are to the venue.
#pragma once

#include "selection.h"

namespace {

// Standard error of expected shortfall over independent scrambles; see `expected_shortfall_scramble_error`. `blocks` is
// room for a number each.
template <typename Real, bool kWeighted>
double ScrambleError(const Candidates<Real>& beyond, double edge, const Asked& asked, double* blocks) {
  std::fill_n(blocks, asked.scrambles, 0.0);
  const int64_t each = asked.draws / asked.scrambles;
  double mass = 0, squares = 0, total = 0, share = 0, spread = 0;
  for (int64_t k = 0; k < beyond.count; ++k) {
    const int64_t scenario = static_cast<int64_t>(beyond.scenario[k]);
    if (scenario >= asked.draws) continue;
    const double weight = kWeighted ? static_cast<double>(beyond.weight[k]) : asked.even;
    blocks[scenario / each] += weight * (static_cast<double>(beyond.loss[k]) - edge) / asked.tail;
    mass += weight, squares += weight * weight;
  }
  for (int64_t r = 0; r < asked.scrambles; ++r) total += blocks[r], share += asked.shares[r];
  for (int64_t r = 0; r < asked.scrambles; ++r) {
    const double off = blocks[r] - asked.shares[r] * total / share;
    spread += off * off;
  }
  // Few draws beyond the edge know their own error poorly: Student's factor at their effective number.
  const double steps = mass > 0 ? std::min(64.0, 64 * squares / (mass * mass)) : 0;
  const int64_t step = std::min<int64_t>(63, static_cast<int64_t>(steps));
  const double* width = asked.widths + step;
  const double factor = std::exp(width[0] + (width[1] - width[0]) * (steps - static_cast<double>(step)));
  const double scrambles = static_cast<double>(asked.scrambles);
  return factor * std::sqrt(scrambles / (scrambles - 1) * spread);
}

// Standard error of expected shortfall over independent draws: psi is excess / tail - above beyond the edge, one by
// one, and -above everywhere else.
template <typename Real, bool kWeighted>
double DrawError(const Candidates<Real>& beyond, double edge, double above, const Asked& asked) {
  const double scale = 1 / asked.tail;
  double spread[4] = {}, inside[4] = {};
  for (int64_t k = 0; k < beyond.count; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const double own = kWeighted ? static_cast<double>(beyond.weight[k + j]) : asked.even;
      const double weight = k + j < beyond.count ? own : 0;
      const double excess = static_cast<double>(beyond.loss[k + j]) - edge;
      const double influence = weight * (excess * scale - above);
      spread[j] += influence * influence;
      inside[j] += weight * weight;
    }
  }
  const double others = std::max(0.0, asked.squares - (inside[0] + inside[1] + inside[2] + inside[3]));
  return std::sqrt(spread[0] + spread[1] + spread[2] + spread[3] + others * above * above);
}

// Value at risk, expected shortfall and its standard error from the candidates of an account.
template <typename Real, bool kWeighted>
__attribute__((noinline)) void Answer(Candidates<Real>& held, Real bound, const Asked& asked, double* blocks, Real* var,
                                      Real* shortfall, Real* error) {
  const Real edge = Edge<Real, kWeighted>(held, bound, asked);
  KeepBeyond<Real, kWeighted>(held, edge);
  Close<Real, kWeighted>(held, 4, edge);
  const double at = static_cast<double>(edge);
  double sums[4] = {};
  for (int64_t k = 0; k < held.count; k += 4) {
    for (int j = 0; j < 4; ++j) {
      const double excess = static_cast<double>(held.loss[k + j]) - at;
      sums[j] += kWeighted ? static_cast<double>(held.weight[k + j]) * excess : excess;
    }
  }
  const double beyond = (sums[0] + sums[1] + sums[2] + sums[3]) * (kWeighted ? 1 : asked.even);
  const double above = std::isinf(edge) ? std::numeric_limits<double>::quiet_NaN() : beyond / asked.tail;
  *var = edge;
  *shortfall = static_cast<Real>(at + above);
  if (asked.scrambles) {
    *error = std::isinf(edge) ? edge - edge : static_cast<Real>(ScrambleError<Real, kWeighted>(held, at, asked, blocks));
  } else {
    *error = static_cast<Real>(DrawError<Real, kWeighted>(held, at, above, asked));
  }
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

}  // namespace
