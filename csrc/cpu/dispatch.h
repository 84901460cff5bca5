#pragma once
// The kernels of one instruction set as a table of function pointers, and the choice among the tables.
#include <string>
#include <vector>

#include "fastode/controller.h"
#include "fastode/norm.h"
#include "fastode/rk.h"

namespace fastode {

// A row with fewer elements than this is not worth a kernel call of its own: several are processed at once, with their step
// sizes spread over the elements.
constexpr std::int64_t NARROW = 64;

template <class T>
struct ErrorArgs {
  const T* y;
  T* y1;
  bool write;            // y1 is computed here, or it already holds the new state
  Terms<T> state, error;
  Tolerance<T> tolerance;
  T* out;                // where the scaled errors go instead of their norm, or null
  Norm norm;
};

template <class T>
struct InterpolateArgs {
  const T* y;
  const T* y1;
  T* out;
  const T* const* k;
  const T* mid;
  int stages;
};

// Ranges [begin, end) count elements from the start of the arrays; the *_rows kernels take rows, narrow ones only, with
// one dt per row in float64. They apply the unscaled weights of their arguments times dt.
template <class T>
struct Kernels {
  void (*combine)(T* out, const T* base, int count, const T* const* v, const T* w, std::int64_t begin, std::int64_t end);
  void (*combine_rows)(T* out, const T* base, const Terms<T>& terms, const double* dt, std::int64_t cols, std::int64_t begin,
                       std::int64_t end);
  double (*error)(const ErrorArgs<T>& args, std::int64_t begin, std::int64_t end);
  void (*error_rows)(const ErrorArgs<T>& args, const double* dt, std::int64_t cols, double* err, std::int64_t begin,
                     std::int64_t end);
  void (*interpolate)(const InterpolateArgs<T>& args, double x, double dt, std::int64_t begin, std::int64_t end);
  void (*interpolate_rows)(const InterpolateArgs<T>& args, const double* x, const double* dt, std::int64_t cols,
                           std::int64_t begin, std::int64_t end);
};

struct Target {
  Kernels<float> f32;
  Kernels<double> f64;
  void (*error_factors)(const RowLimits& rule, std::int64_t rows, const double* err, const double* dt, double* out);
};

// The table in use; a call that has begun keeps the one it started with.
const Target& current_target();

template <class T>
const Kernels<T>& kernels() {
  if constexpr (sizeof(T) == 4) return current_target().f32;
  else return current_target().f64;
}

std::string target_name();
std::vector<std::string> supported_targets();   // best first
void select_target(const std::string& name);    // throws std::invalid_argument, naming what is allowed

}  // namespace fastode
