// One thread a row. Moves about 110 bytes a row in and 70 out; at the row counts of a solve the launch itself is the cost.
#include "launch.h"
#include "launchers.h"

namespace fastode {
namespace {

constexpr int THREADS = 128;
constexpr std::int64_t MAX_BLOCKS = 4096;

template <class Body>
__device__ void each_row(std::int64_t rows, const Body& body) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; r < rows; r += stride) body(r);
}

__global__ void start_rows(std::int64_t rows, RowState state, RowLimits limits) {
  each_row(rows, [&](std::int64_t r) { propose_row(r, state, limits); });
}

__global__ void control_rows(std::int64_t rows, RowState state, RowLimits limits) {
  each_row(rows, [&](std::int64_t r) { control_row(r, state, limits); });
}

template <class Kernel>
int launch(Kernel kernel, std::int64_t rows, const RowState* state, const RowLimits* limits, void* stream) {
  if (rows == 0) return cudaSuccess;
  const std::int64_t blocks = (rows + THREADS - 1) / THREADS;
  FASTODE_LAUNCH(kernel, blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS, THREADS, stream, rows, *state, *limits);
  return cudaGetLastError();
}

}  // namespace
}  // namespace fastode

extern "C" int fastode_probe() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, fastode::start_rows);
}

extern "C" int fastode_start_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits,
                                  void* stream) {
  return fastode::launch(fastode::start_rows, rows, state, limits, stream);
}

extern "C" int fastode_control_rows(std::int64_t rows, const fastode::RowState* state, const fastode::RowLimits* limits,
                                    void* stream) {
  return fastode::launch(fastode::control_rows, rows, state, limits, stream);
}
