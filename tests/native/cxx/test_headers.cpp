// The mathematics of csrc/include/fastode, without Python.
#include <initializer_list>
#include <limits>

#include "check.h"
#include "fastode/controller.h"
#include "fastode/interp.h"
#include "fastode/norm.h"
#include "fastode/rk.h"

using namespace fastode;

namespace {

const double INF = std::numeric_limits<double>::infinity();
const double NOT = std::numeric_limits<double>::quiet_NaN();

void nan_max_and_nan_min_propagate_nan_from_either_side() {
  CHECK(nan_max(1.0, 2.0) == 2.0);
  CHECK(nan_min(1.0, 2.0) == 1.0);
  CHECK(nan_max(-INF, INF) == INF);
  CHECK(std::isnan(nan_max(NOT, 1.0)) && std::isnan(nan_max(1.0, NOT)));
  CHECK(std::isnan(nan_min(NOT, 1.0)) && std::isnan(nan_min(1.0, NOT)));
  CHECK(std::isnan(clamp(NOT, 0.0, 1.0)));
}

void folding_the_lanes_gives_the_sum_and_the_largest() {
  double sum[LANES], largest[LANES];
  for (int i = 0; i < LANES; ++i) sum[i] = largest[i] = i;
  CHECK(fold_sum(sum) == LANES * (LANES - 1) / 2.0);
  CHECK(fold_max(largest) == LANES - 1);
  CHECK(finish_norm(Norm::rms, 36.0, 4) == 3.0);
  CHECK(finish_norm(Norm::max, 36.0, 4) == 36.0);
  CHECK(finish_norm(Norm::rms, NOT, 0) == 0.0);
}

void terms_of_weight_zero_are_left_out() {
  const float x = 1.0f, y = 2.0f;
  const float* k[] = {&x, &y, &x};
  const float a[] = {0.5f, 0.0f, 2.0f};
  const auto terms = scaled_terms(k, a, 3, 0.25f);
  CHECK(terms.count == 2);
  CHECK(terms.vector[1] == &x && terms.weight[1] == 0.5f);
}

void the_last_stage_is_evaluated_just_inside_the_step() {
  CHECK(stage_time(1.0, 0.5, 1.5, 0.0) == 1.0);
  CHECK(stage_time(1.0, 0.5, 1.5, 0.5) == 1.25);
  CHECK(stage_time(1.0, 0.5, 1.5, 1.0) == std::nextafter(1.5, -INF));
  CHECK(stage_time(1.0f, -0.5f, 0.5f, 1.0f) == std::nextafterf(0.5f, 1.0f));
}

void the_quartic_meets_its_five_conditions() {
  const auto value = [](double x, double y0, double y1, double mid, double f0, double f1) {
    const QuarticWeights q = quartic_weights(x);
    return y0 + q.y1 * (y1 - y0) + q.mid * (mid - y0) + q.f0 * f0 + q.f1 * f1;
  };
  // p(x) = x^4 - 2 x^3 + 3 x^2 - 4 x + 5 is its own interpolant.
  const auto p = [](double x) { return (((x - 2) * x + 3) * x - 4) * x + 5; };
  for (double x : {0.0, 0.125, 0.5, 0.75, 1.0}) CHECK(close(value(x, p(0), p(1), p(0.5), -4, 4 - 6 + 6 - 4), p(x)));
  CHECK(between(1.0, 4.0, 0.0, 1.0, 0.0) == 1.0);
  CHECK(between(1.0, 4.0, 1.0, 0.0, 0.0) == 4.0);
}

void the_controller_follows_the_error() {
  const Limits limits{5, 0.9, 0.2, 10, 0, INF};
  CHECK(control(1.0, 0.5, limits).accept);
  CHECK(!control(1.0000001, 0.5, limits).accept);
  CHECK(control(0.0, 0.5, limits).dt == 5.0);
  CHECK(control(INF, 0.5, limits).dt == 0.1);
  CHECK(!control(NOT, 0.5, limits).accept && std::isnan(control(NOT, 0.5, limits).dt));
}

void rows_stop_for_good() {
  constexpr int R = 4;
  double t[] = {0, 1, 0, 0}, t1[R], dt[R] = {}, size[] = {2, 4e-16, 1, 0.1}, err[] = {0.5, 3, NOT, 0.5}, t_end[] = {1, 2, 3, 1};
  double history[2 * R] = {1, 1, 1, 1, 1, 1, 1, 1};
  unsigned char accept[R];
  std::int32_t status[R] = {};
  std::int64_t accepted[R] = {}, rejected[R] = {}, next_stop[R] = {};
  const double due[R] = {1, NOT, NOT, 0.12};
  const RowState state{t,      t1,     dt,       size,     history, err,       t_end, accept,
                       status, accepted, rejected, nullptr, next_stop, due,   0};
  const RowLimits limits{{5, 0.9, 0.2, 10, 0, INF}, {0.2, 0, 0}, 60};
  for (int r = 0; r < R; ++r) propose_row(r, state, limits);
  CHECK(t1[0] == 1 && dt[0] == 1);  // cut at the end
  int with_output = 0;
  for (int round = 0; round < 100; ++round) {
    for (int r = 0; r < R; ++r) with_output += (control_row(r, state, limits) & ROW_HAS_OUTPUT) != 0;
    size[3] = dt[3] = status[3] == 0 ? 1e-3 : dt[3];
    t1[3] = t[3] + dt[3];
  }
  CHECK(status[0] == 1 && status[1] == 2 && status[2] == 3 && status[3] == 4);
  CHECK(accepted[0] == 1 && accepted[3] == 60 && accepted[2] == 0 && rejected[2] < 60);
  CHECK(with_output > 1 && with_output < accepted[0] + accepted[3]);
  CHECK(t[0] == 1 && t[1] == 1 && t[2] == 0);
  CHECK(dt[0] == 0 && dt[1] == 0 && dt[2] == 0 && dt[3] == 0);
}

void the_power_is_that_of_the_library() {
  for (double x : {5e-324, 1e-310, 1e-100, 0.3, 0.70710678, 0.7071068, 1.0, 1.4142135, 1.4142136, 3.0, 1e308}) {
    for (double e : {-0.2, -1.0 / 3, -0.5, 0.14}) {
      const double exact = std::pow(x, e);
      CHECK(std::abs(power(x, e) - exact) <= 1e-13 * exact);
    }
  }
  for (double x : {0.0, -1.0, INF, NOT}) power(x, -0.2);  // meaningless, but defined
}

}  // namespace

int main() {
  nan_max_and_nan_min_propagate_nan_from_either_side();
  folding_the_lanes_gives_the_sum_and_the_largest();
  terms_of_weight_zero_are_left_out();
  the_last_stage_is_evaluated_just_inside_the_step();
  the_quartic_meets_its_five_conditions();
  the_controller_follows_the_error();
  rows_stop_for_good();
  the_power_is_that_of_the_library();
  return failures == 0 ? 0 : 1;
}
