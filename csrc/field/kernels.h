#pragma once
// The field engine's kernels of one instruction set, as a table of function pointers.
#include <utility>

#include "fastode/controller.h"
#include "program.h"

namespace fastode::field {

// Slots begin at, and are padded to, whole vectors of any instruction set: kernels read and write up to the next vector.
constexpr Index PAD = 16;
constexpr Index padded_to(Index n, Index to) { return (n + to - 1) / to * to; }

// An input or a result with its place in memory.
template <class T>
struct Place {
  T* data = nullptr;
  Index stage_stride = 0;    // elements from one stage to the next
  Index feature_stride = 0;  // elements from one feature to the next; 0 where one feature serves all
  bool splat = false;        // one number serves all lanes
};

template <class T>
struct PlacedRun {
  const T* from;
  Index stage_stride, feature_stride;
  bool splat;
  Index count;
};

// An instruction with its values in place.
template <class T>
struct Code {
  Operator op;
  bool flat;          // elementwise: all inputs run along the result, or are one number
  Index width;        // features of the result
  Index lanes;        // of the result: those of the tile, or 1
  Place<T> out, in[3];
  T number;
  const T* packed;    // of an affine map's matrix
  Index columns;      // of the matrix; else features of the first input
  bool bias, bias_has_lanes;
  bool number_has_lanes;  // of a lookup or scatter
  Index in_lanes;     // of the first input
  const PlacedRun<T>* runs;  // of a gather
  Index run_count;
};

// dt, one for all lanes or one a lane.
template <class T>
struct Steps {
  const T* dt;
  bool per_lane;
};

// Tolerances of a tile: one number a lane for all features (feature_stride 0), or for each feature.
template <class T>
struct TileTolerance {
  const T* rtol;
  const T* atol;
  Index feature_stride;
};

// Rows in lanes that each have their own steps; see RowState. Arrays of doubles, so that all run in vectors of one width.
struct LaneControl {
  double *t, *t1, *dt, *size, *err;
  double *stop;      // where the step under way must end at the latest
  double *due;       // the next time at which the row has an output
  double *attempts, *moves;  // how many steps were tried, and how many of them accepted
  // what control() says
  double *factor, *special, *accepted;
};

template <class T>
struct FieldKernels {
  Index vector_lanes;
  void (*run)(const Code<T>* codes, Index count, Index stage);
  // Forms of a matrix: panels for tiles, columns for one lane.
  void (*pack)(const T* source, const Matrix& matrix, bool panels, T* out);
  // out = y + dt sum_j w[j] k[j], [features, lanes]; without y: dt sum_j w[j] k[j].
  void (*combine)(T* out, const T* y, int count, const T* const* k, const T* w, Steps<T> steps, Index features, Index lanes);
  // out += dt w g
  void (*add_scaled)(T* out, const T* g, T w, Steps<T> steps, Index features, Index lanes);
  // sums[lane] = sum over features of (x / (atol + rtol max(|y|, |y1|)))^2, x being an error
  void (*scaled_squares)(T* sums, const T* x, const T* y, const T* y1, TileTolerance<T> tolerance, Index features,
                         Index lanes);
  // out[lane] = where mask[lane] != 0: new, else old
  void (*select)(T* out, const T* fresh, const T* mask, Index features, Index lanes);
  // Judges the attempts of lanes by an integral controller; mask[lane] is 1 where it moved one on, dt[lane] the step under way.
  // True if no lane is left for control_row.
  bool (*control)(const RowLimits& rule, const LaneControl& state, const T* sums, Index features, Index lanes, T* mask, T* dt);
  void (*transpose)(const T* x, Index features, Index lanes, T* out);
  void (*outer)(const T* g, Index rows, const T* xt, Index cols, Index lanes, T* total);
};

struct FieldTarget {
  FieldKernels<float> f32;
  FieldKernels<double> f64;
};

const FieldTarget& current_field_target();

template <class T>
const FieldKernels<T>& field_kernels() {
  if constexpr (sizeof(T) == 4) return current_field_target().f32;
  else return current_field_target().f64;
}

}  // namespace fastode::field
