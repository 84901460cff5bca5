#include <cstring>

#include "../cpu/dispatch.h"
#include "rows.h"

namespace fastode {
namespace {

double power_of(double x, double e) { return power(x, e); }

py::tuple control_one(double err, double dt, double order, double safety, double factor_min, double factor_max, double dt_min,
                      double dt_max) {
  const Decision next = control(err, dt, {order, safety, factor_min, factor_max, dt_min, dt_max});
  return py::make_tuple(next.accept, next.dt);
}

// The controller of the rows of one batch, whose arrays stay where they are.
class RowControl {
 public:
  RowControl(std::int64_t rows, const std::vector<Address>& arrays, const std::vector<double>& limits, std::int64_t max_steps,
             Address outputs)
      : rows_(rows),
        state_(row_state(rows, arrays)),
        rule_(row_limits(limits, max_steps)),
        outputs_(array<std::int64_t>(outputs, rows, "outputs")),
        factors_(rows) {}

  void start() const {
    for (std::int64_t r = 0; r < rows_; ++r) propose_row(r, state_, rule_);
  }

  // Returns how many rows run on, how many accepted, and how many of these have an output; which ones is in `outputs`.
  py::tuple control() {
    current_target().error_factors(rule_, rows_, state_.err, state_.dt, factors_.data());
    std::int64_t running = 0, accepted = 0, with_output = 0;
    for (std::int64_t r = 0; r < rows_; ++r) {
      const int done = control_row(r, state_, rule_, factors_[r]);
      running += (done & ROW_RUNS) != 0;
      accepted += (done & ROW_ACCEPTED) != 0;
      if ((done & ROW_HAS_OUTPUT) != 0) outputs_[with_output++] = r;
    }
    return py::make_tuple(running, accepted, with_output);
  }

  // out[r] = new_rows[r] where the last attempt was accepted, else old_rows[r]; rows of `size` bytes.
  void select(std::int64_t size, Address new_rows, Address old_rows, Address out) const {
    check_size(size, "size");
    const auto* fresh = array<unsigned char>(new_rows, rows_ * size, "new_rows");
    const auto* old = array<unsigned char>(old_rows, rows_ * size, "old_rows");
    auto* target = array<unsigned char>(out, rows_ * size, "out");
    for (std::int64_t r = 0; r < rows_;) {  // runs of rows that decided alike
      std::int64_t end = r + 1;
      while (end < rows_ && state_.accept[end] == state_.accept[r]) ++end;
      std::memcpy(target + r * size, (state_.accept[r] ? fresh : old) + r * size, static_cast<std::size_t>((end - r) * size));
      r = end;
    }
  }

 private:
  std::int64_t rows_;
  RowState state_;
  RowLimits rule_;
  std::int64_t* outputs_;
  std::vector<double> factors_;
};

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
  m.def("power", &power_of, arg("x"), arg("e"));
  py::class_<RowControl>(m, "RowControl", "The controller of rows that have a step size each.")
      .def(py::init<std::int64_t, const std::vector<Address>&, const std::vector<double>&, std::int64_t, Address>(),
           arg("rows"), arg("arrays"), arg("limits"), arg("max_steps"), arg("outputs"))
      .def("start", &RowControl::start)
      .def("control", &RowControl::control)
      .def("select", &RowControl::select, arg("size"), arg("new_rows"), arg("old_rows"), arg("out"));
  m.def("status_messages", &status_messages);
}

}  // namespace fastode
