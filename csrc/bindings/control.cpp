#include "fastode/controller.h"

#include "args.h"

namespace fastode {
namespace {

py::tuple control_one(double err, double dt, double order, double safety, double factor_min, double factor_max, double dt_min,
                      double dt_max) {
  const Decision next = control(err, dt, {order, safety, factor_min, factor_max, dt_min, dt_max});
  return py::make_tuple(next.accept, next.dt);
}

void control_rows(std::int64_t rows, Address t, Address dt, Address err, Address t_end, Address accept, Address status,
                  Address n_accepted, Address n_rejected, double order, double safety, double factor_min, double factor_max,
                  double dt_min, double dt_max) {
  check_size(rows, "rows");
  const RowState state{array<double>(t, rows, "t"),
                       array<double>(dt, rows, "dt"),
                       array<double>(err, rows, "err"),
                       array<double>(t_end, rows, "t_end"),
                       array<unsigned char>(accept, rows, "accept"),
                       array<std::int32_t>(status, rows, "status"),
                       array<std::int64_t>(n_accepted, rows, "n_accepted"),
                       array<std::int64_t>(n_rejected, rows, "n_rejected")};
  const Limits limits{order, safety, factor_min, factor_max, dt_min, dt_max};
  for (std::int64_t r = 0; r < rows; ++r) control_row(r, state, limits);
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
  m.def("control_rows", &control_rows, arg("rows"), arg("t"), arg("dt"), arg("err"), arg("t_end"), arg("accept"),
        arg("status"), arg("n_accepted"), arg("n_rejected"), arg("order"), arg("safety"), arg("factor_min"),
        arg("factor_max"), arg("dt_min"), arg("dt_max"));
  m.def("status_messages", &status_messages);
}

}  // namespace fastode
