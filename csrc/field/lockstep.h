#pragma once
// Solves in which all rows take the same steps, and their discrete adjoint.
#include "fastode/controller.h"
#include "products.h"
#include "tiles.h"

namespace fastode::field {

// Either the solution at the fraction x of a step, or (power >= 0) the coefficient of x^power of the step's polynomial.
struct Output {
  Index step;  // -1: the initial state
  double x;
  int power = -1;

  bool is_state() const { return power < 0 && x == 1.0; }  // at the step's end
  bool has_state() const { return power <= 0; }            // beside slopes, the state at the step's beginning
};

// Accepted steps, and states between them, tile by tile: after 0, every, 2 every, ... steps, and where the solve ended.
template <class T>
struct Record {
  std::vector<double> t, dt, t1;
  bool keeps_slopes = false;  // each state is followed by the first slope of its step, which is not that of the field there
  Index most_states = 0;  // `every` doubles where there would be more, and the steps between are taken again for a gradient
  Index memory = 0;       // bytes for states and products together; states come first
  bool shares_memory = false;  // with the products of other records
  Index every = 1;
  std::vector<Buffer<T>> states;
  KeptProducts<T> products;
  Buffer<T> last;
  std::vector<Output> outputs;
  bool dense = false;             // the outputs are the polynomials of all steps
  std::vector<Buffer<T>> pieces;  // of each step [pieces_of, rows, features], where they are not known beforehand to be so many

  Index room_for_products() const {
    const Index of_one = states.empty() ? 0 : states.front().size() * static_cast<Index>(sizeof(T));
    return memory - static_cast<Index>(states.size()) * of_one;
  }
};

// Whether the state before a step is kept. Where there would be more than `most`, every other one goes, by `halve`, and `every`
// doubles.
template <class Halve>
bool is_kept(Index step, Index kept, Index most, Index& every, Halve halve) {
  if (step % every != 0) return false;
  if (kept < most) return true;
  halve();
  every *= 2;
  return step % every == 0;
}

enum class Outcome : std::int32_t { FINISHED = 0, STEP_UNDERFLOW = 1, TOO_MANY_STEPS = 2, NON_FINITE = 3, INTERRUPTED = 4 };

struct Account {
  Outcome outcome = Outcome::FINISHED;
  Index n_func = 0, n_accepted = 0, n_rejected = 0;
  double t = 0.0, dt = 0.0;
};

// How steps are chosen and judged.
struct AdaptiveRule {
  std::vector<double> rtol, atol;  // one number each, or one for each feature
  Limits limits;
  double first_step;  // 0 for Hairer's heuristic
  double max_steps, max_total_steps;
  std::vector<Index> parts;  // the norm is the largest of those of the parts; where each one ends, in features
  std::vector<double> stops;  // times on which a step must end, in the order in which they come
};

// `times` begin with the initial time; `out` is [times, rows, features]. Keeps the steps in `record` unless it is null; if it is
// to be dense, the outputs are its pieces and `out` is not written.
template <class T>
Account solve_adaptive(const Setting<T>& setting, const Engine<T>& engine, const T* y0, const std::vector<double>& times,
                       const AdaptiveRule& rule, T* out, Record<T>* record, Interrupt interrupt);

// Steps between neighbouring `points`; `out` are the outputs of the record, which must be filled in. States are kept if it may
// have any.
template <class T>
Account solve_grid(const Setting<T>& setting, const Engine<T>& engine, const T* y0, const std::vector<double>& points, T* out,
                   Record<T>& record, Interrupt interrupt);

// Gradients with respect to a grid: to its points, and to the fraction of its step at which each output lies, as if these two did
// not depend on each other.
struct GridGradients {
  std::vector<double> points, x;
};

// Gradients of sum(grad_out * out): `grad_y0` [rows, features], `grad_arguments` of the arguments differentiated,
// `grad_constants` in the layout of each constant, where not null, added to what is there; and, unless it is null, `grad_grid` of a
// solve along a grid by a program that has the cotangent of its time.
template <class T>
Account sweep(const Setting<T>& setting, const Engine<T>& engine, const Record<T>& record, bool quartic, const T* grad_out,
              T* grad_y0, const std::vector<T*>& grad_arguments, const std::vector<T*>& grad_constants, GridGradients* grad_grid,
              Interrupt interrupt);

}  // namespace fastode::field
