// Dense output, one thread an element. Moves (m + 3) T bytes an element with m slopes of non-zero weight, so memory bounds it;
// the weights are recomputed by every thread (about 30 float64 operations), which a load of this size hides.
#include "fastode/interp.h"
#include "launch.h"
#include "launchers.h"

namespace fastode {
namespace {

constexpr int THREADS = 256;
constexpr std::int64_t MAX_BLOCKS = 65535;

template <class T>
__global__ void interpolate_rows(const DenseOutput<T> a) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t elements = a.rows * a.cols;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride) {
    const std::int64_t r = i / a.cols;
    const QuarticWeights q = quartic_weights(a.x[r]);
    T slopes = T(0);
    for (int j = 0; j < a.stages; ++j) {
      const T weight = static_cast<T>(slope_weight(q, a.mid, j, a.stages, a.dt[r]));
      if (weight != T(0)) slopes += weight * a.k[j][i];
    }
    a.out[i] = between(a.y[i], a.y1[i], static_cast<T>(q.y1), static_cast<T>(1.0 - q.y1), slopes);
  }
}

template <class T>
int launch(const DenseOutput<T>& args, void* stream) {
  const std::int64_t elements = args.rows * args.cols;
  if (elements == 0) return cudaSuccess;
  const std::int64_t blocks = (elements + THREADS - 1) / THREADS;
  FASTODE_LAUNCH(interpolate_rows<T>, blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS, THREADS, stream, args);
  return cudaGetLastError();
}

}  // namespace
}  // namespace fastode

extern "C" int fastode_interpolate_rows_f32(const fastode::DenseOutput<float>* args, void* stream) {
  return fastode::launch(*args, stream);
}

extern "C" int fastode_interpolate_rows_f64(const fastode::DenseOutput<double>* args, void* stream) {
  return fastode::launch(*args, stream);
}
