#pragma once
// The arrays and numbers of solves of their own, as Python passes them to either module.
#include <pybind11/stl.h>

#include <vector>

#include "args.h"
#include "fastode/controller.h"

namespace fastode {

// `arrays`: addresses in the order of RowState, and last how many stops a row has.
inline RowState row_state(std::int64_t rows, const std::vector<Address>& arrays) {
  check_size(rows, "rows");
  if (arrays.size() != 15) {
    throw py::value_error("`arrays` has " + std::to_string(arrays.size()) + " entries; RowState has 15");
  }
  const auto stops = static_cast<std::int64_t>(arrays[14]);
  check_size(stops, "n_stops");
  return {array<double>(arrays[0], rows, "t"),
          array<double>(arrays[1], rows, "t1"),
          array<double>(arrays[2], rows, "dt"),
          array<double>(arrays[3], rows, "size"),
          array<double>(arrays[4], rows, "history"),
          array<double>(arrays[5], rows, "err"),
          array<double>(arrays[6], rows, "t_end"),
          array<unsigned char>(arrays[7], rows, "accept"),
          array<std::int32_t>(arrays[8], rows, "status"),
          array<std::int64_t>(arrays[9], rows, "n_accepted"),
          array<std::int64_t>(arrays[10], rows, "n_rejected"),
          array<double>(arrays[11], rows * stops, "stops"),
          array<std::int64_t>(arrays[12], rows, "next_stop"),
          array<double>(arrays[13], rows, "due"),
          stops};
}

// `numbers`: order, safety, factor_min, factor_max, dt_min, dt_max, three exponents.
inline RowLimits row_limits(const std::vector<double>& numbers, std::int64_t max_steps) {
  if (numbers.size() != 9) {
    throw py::value_error("`limits` has " + std::to_string(numbers.size()) + " entries; RowLimits has 9");
  }
  const std::vector<double>& n = numbers;
  return {{n[0], n[1], n[2], n[3], n[4], n[5]}, {n[6], n[7], n[8]}, max_steps};
}

}  // namespace fastode
