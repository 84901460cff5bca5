#pragma once
// The CUDA kernels as C functions: device addresses, sizes and a stream in, a cudaError_t out. Nothing waits for the device.
#include <cstdint>

#include "fastode/controller.h"
#include "fastode/tableau.h"

namespace fastode {

// Passed to the kernel by value, so that a launch copies nothing to the device.
template <class T>
struct DenseOutput {
  const T* y;
  const T* y1;
  T* out;
  const double* x;   // [rows]
  const double* dt;  // [rows]
  std::int64_t rows, cols;
  int stages;
  const T* k[MAX_STAGES];
  T mid[MAX_STAGES];
};

}  // namespace fastode

extern "C" {
int fastode_start_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits, void* stream);
int fastode_control_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits, void* stream);
int fastode_interpolate_rows_f32(const fastode::DenseOutput<float>* args, void* stream);
int fastode_interpolate_rows_f64(const fastode::DenseOutput<double>* args, void* stream);
}
