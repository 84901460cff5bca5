// Whole solves of y' = A y with their adjoints, in memory of exactly the right size, on one thread and several.
#include <cmath>
#include <vector>

#include "../../../csrc/field/lockstep.h"
#include "../../../csrc/field/rows.h"
#include "check.h"

using namespace fastode;
using namespace fastode::field;

namespace {

constexpr int FEATURES = 3;
constexpr double RATES[FEATURES] = {-1.0, -0.5, 0.25};

Program linear_field() {
  Program p;
  const Value y{Area::LANES, 0, 0, FEATURES}, slope{Area::LANES, 1, 0, FEATURES};
  const Value given{Area::ADJOINT, 0, 0, FEATURES}, passed_on{Area::ADJOINT, 1, 0, FEATURES};
  p.value = {{Operator::affine, slope, {y}, 0.0, 0, {}, 0}};
  p.kept = FEATURES;
  p.adjoint = {{Operator::affine, passed_on, {given}, 0.0, 1, {}}};
  p.slots[static_cast<int>(Area::LANES)] = {FEATURES, FEATURES};
  p.slots[static_cast<int>(Area::ADJOINT)] = {FEATURES, FEATURES};
  p.matrices = {{0, FEATURES, FEATURES, false}, {0, FEATURES, FEATURES, true}};
  p.matrix_gradients = {{0, false, given, y}};
  p.constants = {FEATURES * FEATURES};
  p.state = y;
  p.out = slope;
  p.cotangent = given;
  p.state_cotangent = passed_on;
  p.has_state = p.has_cotangent = p.has_state_cotangent = true;
  return p;
}

Method bosh3() {
  Method m;
  m.stages = 4;
  m.c = {0.0, 0.5, 0.75, 1.0};
  m.a = {0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.75, 0, 0, 2.0 / 9, 1.0 / 3, 4.0 / 9, 0};
  m.b = {2.0 / 9, 1.0 / 3, 4.0 / 9, 0};
  m.error = {2.0 / 9 - 7.0 / 24, 1.0 / 3 - 1.0 / 4, 4.0 / 9 - 1.0 / 3, -1.0 / 8};
  m.mid = {0, 0.5, 0, 0};
  m.ends_with_slope = true;
  return m;
}

// Its last stage is not at the new state.
Method adaptive_heun() {
  Method m;
  m.stages = 2;
  m.c = {0.0, 1.0};
  m.a = {0, 0, 1.0, 0};
  m.b = {0.5, 0.5};
  m.error = {0.5, -0.5};
  m.mid = {0.5, 0};
  return m;
}

// The steps of a solve.
enum class Kind { BOSH3, ADAPTIVE_HEUN, GRID };
constexpr Kind KINDS[] = {Kind::BOSH3, Kind::ADAPTIVE_HEUN, Kind::GRID};
Method method_of(Kind kind) { return kind == Kind::ADAPTIVE_HEUN ? adaptive_heun() : bosh3(); }

template <class T>
struct Result {
  std::vector<T> out, grad_y0, grad_matrix;
  Account forward, backward;
  Index products;  // bytes
};

template <class T>
Result<T> solve_and_sweep(Index rows, int threads, Kind kind, Index most_states = 1000, Index memory = 0) {
  const Program program = linear_field();
  const Method method = method_of(kind);
  const bool adaptive = kind != Kind::GRID;
  std::vector<T> matrix(FEATURES * FEATURES), y0(rows * FEATURES);
  for (int f = 0; f < FEATURES; ++f) matrix[f * (FEATURES + 1)] = static_cast<T>(RATES[f]);
  for (std::size_t i = 0; i < y0.size(); ++i) y0[i] = static_cast<T>(1 + i % 7);
  const Index lanes = choose_lanes<T>(rows, field_kernels<T>().vector_lanes);
  const Setting<T> setting{program, method, Tiling(rows, lanes, MOST_GROUPS), FEATURES, threads, {}, false};
  const Engine<T> engine(program, lanes, {matrix.data()});

  const std::vector<double> times = {0.0, 0.3, 1.0};
  Result<T> r;
  r.out.resize(times.size() * y0.size());
  Record<T> record;
  record.most_states = most_states;
  record.memory = memory;
  if (adaptive) {
    const AdaptiveRule rule{{1e-5}, {1e-6}, {method.stages - 1.0, 0.9, 0.2, 10.0, 0.0, INFINITY}, 0.0, 1e9, 1e9, {FEATURES}, {0.4, 0.41}};
    r.forward = solve_adaptive<T>(setting, engine, y0.data(), times, rule, r.out.data(), &record, {});
  } else {
    std::vector<double> points;
    for (int i = 0; i <= 30; ++i) points.push_back(i / 30.0);
    record.outputs = {{-1, 0.0}, {8, 1.0}, {29, 1.0}};
    r.forward = solve_grid<T>(setting, engine, y0.data(), points, r.out.data(), record, {});
  }
  CHECK(r.forward.outcome == Outcome::FINISHED);
  r.products = record.products.bytes();
  CHECK(r.products <= std::max<Index>(0, record.room_for_products()));
  for (std::size_t o = 0; o < times.size(); ++o) {
    for (std::size_t i = 0; i < y0.size(); ++i) {
      CHECK(close(r.out[o * y0.size() + i], y0[i] * std::exp(RATES[i % FEATURES] * times[o]), 1e-3));
    }
  }

  // of the sum of the last output
  std::vector<T> grad_out(r.out.size(), T(0));
  std::fill(grad_out.end() - static_cast<std::ptrdiff_t>(y0.size()), grad_out.end(), T(1));
  r.grad_y0.resize(y0.size());
  r.grad_matrix.resize(matrix.size());
  r.backward = sweep<T>(setting, engine, record, adaptive, grad_out.data(), r.grad_y0.data(), {}, {r.grad_matrix.data()}, nullptr, {});
  CHECK(r.backward.outcome == Outcome::FINISHED);
  for (std::size_t i = 0; i < y0.size(); ++i) CHECK(close(r.grad_y0[i], std::exp(RATES[i % FEATURES]), 1e-3));
  for (int f = 0; f < FEATURES; ++f) {
    double wanted = 0.0;
    for (std::size_t i = f; i < y0.size(); i += FEATURES) wanted += y0[i] * std::exp(RATES[f]);
    CHECK(std::abs(r.grad_matrix[f * (FEATURES + 1)] - wanted) <= 1e-3 * (1 + wanted));
  }
  return r;
}

template <class T>
void steps_taken_again_are_the_same(Index rows, Kind kind) {
  const Result<T> all = solve_and_sweep<T>(rows, 1, kind);
  for (Index most : {2, 3, 5}) {
    const Result<T> few = solve_and_sweep<T>(rows, 2, kind, most);
    CHECK(few.grad_y0 == all.grad_y0);
    CHECK(few.grad_matrix == all.grad_matrix);
    CHECK(few.backward.n_func > all.backward.n_func || rows == 0);
  }
}

template <class T>
void kept_products_change_nothing(Index rows, Kind kind) {
  const Result<T> none = solve_and_sweep<T>(rows, 1, kind);
  const Result<T> all = solve_and_sweep<T>(rows, 2, kind, 1000, Index{1} << 30);
  CHECK(none.products == 0 && (all.products > 0 || rows == 0));
  for (const Index share : {1, 2, 5, 100}) {
    const Result<T> some = solve_and_sweep<T>(rows, 2, kind, 1000, all.products / share);
    for (const Result<T>* r : {&all, &some}) {
      CHECK(r->out == none.out);
      CHECK(r->grad_y0 == none.grad_y0);
      CHECK(r->grad_matrix == none.grad_matrix);
      CHECK(r->backward.n_func == none.backward.n_func);
    }
  }
}

template <class T>
void threads_change_nothing(Index rows, Kind kind) {
  const Result<T> one = solve_and_sweep<T>(rows, 1, kind);
  for (int threads : {2, 3}) {
    const Result<T> more = solve_and_sweep<T>(rows, threads, kind);
    CHECK(more.out == one.out);
    CHECK(more.grad_y0 == one.grad_y0);
    CHECK(more.grad_matrix == one.grad_matrix);
    CHECK(more.forward.n_func == one.forward.n_func);
  }
}

// Every row over a span of its own, with an output inside.
template <class T>
std::vector<T> rows_solved_and_swept(Index rows, int threads, Kind kind, Index most_states = 1000) {
  const Program program = linear_field();
  const Method method = method_of(kind);
  std::vector<T> matrix(FEATURES * FEATURES), y(rows * FEATURES), out(rows * FEATURES), grad_out(y.size(), T(1)), grad_y(y.size());
  for (int f = 0; f < FEATURES; ++f) matrix[f * (FEATURES + 1)] = static_cast<T>(RATES[f]);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = static_cast<T>(1 + i % 7);
  const std::vector<T> y0 = y;
  std::vector<double> t(rows), t1(rows), dt(rows), size(rows, NAN), history(2 * rows, 1.0), err(rows), t_end(rows), due(rows);
  std::vector<double> times(2 * rows, NAN);
  std::vector<unsigned char> accept(rows);
  std::vector<std::int32_t> status(rows);
  std::vector<std::int64_t> accepted(rows), rejected(rows), next_stop(rows), next(rows);
  for (Index r = 0; r < rows; ++r) {
    t_end[r] = (r % 2 == 0 ? 1.0 : -1.0) * (0.5 + 0.01 * r);
    due[r] = times[2 * r] = 0.5 * t_end[r];
  }
  const RowState state{t.data(),        t1.data(),       dt.data(),       size.data(),     history.data(),
                       err.data(),      t_end.data(),    accept.data(),   status.data(),   accepted.data(),
                       rejected.data(), nullptr,         next_stop.data(), due.data(),     0};
  const Index lanes = choose_lanes<T>(rows, field_kernels<T>().vector_lanes);
  const Setting<T> setting{program, method, Tiling(rows, lanes, MOST_GROUPS), FEATURES, threads, {}, false};
  const Engine<T> engine(program, lanes, {matrix.data()});
  const double order = method.stages - 1.0;
  const RowRule rule{{{order, 0.9, 0.2, 10.0, 0.0, INFINITY}, {1.0 / order, 0.0, 0.0}, 10000},
                     true,
                     rows > 1 ? std::vector<Index>{1, FEATURES} : std::vector<Index>{FEATURES}};
  const T rtol = T(1e-5), atol = T(1e-6);
  std::vector<RowRecord<T>> record;
  CHECK(solve_rows<T>(setting, engine, state, rule, y.data(), {&rtol, &atol, 0, 0}, {times.data(), 1, next.data(), out.data()},
                      &record, {most_states, false}, {}));
  for (Index i = 0; i < rows * FEATURES; ++i) {
    const double rate = RATES[i % FEATURES], end = t_end[i / FEATURES];
    CHECK(close(y[i], y0[i] * std::exp(rate * end), 1e-3));
    CHECK(close(out[i], y0[i] * std::exp(rate * end / 2), 1e-3));
  }
  for (Index r = 0; r < rows; ++r) CHECK(status[r] == static_cast<std::int32_t>(Status::FINISHED) && next[r] == 1);

  std::vector<T> grad_matrix(matrix.size());
  CHECK(sweep_rows<T>(setting, engine, record, y.data(), t.data(), grad_out.data(), 1, nullptr, grad_y.data(), {},
                      {grad_matrix.data()}, {}));
  for (Index i = 0; i < rows * FEATURES; ++i) {
    CHECK(close(grad_y[i], std::exp(RATES[i % FEATURES] * t_end[i / FEATURES] / 2), 1e-3));
  }
  for (const std::vector<T>* more : {&out, &grad_y, &grad_matrix}) y.insert(y.end(), more->begin(), more->end());
  return y;
}

template <class T>
void rows_know_neither_threads_nor_what_is_kept(Index rows, Kind kind) {
  const std::vector<T> one = rows_solved_and_swept<T>(rows, 1, kind);
  for (int threads : {2, 3}) CHECK(rows_solved_and_swept<T>(rows, threads, kind) == one);
  for (Index most_states : {2, 3, 5}) CHECK(rows_solved_and_swept<T>(rows, 2, kind, most_states) == one);
}

}  // namespace

int main() {
  for (Index rows : {0, 1, 2, 7, 33, 200}) {
    for (Kind kind : KINDS) {
      threads_change_nothing<float>(rows, kind);
      threads_change_nothing<double>(rows, kind);
      steps_taken_again_are_the_same<float>(rows, kind);
      steps_taken_again_are_the_same<double>(rows, kind);
      kept_products_change_nothing<float>(rows, kind);
      kept_products_change_nothing<double>(rows, kind);
    }
  }
  for (Index rows : {0, 1, 2, 7, 33, 200}) {
    for (Kind kind : {Kind::BOSH3, Kind::ADAPTIVE_HEUN}) {
      rows_know_neither_threads_nor_what_is_kept<float>(rows, kind);
      rows_know_neither_threads_nor_what_is_kept<double>(rows, kind);
    }
  }
  return failures == 0 ? 0 : 1;
}
