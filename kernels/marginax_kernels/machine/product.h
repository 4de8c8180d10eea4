// Accounts that hold much of the cube: a few at a time, as a product of matrices, in registers.
//
// Rows are summed in the order of the cube, and a row that an account does not hold adds an exact zero: what stands
// beside an account changes none of its bits. No account here holds a row that is not finite.
#pragma once

#include "scratch.h"
#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int64_t kGroup = 8;  // accounts that share what is loaded of a row; with two vectors each they fill registers
#else
constexpr int64_t kGroup = 6;
#endif

// Rows that any account of a group holds, and of each row how much every account holds.
template <typename Real>
struct Group {
  int64_t rows;
  const int32_t* row;
  const Real* quantities;  // rows x kGroup
};

template <typename Real>
class GroupRoom {
 public:
  // Whether there is memory for so many groups.
  bool Take(int64_t groups, int64_t rows) {
    row_ = rows_.Take<int32_t>(groups * rows);
    quantities_ = amounts_.Take<Real>(groups * rows * kGroup);
    place_ = places_.Take<int32_t>(rows);
    return row_ && quantities_ && place_;
  }

  // Positions of the accounts of group `g`, laid out by row; several in one row are summed.
  Group<Real> Lay(int64_t g, int64_t rows, int64_t width, const int32_t* held, const int32_t* instruments,
                  const Real* amounts, int64_t accounts) {
    int32_t* row = row_ + g * rows;
    Real* quantities = quantities_ + g * rows * kGroup;
    std::fill_n(place_, rows, -1);
    for (int64_t a = 0; a < accounts; ++a) {
      for (int64_t p = 0; p < held[a]; ++p) place_[instruments[a * width + p]] = 0;
    }
    int32_t count = 0;
    for (int64_t r = 0; r < rows; ++r) {
      if (place_[r] == 0) row[count] = static_cast<int32_t>(r), place_[r] = count++;
    }
    std::fill_n(quantities, count * kGroup, Real{0});
    for (int64_t a = 0; a < accounts; ++a) {
      for (int64_t p = 0; p < held[a]; ++p) {
        quantities[place_[instruments[a * width + p]] * kGroup + a] += amounts[a * width + p];
      }
    }
    return {count, row, quantities};
  }

 private:
  Scratch rows_, amounts_, places_;
  int32_t *row_ = nullptr, *place_ = nullptr;
  Real* quantities_ = nullptr;
};

// Losses of a span for every account of the group; `from` is where the span begins in row 0 of the slice.
template <typename Real, int kSums>
__attribute__((noinline)) void Product(const Group<Real>& group, const Real* from, int64_t lane,
                                       Vector<Real> (*sums)[kSums]) {
  constexpr int kCount = Lanes<Real>::kCount;
  for (int v = 0; v < kSums; v += 2) {
    Vector<Real> total[kGroup][2] = {};
    for (int64_t r = 0; r < group.rows; ++r) {
      const Real* row = from + group.row[r] * lane + v * kCount;
      const Vector<Real> left = Load(row), right = Load(row + kCount);
      const Real* quantities = group.quantities + r * kGroup;
#pragma GCC unroll 8
      for (int a = 0; a < kGroup; ++a) {
        const Vector<Real> quantity = Spread(quantities[a]);
        total[a][0] -= quantity * left;
        total[a][1] -= quantity * right;
      }
    }
    for (int a = 0; a < kGroup; ++a) sums[a][v] = total[a][0], sums[a][v + 1] = total[a][1];
  }
}

}  // namespace
