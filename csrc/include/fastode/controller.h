#pragma once
#include "hd.h"
#include "power.h"

namespace fastode {

enum class Status : std::int32_t {
#define STATUS(code, name, message) name = code,
#include "status.def"
#undef STATUS
};

struct Limits {
  double order, safety, factor_min, factor_max, dt_min, dt_max;
};

struct Decision {
  bool accept;
  double dt;  // size of the next step
};

// torchdiffeq's integral controller. `dt` is the size, not the sign, of the step just tried; `err` its scaled error norm.
// A NaN error rejects and gives a NaN step: shrinking would hide a broken right-hand side behind thousands of small steps.
FASTODE_HD Decision control(double err, double dt, const Limits& limits) {
  bool accept = err <= 1.0;
  if (dt > limits.dt_max) accept = false;
  if (dt <= limits.dt_min) accept = true;

  double factor = limits.factor_max;
  if (err != 0.0) {
    const double floor = err < 1.0 ? 1.0 : limits.factor_min;
    const double wanted = limits.safety / ::pow(err, 1.0 / limits.order);
    factor = nan_min(limits.factor_max, nan_max(wanted, floor));
  }
  return {accept, clamp(dt * factor, limits.dt_min, limits.dt_max)};
}

// How a row's step follows its error: a digital filter over the errors of the last accepted steps, then bounds.
//
//   size_next = |dt| * min(factor_max, max(safety * err^-f0 * err1^-f1 * err2^-f2, factor_min))
//
// After an accepted step that was cut at a stop the bound is the size before the cut, if that is larger.
//
// Soderlind, "Digital filters in adaptive time-stepping", ACM TOMS 29, 2003; (1, 0, 0) / order is the integral controller,
// which also follows a rejection: a filter could propose the same step again. Unlike torchdiffeq's rule for one shared step,
// a step that was only just accepted may shrink the next one; that saves rejections.
struct RowLimits {
  Limits limits;
  double filter[3];  // exponents, already divided by the order
  std::int64_t max_steps;
};

// Solves of their own, one a row; every array has `rows` entries, `history` two a row.
struct RowState {
  double* t;             // where the row is
  double* t1;            // where the attempt under way ends
  double* dt;            // its signed size; 0 in a row that has stopped
  double* size;          // what the controller proposes, positive, not cut
  double* history;       // errors of the two accepted steps before
  const double* err;     // scaled error norm of the attempt
  const double* t_end;
  unsigned char* accept;
  std::int32_t* status;
  std::int64_t* n_accepted;
  std::int64_t* n_rejected;
  const double* stops;       // n_stops a row: where a step must end before t_end, in the order in which they come
  std::int64_t* next_stop;   // how many of them are behind the row
  const double* due;         // the next time at which the row has an output; NaN after the last
  std::int64_t n_stops;
};

// An error of zero says nothing about how the next one compares with it.
constexpr double LEAST_ERROR = 1e-10;
// A row whose error is NaN gives up below this share of what is left: near t = 0 a step can shrink for long without underflow.
constexpr double LEAST_SHARE = 1e-30;
constexpr double MAX_DOUBLE = 1.7976931348623157e308;

FASTODE_HD void stop_row(std::int64_t r, const RowState& state, Status status) {
  state.status[r] = static_cast<std::int32_t>(status);
  state.dt[r] = 0.0;
  state.t1[r] = state.t[r];
}

// Where the step under way must end at the latest.
FASTODE_HD double next_stop(std::int64_t r, const RowState& state) {
  const std::int64_t next = state.next_stop[r];
  return next < state.n_stops ? state.stops[r * state.n_stops + next] : state.t_end[r];
}

// The next attempt of a running row, cut at the next stop.
FASTODE_HD void propose_row(std::int64_t r, const RowState& state, const RowLimits& limits) {
  const double t = state.t[r], stop = next_stop(r, state), left = stop - t;
  const double size = state.size[r] = clamp(state.size[r], limits.limits.dt_min, limits.limits.dt_max);
  if (t == state.t_end[r]) return stop_row(r, state, Status::FINISHED);
  if (!(size > 0.0)) return stop_row(r, state, Status::NON_FINITE);
  if (state.n_accepted[r] + state.n_rejected[r] >= limits.max_steps) return stop_row(r, state, Status::TOO_MANY_STEPS);
  const bool cut = size >= absolute(left);
  state.dt[r] = cut ? left : (left < 0.0 ? -size : size);
  state.t1[r] = cut ? stop : t + state.dt[r];
  if (state.t1[r] == t) stop_row(r, state, Status::STEP_UNDERFLOW);
}

FASTODE_HD bool accepts(double err, double dt, const Limits& limits) {
  return (err <= 1.0) | ((absolute(dt) <= limits.dt_min) & (err == err));
}

// What the last error says about the next step; meaningless where it is 0 or not finite.
FASTODE_HD double error_factor(double err, double dt, const RowLimits& rule) {
  return power(err, accepts(err, dt, rule.limits) ? -rule.filter[0] : -1.0 / rule.limits.order);
}

// What control_row did, as bits of a sum.
constexpr int ROW_RUNS = 1, ROW_ACCEPTED = 2, ROW_HAS_OUTPUT = 4;

// Judges the attempt of a running row, moves it on if accepted, and proposes the next. A row that has stopped is left alone.
// An error that is NaN or infinite rejects with the smallest factor: the step may have left the field's domain.
FASTODE_HD int control_row(std::int64_t r, const RowState& state, const RowLimits& rule, double error_factor) {
  state.accept[r] = 0;
  if (state.status[r] != static_cast<std::int32_t>(Status::RUNNING)) return 0;

  const Limits& limits = rule.limits;
  const double err = state.err[r], dt = state.dt[r], tried = absolute(dt);
  const bool broken = err != err;
  const bool accept = accepts(err, dt, limits);
  const bool hopeless =
      broken && (tried <= limits.dt_min || tried <= LEAST_SHARE * absolute(state.t_end[r] - state.t[r]));

  double largest = tried * limits.factor_max, size = tried * limits.factor_min;
  if (accept) largest = nan_max(largest, state.size[r]);
  if (err == 0.0) {
    size = largest;
  } else if (absolute(err) <= MAX_DOUBLE) {
    double wanted = limits.safety * error_factor;
    if (accept && rule.filter[1] != 0.0) wanted *= power(state.history[2 * r], -rule.filter[1]);
    if (accept && rule.filter[2] != 0.0) wanted *= power(state.history[2 * r + 1], -rule.filter[2]);
    size = nan_min(largest, nan_max(tried * wanted, size));
  }
  state.size[r] = size;
  int done = 0;
  if (accept) {
    state.accept[r] = 1;
    state.t[r] = state.t1[r];
    if (state.next_stop[r] < state.n_stops && state.t[r] == next_stop(r, state)) state.next_stop[r] += 1;
    state.n_accepted[r] += 1;
    state.history[2 * r + 1] = state.history[2 * r];
    state.history[2 * r] = err > LEAST_ERROR ? err : LEAST_ERROR;
    done = ROW_ACCEPTED;
    if (dt < 0.0 ? state.due[r] >= state.t[r] : state.due[r] <= state.t[r]) done += ROW_HAS_OUTPUT;
  } else {
    state.n_rejected[r] += 1;
  }
  if (hopeless) {
    stop_row(r, state, Status::NON_FINITE);
    return done;
  }
  propose_row(r, state, rule);
  if (state.status[r] == static_cast<std::int32_t>(Status::RUNNING)) return done + ROW_RUNS;
  if (broken && state.status[r] == static_cast<std::int32_t>(Status::STEP_UNDERFLOW)) {
    stop_row(r, state, Status::NON_FINITE);
  }
  return done;
}

FASTODE_HD int control_row(std::int64_t r, const RowState& state, const RowLimits& rule) {
  return control_row(r, state, rule, error_factor(state.err[r], state.dt[r], rule));
}

}  // namespace fastode
