// fastode._native_cuda. The CUDA runtime is linked statically and opens the driver at the first call, so that the module
// imports on a machine without one.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "../cuda/launchers.h"
#include "rows.h"

namespace fastode {
namespace {

std::string describe(int code) {
  const auto error = static_cast<cudaError_t>(code);
  std::string hint = "check that every address belongs to the current device";
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice || error == cudaErrorInitializationError) {
    hint = "no usable GPU driver was found; use CPU tensors, which need none";
  } else if (error == cudaErrorNoKernelImageForDevice) {
    hint = "this build has no code for the GPU; rebuild with FASTODE_CUDA_ARCHS set to its compute capability";
  }
  return std::string(cudaGetErrorString(error)) + " (CUDA error " + std::to_string(code) + "); " + hint;
}

void check(int code, const char* kernel) {
  if (code != cudaSuccess) throw std::runtime_error(std::string(kernel) + ": " + describe(code));
}

std::string device_status() {
  const int code = fastode_probe();
  return code == cudaSuccess ? "" : describe(code);
}

void start_rows(std::int64_t rows, const std::vector<Address>& arrays, const std::vector<double>& limits,
                std::int64_t max_steps, Address stream) {
  const RowState state = row_state(rows, arrays);
  const RowLimits rule = row_limits(limits, max_steps);
  check(fastode_start_rows(rows, &state, &rule, reinterpret_cast<void*>(stream)), "start_rows");
}

// Does not wait for the device, so it cannot say how many rows are running.
void control_rows(std::int64_t rows, const std::vector<Address>& arrays, const std::vector<double>& limits,
                  std::int64_t max_steps, Address stream) {
  const RowState state = row_state(rows, arrays);
  const RowLimits rule = row_limits(limits, max_steps);
  check(fastode_control_rows(rows, &state, &rule, reinterpret_cast<void*>(stream)), "control_rows");
}

template <class T>
FinishRows<T> finish_arguments(std::int64_t rows, std::int64_t cols, const std::vector<Address>& slopes,
                               const std::vector<double>& state, const std::vector<double>& error, Address dt, Address y,
                               Address y1, double rtol, double atol, Address rtol_array, Address atol_array, Address err,
                               bool join) {
  const std::int64_t n = rows * cols;
  FinishRows<T> args{array<T>(y, n, "y"),
                     array<T>(y1, n, "y1"),
                     array<double>(dt, rows, "dt"),
                     array<double>(err, rows, "err"),
                     {static_cast<T>(rtol), static_cast<T>(atol)},
                     rows,
                     cols,
                     0,
                     !state.empty(),
                     join,
                     {},
                     {},
                     {}};
  if (rtol_array != 0 || atol_array != 0) {
    args.tolerance.rtol_array = array<T>(rtol_array, n, "rtol_array");
    args.tolerance.atol_array = array<T>(atol_array, n, "atol_array");
  }
  for (std::size_t j = 0; j < slopes.size(); ++j) {
    const T in_state = state.empty() ? T(0) : static_cast<T>(state[j]), in_error = static_cast<T>(error[j]);
    if (in_state == T(0) && in_error == T(0)) continue;
    args.k[args.slopes] = array<T>(slopes[j], n, "slopes");
    args.state[args.slopes] = in_state;
    args.error[args.slopes] = in_error;
    ++args.slopes;
  }
  return args;
}

// The new state if `state` holds its weights, and the error norm of every row.
void finish_rows(int itemsize, std::int64_t rows, std::int64_t cols, const std::vector<Address>& slopes,
                 const std::vector<double>& state, const std::vector<double>& error, Address dt, Address y, Address y1,
                 double rtol, double atol, Address rtol_array, Address atol_array, Address err, bool join, Address stream) {
  check_itemsize(itemsize);
  check_shape(rows, cols);
  if (slopes.size() > MAX_STAGES || slopes.size() != error.size() || (!state.empty() && slopes.size() != state.size())) {
    throw py::value_error("`slopes` has " + std::to_string(slopes.size()) + " entries, `error` " +
                          std::to_string(error.size()) + " and `state` " + std::to_string(state.size()) +
                          "; they must be as many, at most " + std::to_string(MAX_STAGES) + " (`state` may be empty)");
  }
  void* const queue = reinterpret_cast<void*>(stream);
  if (itemsize == 4) {
    const auto args = finish_arguments<float>(rows, cols, slopes, state, error, dt, y, y1, rtol, atol, rtol_array,
                                              atol_array, err, join);
    check(fastode_finish_rows_f32(&args, queue), "finish_rows");
  } else {
    const auto args = finish_arguments<double>(rows, cols, slopes, state, error, dt, y, y1, rtol, atol, rtol_array,
                                               atol_array, err, join);
    check(fastode_finish_rows_f64(&args, queue), "finish_rows");
  }
}

template <class T>
DenseOutput<T> dense_output(std::int64_t rows, std::int64_t cols, const std::vector<Address>& slopes,
                            const std::vector<double>& mid, Address x, Address dt, Address y, Address y1, Address out) {
  const std::int64_t n = rows * cols;
  DenseOutput<T> args{array<T>(y, n, "y"),
                      array<T>(y1, n, "y1"),
                      array<T>(out, n, "out"),
                      array<double>(x, rows, "x"),
                      array<double>(dt, rows, "dt"),
                      rows,
                      cols,
                      static_cast<int>(slopes.size()),
                      {},
                      {}};
  for (std::size_t j = 0; j < slopes.size(); ++j) {
    args.k[j] = array<T>(slopes[j], n, "slopes");
    args.mid[j] = static_cast<T>(mid[j]);
  }
  return args;
}

void interpolate_rows(int itemsize, std::int64_t rows, std::int64_t cols, const std::vector<Address>& slopes,
                      const std::vector<double>& mid, Address x, Address dt, Address y, Address y1, Address out,
                      Address stream) {
  check_itemsize(itemsize);
  check_shape(rows, cols);
  if (slopes.empty() || slopes.size() > MAX_STAGES || slopes.size() != mid.size()) {
    throw py::value_error("`slopes` has " + std::to_string(slopes.size()) + " entries and `mid` " +
                          std::to_string(mid.size()) + "; they must be as many, 1 to " + std::to_string(MAX_STAGES));
  }
  void* const queue = reinterpret_cast<void*>(stream);
  if (itemsize == 4) {
    const auto args = dense_output<float>(rows, cols, slopes, mid, x, dt, y, y1, out);
    check(fastode_interpolate_rows_f32(&args, queue), "interpolate_rows");
  } else {
    const auto args = dense_output<double>(rows, cols, slopes, mid, x, dt, y, y1, out);
    check(fastode_interpolate_rows_f64(&args, queue), "interpolate_rows");
  }
}

}  // namespace
}  // namespace fastode

PYBIND11_MODULE(_native_cuda, m, pybind11::mod_gil_not_used()) {
  using pybind11::arg;
  m.doc() = "Compiled kernels of fastode for CUDA tensors: device addresses, sizes and a stream in, no torch inside.";
  m.def("device_status", &fastode::device_status);
  m.def("start_rows", &fastode::start_rows, arg("rows"), arg("arrays"), arg("limits"), arg("max_steps"), arg("stream"));
  m.def("control_rows", &fastode::control_rows, arg("rows"), arg("arrays"), arg("limits"), arg("max_steps"),
        arg("stream"));
  m.def("finish_rows", &fastode::finish_rows, arg("itemsize"), arg("rows"), arg("cols"), arg("slopes"), arg("state"),
        arg("error"), arg("dt"), arg("y"), arg("y1"), arg("rtol"), arg("atol"), arg("rtol_array"), arg("atol_array"),
        arg("err"), arg("join"), arg("stream"));
  m.def("interpolate_rows", &fastode::interpolate_rows, arg("itemsize"), arg("rows"), arg("cols"), arg("slopes"), arg("mid"),
        arg("x"), arg("dt"), arg("y"), arg("y1"), arg("out"), arg("stream"));
}
