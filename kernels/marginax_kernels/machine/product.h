// Accounts that hold much of the cube: a few at a time, as a product of matrices, in registers.
//
// Rows are summed in the order of the cube, and a row that an account does not hold adds an exact zero: what stands
// beside an account changes none of its bits. No account here holds a row that is not finite.
#pragma once

#include "scratch.h"
#include "vectors.h"

namespace {

// Bytes of a panel, rows of a slice that all groups visit before the next: half of a core's first cache. The quantities
// of a tile are more than its second cache holds and would push the slice out of it.
constexpr int64_t kPanel = 16384;

#if defined(__AVX512F__)
constexpr int64_t kGroup = 8;  // accounts that share what is loaded of a row; with two vectors each they fill registers
#else
constexpr int64_t kGroup = 6;
#endif

// Neighbouring rows of one panel that accounts of a group hold, and how many rows they hold before those.
struct Run {
  int32_t first, last, before;
};

// Rows that any account of a group holds, and of each row how much every account holds.
template <typename Real>
struct Group {
  const Run* runs;
  const int32_t* panels;   // where the runs of each panel of the cube begin, and where the last ends
  const Real* quantities;  // rows held x kGroup
};

template <typename Real>
class GroupRoom {
 public:
  // Whether there is memory for so many groups, over a cube of so many rows in panels of `height`.
  bool Take(int64_t groups, int64_t rows, int64_t height) {
    height_ = height, panels_ = (rows + height - 1) / height;
    runs_ = held_.Take<Run>(groups * rows);
    quantities_ = amounts_.Take<Real>(groups * rows * kGroup);
    panel_ = bounds_.Take<int32_t>(groups * (panels_ + 1));
    place_ = places_.Take<int32_t>(rows);
    return runs_ && quantities_ && panel_ && place_;
  }

  int64_t panels() const { return panels_; }

  // Positions of the accounts of group `g`, laid out by row; several in one row are summed. Account `k` of the book
  // holds entries `starts[k]` to `starts[k + 1]`.
  Group<Real> Lay(int64_t g, int64_t rows, const int64_t* accounts, int64_t count, const int64_t* starts,
                  const int32_t* instruments, const Real* amounts) {
    Run* runs = runs_ + g * rows;
    int32_t* panel = panel_ + g * (panels_ + 1);
    Real* quantities = quantities_ + g * rows * kGroup;
    std::fill_n(place_, rows, -1);
    for (int64_t a = 0; a < count; ++a) {
      for (int64_t p = starts[accounts[a]]; p < starts[accounts[a] + 1]; ++p) place_[instruments[p]] = 0;
    }
    int32_t held = 0, last = 0;
    for (int32_t r = 0; r < rows; ++r) {
      const bool opens = r % height_ == 0;
      if (opens) panel[r / height_] = last;
      if (place_[r] < 0) continue;
      if (opens || place_[r - 1] < 0) runs[last++] = {r, r, held};
      runs[last - 1].last = r + 1;
      place_[r] = held++;
    }
    panel[panels_] = last;
    std::fill_n(quantities, held * kGroup, Real{0});
    for (int64_t a = 0; a < count; ++a) {
      for (int64_t p = starts[accounts[a]]; p < starts[accounts[a] + 1]; ++p) {
        quantities[place_[instruments[p]] * kGroup + a] += amounts[p];
      }
    }
    return {runs, panel, quantities};
  }

 private:
  Scratch held_, amounts_, bounds_, places_;
  int64_t height_ = 1, panels_ = 0;
  Run* runs_ = nullptr;
  int32_t *panel_ = nullptr, *place_ = nullptr;
  Real* quantities_ = nullptr;
};

// Adds the rows of one panel to the losses of every account of the group, in the order of the cube; `sums` holds
// `vectors` of them, an even number, for each account, and `from` is where the slice's row 0 begins.
template <typename Real>
__attribute__((noinline)) void Product(const Group<Real>& group, int64_t panel, const Real* from, int64_t vectors,
                                       Vector<Real>* sums) {
  constexpr int kCount = Lanes<Real>::kCount;
  const int64_t stride = vectors * kCount;
  const Run *first = group.runs + group.panels[panel], *last = group.runs + group.panels[panel + 1];
  for (int64_t v = 0; v < vectors; v += 2) {
    Vector<Real> total[kGroup][2];
#pragma GCC unroll 8
    for (int a = 0; a < kGroup; ++a) total[a][0] = sums[a * vectors + v], total[a][1] = sums[a * vectors + v + 1];
    for (const Run* run = first; run < last; ++run) {
      const Real* row = from + run->first * stride + v * kCount;
      const Real* quantities = group.quantities + run->before * kGroup;
      for (int32_t r = run->first; r < run->last; ++r, row += stride, quantities += kGroup) {
        const Vector<Real> left = Load(row), right = Load(row + kCount);
#pragma GCC unroll 8
        for (int a = 0; a < kGroup; ++a) {
          const Vector<Real> quantity = Spread(quantities[a]);
          total[a][0] -= quantity * left;
          total[a][1] -= quantity * right;
        }
      }
    }
#pragma GCC unroll 8
    for (int a = 0; a < kGroup; ++a) sums[a * vectors + v] = total[a][0], sums[a * vectors + v + 1] = total[a][1];
  }
}

}  // namespace
