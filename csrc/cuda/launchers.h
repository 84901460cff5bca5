#pragma once
// The CUDA kernels as C functions: device addresses, sizes and a stream in, a cudaError_t out. Nothing waits for the device.
#include <cstdint>

#include "fastode/controller.h"
#include "fastode/rk.h"

namespace fastode {

// The structs are passed to kernels by value, so that a launch copies nothing to the device.
template <class T>
struct FinishRows {
  const T* y;
  T* y1;             // computed here if `write`, or it already holds the new state
  const double* dt;  // [rows]
  double* err;       // [rows]
  Tolerance<T> tolerance;
  std::int64_t rows, cols;
  int slopes;
  bool write;
  bool join;  // err keeps what it holds where that is larger: the norm of an earlier part of the state
  const T* k[MAX_STAGES];
  T state[MAX_STAGES], error[MAX_STAGES];  // weights of the slopes, without dt
};

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
// Whether the current device can run the kernels: cudaSuccess, or the error that a launch would give.
int fastode_probe();
int fastode_start_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits, void* stream);
int fastode_control_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits, void* stream);
int fastode_finish_rows_f32(const fastode::FinishRows<float>* args, void* stream);
int fastode_finish_rows_f64(const fastode::FinishRows<double>* args, void* stream);
int fastode_interpolate_rows_f32(const fastode::DenseOutput<float>* args, void* stream);
int fastode_interpolate_rows_f64(const fastode::DenseOutput<double>* args, void* stream);
}
