// The new state and the error norm of every row in one pass. Moves (m + 2) T bytes an element with m slopes of non-zero
// weight, each read once though it may count in both sums, and 16 bytes a row: 2 to 4 flops for a slope's T bytes, so memory
// bounds it.
//
// Which threads share a row, and in which order their sums are folded, follows from the number of columns alone, so that a
// row has the same bits in any batch. Up to WIDE columns it is the order of the CPU's kernels too.
#include "fastode/norm.h"
#include "launch.h"
#include "launchers.h"

namespace fastode {
namespace {

constexpr int THREADS = 256, WARP = 32, WARPS = THREADS / WARP;
constexpr unsigned WHOLE_WARP = 0xffffffffu;

// Rows of more columns take a block each: a narrow row's threads would have more than 16 elements each. Not measured.
constexpr std::int64_t WIDE = LANES * 16;

// Writes element i of the new state; returns its squared error in units of the tolerance.
template <class T>
__device__ double finish_element(const FinishRows<T>& a, T dt, std::int64_t i) {
  T step = T(0), error = T(0);
  for (int j = 0; j < a.slopes; ++j) {
    const T slope = a.k[j][i];
    if (a.state[j] != T(0)) step += slope * (a.state[j] * dt);
    if (a.error[j] != T(0)) error += slope * (a.error[j] * dt);
  }
  const T y = a.y[i], y1 = a.write ? y + step : a.y1[i];
  if (a.write) a.y1[i] = y1;
  const Tolerance<T>& tolerance = a.tolerance;
  const bool arrays = tolerance.rtol_array != nullptr;
  const T rtol = arrays ? tolerance.rtol_array[i] : tolerance.rtol;
  const T atol = arrays ? tolerance.atol_array[i] : tolerance.atol;
  const double ratio = scaled_error(error, y, y1, rtol, atol);
  return ratio * ratio;
}

template <class T>
__device__ void store(const FinishRows<T>& a, std::int64_t r, double total) {
  const double err = finish_norm(Norm::rms, total, a.cols);
  a.err[r] = a.join ? nan_max(a.err[r], err) : err;
}

// fold_sum over neighbouring threads, a power of two of them; the first gets the sum. Every thread of the warp must come.
__device__ double fold_threads(double value, int threads) {
  for (int half = threads / 2; half > 0; half /= 2) value += __shfl_down_sync(WHOLE_WARP, value, half, threads);
  return value;
}

// `lanes` threads a row.
template <class T>
__global__ void finish_narrow_rows(const FinishRows<T> a, int lanes) {
  const std::int64_t r = (static_cast<std::int64_t>(blockIdx.x) * THREADS + threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  double total = 0.0;
  if (r < a.rows) {
    const T dt = static_cast<T>(a.dt[r]);
    for (std::int64_t c = lane; c < a.cols; c += lanes) total += finish_element(a, dt, r * a.cols + c);
  }
  total = fold_threads(total, lanes);
  if (r < a.rows && lane == 0) store(a, r, total);
}

// A block a row.
template <class T>
__global__ void finish_wide_rows(const FinishRows<T> a) {
  __shared__ double partial[WARPS];
  const int warp = static_cast<int>(threadIdx.x) / WARP, lane = static_cast<int>(threadIdx.x) % WARP;
  const std::int64_t r = blockIdx.x;
  const T dt = static_cast<T>(a.dt[r]);
  double total = 0.0;
  for (std::int64_t c = threadIdx.x; c < a.cols; c += THREADS) total += finish_element(a, dt, r * a.cols + c);
  total = fold_threads(total, WARP);
  if (lane == 0) partial[warp] = total;
  __syncthreads();
  if (warp != 0) return;
  total = fold_threads(lane < WARPS ? partial[lane] : 0.0, WARPS);
  if (lane == 0) store(a, r, total);
}

// A grid has up to 2^31 - 1 blocks, of which no memory holds the rows.
template <class T>
int launch(const FinishRows<T>& args, void* stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.cols > WIDE) {
    FASTODE_LAUNCH(finish_wide_rows<T>, args.rows, THREADS, stream, args);
  } else {
    const int lanes = lanes_for(args.cols);
    FASTODE_LAUNCH(finish_narrow_rows<T>, (args.rows * lanes + THREADS - 1) / THREADS, THREADS, stream, args, lanes);
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace fastode

extern "C" int fastode_finish_rows_f32(const fastode::FinishRows<float>* args, void* stream) {
  return fastode::launch(*args, stream);
}

extern "C" int fastode_finish_rows_f64(const fastode::FinishRows<double>* args, void* stream) {
  return fastode::launch(*args, stream);
}
