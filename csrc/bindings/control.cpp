#include "rows.h"

namespace fastode {
namespace {

py::tuple control_one(double err, double dt, double order, double safety, double factor_min, double factor_max, double dt_min,
                      double dt_max) {
  const Decision next = control(err, dt, {order, safety, factor_min, factor_max, dt_min, dt_max});
  return py::make_tuple(next.accept, next.dt);
}

void start_rows(std::int64_t rows, const std::vector<Address>& arrays, const std::vector<double>& limits,
                std::int64_t max_steps) {
  const RowState state = row_state(rows, arrays);
  const RowLimits rule = row_limits(limits, max_steps);
  for (std::int64_t r = 0; r < rows; ++r) propose_row(r, state, rule);
}

// Returns how many rows are still running.
std::int64_t control_rows(std::int64_t rows, const std::vector<Address>& arrays, const std::vector<double>& limits,
                          std::int64_t max_steps) {
  const RowState state = row_state(rows, arrays);
  const RowLimits rule = row_limits(limits, max_steps);
  std::int64_t running = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    control_row(r, state, rule);
    running += state.status[r] == static_cast<std::int32_t>(Status::RUNNING);
  }
  return running;
}

py::dict status_messages() {
  py::dict messages;
#define STATUS(code, name, message) messages[py::int_(code)] = py::make_tuple(#name, message);
#include "fastode/status.def"
#undef STATUS
  return messages;
}

}  // namespace

void register_control(py::module_& m) {
  using py::arg;
  m.def("control", &control_one, arg("err"), arg("dt"), arg("order"), arg("safety"), arg("factor_min"), arg("factor_max"),
        arg("dt_min"), arg("dt_max"));
  m.def("start_rows", &start_rows, arg("rows"), arg("arrays"), arg("limits"), arg("max_steps"));
  m.def("control_rows", &control_rows, arg("rows"), arg("arrays"), arg("limits"), arg("max_steps"));
  m.def("status_messages", &status_messages);
}

}  // namespace fastode
