// The tail of every account of a tile in one sweep of the cube.
//
// The cube comes in slices that stay in a core's cache: slices x rows x lane. For each slice and account a span of
// scenarios is summed and compared with a proven lower bound of the account's value at risk; what is beyond it is kept.
// When the room for candidates is full, the bound rises to a loss at or above which the mass `needed` still lies, and
// what is not beyond it is dropped: the answer is exact, and ties take no room.
//
// All of an account follows from its own positions, the cube and the weights: no neighbour, tile or thread changes a
// bit. The code keeps no threads and no locks; scratch memory belongs to the thread that calls. Shapes and places were
// checked by who calls.

#include "slices.h"
#include "sweep.h"

// A library holds one precision: who asks for float32 alone does not wait until float64 is compiled.
using Number = MARGINAX_REAL;

extern "C" void marginax_fill_slices(const Number* cube, Number* slices, const int32_t* firsts, int64_t rows,
                                     int64_t scenarios, int64_t lane, int64_t begin, int64_t end) {
  FillSlices(cube, slices, firsts, rows, scenarios, lane, begin, end);
}

// Answers a tile for each of its tails, the greatest first; zero where there is no memory for it.
extern "C" int marginax_book_tail(const Tile<Number>* tile, const Asked* tails) {
  // Lanes are whole blocks, or half of one.
  constexpr int kMost = kBlock / Lanes<Number>::kCount;
  constexpr int kWide = kMost < 8 ? kMost : 8, kNarrow = kMost / 2 < 8 ? kMost / 2 : 8;
  const bool wide = tile->lane % (kWide * Lanes<Number>::kCount) == 0;
  if (tile->weights) return wide ? Sweep<Number, true, kWide>(*tile, tails) : Sweep<Number, true, kNarrow>(*tile, tails);
  return wide ? Sweep<Number, false, kWide>(*tile, tails) : Sweep<Number, false, kNarrow>(*tile, tails);
}
