#pragma once
// Solves in which every row has its own steps, and their discrete adjoint.
#include "fastode/controller.h"
#include "lockstep.h"
#include "tiles.h"

namespace fastode::field {

// Tolerances of each row and feature: element (row, feature) is at row * row_stride + feature * feature_stride.
template <class T>
struct RowTolerances {
  const T* rtol;
  const T* atol;
  Index row_stride, feature_stride;
};

// Times of evaluation strictly inside the spans. `times` is [rows, count + 1], NaN after the last of a row; `next` how many of
// a row's are done; `out` [rows, count, features].
template <class T>
struct RowOutputTimes {
  const double* times;
  Index count;
  Index* next;
  T* out;
};

// Accepted steps of a row, in order, states before every so-manieth of them, and where its outputs lie.
template <class T>
struct RowRecord {
  struct Output {
    Index step, index;  // which step, which of the row's times
    double x;           // where in the step
  };
  double start = 0.0;
  std::vector<double> dt, t1;
  Index every = 1;
  std::vector<T> states;  // [ceil(steps / every), features]
  std::vector<T> pieces;  // [steps, pieces_of, features]: the polynomials of all steps, if they are kept
  std::vector<Output> outputs;

  Index steps() const { return static_cast<Index>(dt.size()); }
  double t(Index step) const { return step == 0 ? start : t1[step - 1]; }
};

// What the record keeps of a row.
struct Keeping {
  Index most_states = 0;  // none, or two at least
  bool pieces = false;
};

struct RowRule {
  RowLimits limits;
  bool choose_first;         // where a row's size is NaN
  std::vector<Index> parts;  // the norm is the largest of those of the parts; where each one ends, in features
};

// Rows begin in `state` with their `size` set or NaN; `y` are the states, which become the last good ones. The record may be null.
template <class T>
bool solve_rows(const Setting<T>& setting, const Engine<T>& engine, const RowState& state, const RowRule& rule, T* y,
                const RowTolerances<T>& tolerances, const RowOutputTimes<T>& outputs, std::vector<RowRecord<T>>* record,
                Keeping keeping, Interrupt interrupt);

// Gradients of sum(grad_out * out) + sum(grad_y * y_last): `grad_out` [rows, count, features]; `grad_y` [rows, features] is of
// the last states, at `t_last`, and becomes that of the initial ones; see sweep() for the others. `grad_pieces` is null, or of the
// pieces of all rows, one row after the other.
template <class T>
bool sweep_rows(const Setting<T>& setting, const Engine<T>& engine, const std::vector<RowRecord<T>>& record, const T* y_last,
                const double* t_last, const T* grad_out, Index count, const T* grad_pieces, T* grad_y,
                const std::vector<T*>& grad_arguments, const std::vector<T*>& grad_constants, Interrupt interrupt);

}  // namespace fastode::field
