// fastode._native_cuda. The CUDA runtime is linked statically and opens the driver at the first call, so that the module
// imports on a machine without one.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "../cuda/launchers.h"
#include "args.h"

namespace fastode {
namespace {

void check(int code, const char* kernel) {
  if (code == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(code);
  std::string hint = "check that every address belongs to the current device";
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice || error == cudaErrorInitializationError) {
    hint = "no usable GPU driver was found; use CPU tensors, which need none";
  } else if (error == cudaErrorNoKernelImageForDevice) {
    hint = "this build has no code for the GPU; rebuild with FASTODE_CUDA_ARCHS set to its compute capability";
  }
  throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(error) + " (CUDA error " + std::to_string(code) +
                           "); " + hint);
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string driver_status() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return std::to_string(count) + " CUDA device(s)";
}

void control_rows(std::int64_t rows, Address t, Address dt, Address err, Address t_end, Address accept, Address status,
                  Address n_accepted, Address n_rejected, double order, double safety, double factor_min, double factor_max,
                  double dt_min, double dt_max, Address stream) {
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
  check(fastode_control_rows(rows, &state, &limits, reinterpret_cast<void*>(stream)), "control_rows");
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
  m.def("device_count", &fastode::device_count);
  m.def("driver_status", &fastode::driver_status);
  m.def("control_rows", &fastode::control_rows, arg("rows"), arg("t"), arg("dt"), arg("err"), arg("t_end"), arg("accept"),
        arg("status"), arg("n_accepted"), arg("n_rejected"), arg("order"), arg("safety"), arg("factor_min"),
        arg("factor_max"), arg("dt_min"), arg("dt_max"), arg("stream"));
  m.def("interpolate_rows", &fastode::interpolate_rows, arg("itemsize"), arg("rows"), arg("cols"), arg("slopes"), arg("mid"),
        arg("x"), arg("dt"), arg("y"), arg("y1"), arg("out"), arg("stream"));
}
