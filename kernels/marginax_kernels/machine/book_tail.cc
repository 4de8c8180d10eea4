// The tail of every account of a tile in one sweep of the cube, as calls of XLA.
//
// The cube comes in slices that stay in a core's cache: slices x rows x lane. For each slice and account a span of
// scenarios is summed and compared with a proven lower bound of the account's value at risk; what is beyond it is kept.
// When the room for candidates is full, the bound rises to a loss at or above which the mass `needed` still lies, and
// what is not beyond it is dropped: the answer is exact, and ties take no room.
//
// All of an account follows from its own positions, the cube and the weights: no neighbour, tile or thread changes a
// bit. The code keeps no threads and no locks; scratch memory belongs to the thread that calls.

#include "slices.h"
#include "sweep.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

// Numbers in `asked`: those that any question has, two of each tail, and those that scrambles add to the mass of each.
constexpr int64_t kPlain = 4, kScrambled = 1 + 65, kMostTails = 8;

template <ffi::DataType kType>
using Matrix = ffi::Buffer<kType, 2>;
template <ffi::DataType kType>
using Row = ffi::Buffer<kType, 1>;

ffi::Error Wrong(const char* what) { return ffi::Error::InvalidArgument(what); }

// `slices` of the cube, and for each account how many positions it holds (-1 where there is none), of what and how
// much. `asked` holds grid, squares, room and the number of tails, then what is needed and the tail of each, the greatest
// first; for scrambles also the draws, 65 widths and the mass of each. Empty weights are equal ones, and empty amounts ask for no exceedance and no venue loss. `firsts` is where each
// visited block begins among the caller's scenarios.
template <ffi::DataType kType, typename Real>
ffi::Error BookTail(ffi::Buffer<kType, 3> slices, Row<ffi::S32> held, Matrix<ffi::S32> instruments,
                    Matrix<kType> quantities, Row<kType> weights, Row<kType> amounts, Row<ffi::F64> asked,
                    Row<ffi::S32> firsts, ffi::Result<Matrix<kType>> var, ffi::Result<Matrix<kType>> shortfall,
                    ffi::Result<Matrix<kType>> error, ffi::Result<Row<kType>> exceedance,
                    ffi::Result<Row<ffi::S32>> worst, ffi::Result<Matrix<ffi::F64>> venue, int64_t scenarios,
                    int64_t dense) {
  const auto cube = slices.dimensions(), tiled = instruments.dimensions();
  const int64_t count = tiled[0], width = tiled[1], blocks = (scenarios + kBlock - 1) / kBlock;
  const auto one_each = [count](const auto& row) { return static_cast<int64_t>(row.element_count()) == count; };
  if (scenarios < 1 || cube[2] < 1 || cube[2] % (kBlock / 2) || cube[0] != (scenarios + cube[2] - 1) / cube[2]) {
    return Wrong("slices do not hold the scenarios");
  }
  if (quantities.dimensions()[0] != count || quantities.dimensions()[1] != width || !one_each(held)) {
    return Wrong("instruments and quantities differ in shape");
  }
  for (int64_t a = 0; a < count; ++a) {
    const int64_t positions = held.typed_data()[a];
    if (positions > width) return Wrong("an account holds more positions than its tile is wide");
    for (int64_t p = 0; p < positions; ++p) {
      const int64_t row = instruments.typed_data()[a * width + p];
      if (row < 0 || row >= cube[1]) return Wrong("a position names a row that the cube does not have");
    }
  }
  if (!one_each(*exceedance) || !one_each(*worst)) return Wrong("operands and results differ in accounts");
  const bool weighted = weights.element_count() > 0, amounted = amounts.element_count() > 0;
  if (weighted && static_cast<int64_t>(weights.element_count()) != blocks * kBlock) {
    return Wrong("weights end inside a block");
  }
  if (static_cast<int64_t>(firsts.element_count()) != blocks) return Wrong("blocks begin nowhere");
  if (amounted && (!one_each(amounts) || venue->dimensions()[1] != blocks * kBlock ||
                   venue->dimensions()[0] != (count + kVenueBlock - 1) / kVenueBlock)) {
    return Wrong("amounts and venue losses do not fit the tile");
  }
  const int64_t numbers = static_cast<int64_t>(asked.element_count());
  const double* values = asked.typed_data();
  const int64_t tails = numbers > kPlain && values[3] >= 1 && values[3] <= kMostTails ? static_cast<int64_t>(values[3]) : 0;
  const int64_t plain = kPlain + 2 * tails, scrambled = plain + kScrambled;
  if (!tails || (numbers != plain && numbers < scrambled + 2)) return Wrong("tails are asked, or those of scrambles too");
  for (auto* each : {&var, &shortfall, &error}) {
    if ((*each)->dimensions()[0] != tails || (*each)->dimensions()[1] != count) return Wrong("an answer has no room");
  }
  const double room = values[2];
  // Room for a whole span and for as many as are needed at most, unless every scenario fits.
  if (!(room >= 2 * kBlock && room <= (blocks + 2) * kBlock)) return Wrong("candidates have no room");
  Asked question = {values[kPlain], values[kPlain + 1], values[0], values[1], 1 / static_cast<double>(scenarios),
                    static_cast<int64_t>(room)};
  if (numbers > plain) {
    const double draws = values[plain];
    question.scrambles = numbers - scrambled;
    // Scenarios are kept as numbers beside their losses.
    const bool counted = scenarios <= int64_t{1} << std::numeric_limits<Real>::digits;
    if (!(draws >= question.scrambles && draws <= scenarios && counted)) return Wrong("scrambles do not fit the draws");
    question.draws = static_cast<int64_t>(draws);
    if (question.draws % question.scrambles) return Wrong("scrambles do not fit the draws");
    question.widths = values + plain + 1, question.shares = values + scrambled;
  }
  Asked questions[kMostTails];
  for (int64_t t = 0; t < tails; ++t) {
    questions[t] = question;
    questions[t].needed = values[kPlain + 2 * t], questions[t].tail = values[kPlain + 2 * t + 1];
    if (questions[t].needed > question.needed) return Wrong("the greatest tail comes first");
  }
  Tile<Real> tile = {};
  tile.accounts = count, tile.scenarios = scenarios, tile.tails = tails, tile.width = width, tile.rows = cube[1], tile.lane = cube[2];
  tile.dense = dense != 0;
  tile.slices = slices.typed_data(), tile.held = held.typed_data(), tile.firsts = firsts.typed_data();
  tile.instruments = instruments.typed_data(), tile.quantities = quantities.typed_data();
  tile.weights = weighted ? weights.typed_data() : nullptr, tile.amounts = amounted ? amounts.typed_data() : nullptr;
  tile.var = var->typed_data(), tile.shortfall = shortfall->typed_data(), tile.error = error->typed_data();
  tile.exceedance = exceedance->typed_data(), tile.worst = worst->typed_data(), tile.venue = venue->typed_data();
  if (amounted) std::memset(tile.venue, 0, venue->size_bytes());
  constexpr int kMost = kBlock / Lanes<Real>::kCount;
  constexpr int kWide = kMost < 8 ? kMost : 8, kNarrow = kMost / 2 < 8 ? kMost / 2 : 8;
  const bool wide = tile.lane % (kWide * Lanes<Real>::kCount) == 0;
  const bool done = wide ? weighted ? Sweep<Real, true, kWide>(tile, questions) : Sweep<Real, false, kWide>(tile, questions)
                    : weighted ? Sweep<Real, true, kNarrow>(tile, questions)
                               : Sweep<Real, false, kNarrow>(tile, questions);
  if (!done) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for the candidates of a tile");
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto Binding() {
  return ffi::Ffi::Bind()
      .Arg<ffi::Buffer<kType, 3>>()
      .template Arg<Row<ffi::S32>>()
      .template Arg<Matrix<ffi::S32>>()
      .template Arg<Matrix<kType>>()
      .template Arg<Row<kType>>()
      .template Arg<Row<kType>>()
      .template Arg<Row<ffi::F64>>()
      .template Arg<Row<ffi::S32>>()
      .template Ret<Matrix<kType>>()
      .template Ret<Matrix<kType>>()
      .template Ret<Matrix<kType>>()
      .template Ret<Row<kType>>()
      .template Ret<Row<ffi::S32>>()
      .template Ret<Matrix<ffi::F64>>()
      .template Attr<int64_t>("scenarios")
      .template Attr<int64_t>("dense");
}

}  // namespace

// A library holds one precision: who asks for float32 alone does not wait until float64 is compiled.
XLA_FFI_DEFINE_HANDLER_SYMBOL(marginax_book_tail, (BookTail<ffi::MARGINAX_TYPE, MARGINAX_REAL>),
                              Binding<ffi::MARGINAX_TYPE>());

extern "C" void marginax_fill_slices(const MARGINAX_REAL* cube, MARGINAX_REAL* slices, const int32_t* firsts,
                                     int64_t rows, int64_t scenarios, int64_t lane, int64_t begin, int64_t end) {
  FillSlices(cube, slices, firsts, rows, scenarios, lane, begin, end);
}
