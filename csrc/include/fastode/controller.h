#pragma once
#include "hd.h"

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

// One row per independent solve; every array has `rows` entries. dt carries the direction of time.
struct RowState {
  double* t;
  double* dt;
  const double* err;
  const double* t_end;
  unsigned char* accept;
  std::int32_t* status;
  std::int64_t* n_accepted;
  std::int64_t* n_rejected;
};

// Advances an accepted row by the step it tried and chooses its next step. A row that has stopped is left alone. The last
// step may pass t_end: the value at t_end comes from the dense output, as in torchdiffeq.
FASTODE_HD void control_row(std::int64_t r, const RowState& state, const Limits& limits) {
  state.accept[r] = 0;
  if (state.status[r] != static_cast<std::int32_t>(Status::RUNNING)) return;

  const double left = state.t_end[r] - state.t[r];
  if (left == 0.0) {
    state.status[r] = static_cast<std::int32_t>(Status::FINISHED);
    return;
  }
  const double sign = left < 0.0 ? -1.0 : 1.0;
  const Decision next = control(state.err[r], absolute(state.dt[r]), limits);
  if (next.dt != next.dt) {
    // dt is kept, so that the message can name the step that failed.
    state.n_rejected[r] += 1;
    state.status[r] = static_cast<std::int32_t>(Status::NON_FINITE);
    return;
  }
  if (next.accept) {
    state.accept[r] = 1;
    state.t[r] += state.dt[r];
    state.n_accepted[r] += 1;
  } else {
    state.n_rejected[r] += 1;
  }
  state.dt[r] = sign * next.dt;
  if (sign * (state.t_end[r] - state.t[r]) <= 0.0) {
    state.status[r] = static_cast<std::int32_t>(Status::FINISHED);
  } else if (state.t[r] + state.dt[r] == state.t[r]) {
    state.status[r] = static_cast<std::int32_t>(Status::STEP_UNDERFLOW);
  }
}

}  // namespace fastode
