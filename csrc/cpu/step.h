#pragma once
// The kernels of one Runge-Kutta step for one tensor, over rows: a step size shared by all elements is one row.
#include <memory>
#include <vector>

#include "dispatch.h"

namespace fastode {

// Elements one task works through. Also the unit in which errors are summed, so the threads that share the tasks cannot
// change the result.
constexpr std::int64_t CHUNK = 16384;

// Below this many element reads a call stays on one core. Measured with a stage of six float32 slopes: at this size one core
// needs 8 microseconds, about the price of waking a thread, and on a busy machine of 2 cores a second thread neither gained
// nor lost from here up to 2 million reads. Not tuned on an idle machine yet.
constexpr std::int64_t PARALLEL_READS = std::int64_t{1} << 17;

// torch sums a whole tensor on one thread below this many elements; its order is followed only there.
constexpr std::int64_t SERIAL_SUM = 32768;

struct Tableau {
  std::vector<double> c;
  std::vector<std::vector<double>> a;  // row i holds the i coefficients of stage i
  std::vector<double> b;
  std::vector<double> b_error;         // empty: no error estimate
  std::vector<double> mid;             // empty: no dense output
};

enum class Output { norm, elements };

// Pointers are to `rows * cols` contiguous elements of the step's type and stay the caller's. Not for use by two threads at
// once. Throws std::invalid_argument when called out of order or with an output that is also an input.
class Step {
 public:
  virtual ~Step() = default;

  virtual void tolerance(double rtol, double atol) = 0;
  virtual void tolerance_arrays(const void* rtol, const void* atol) = 0;
  // `rows` times for each stage, [stages, rows] in the step's type.
  virtual void times(std::int64_t rows, const double* t0, const double* dt, const double* t1, void* out) const = 0;
  virtual void begin(const void* y) = 0;

  // Registers slope j of a step whose stages were computed elsewhere.
  virtual void slope(int j, const void* k) = 0;

  // dt, x and err have one entry per row if `by_row`, else one.
  virtual void stage(bool by_row, int i, const double* dt, const void* k, void* out) = 0;
  virtual void finish(bool by_row, Norm norm, const double* dt, const void* k, void* y1, bool write, double* err) = 0;
  // The square of finish's norm over all rows, in the state's type and torch's order of summation where that is followed.
  virtual double mean_square(const double* dt, const void* k, void* y1, bool write) = 0;
  // The mean square of (plus - minus) / (atol + rtol |y|); minus may be null.
  virtual double mean_square_of(const void* y, const void* plus, const void* minus) = 0;
  virtual void scaled_error(bool by_row, const double* dt, const void* k, void* y1, bool write, void* out) = 0;
  virtual void interpolate(bool by_row, const double* x, const double* dt, const void* y1, void* out) = 0;

  std::int64_t rows() const { return rows_; }
  std::int64_t elements() const { return rows_ * cols_; }
  int stages() const { return stages_; }

 protected:
  Step(std::int64_t rows, std::int64_t cols, int stages, int threads)
      : rows_(rows), cols_(cols), stages_(stages), threads_(threads) {}

  std::int64_t rows_, cols_;
  int stages_, threads_;
};

std::unique_ptr<Step> make_step(int itemsize, std::int64_t rows, std::int64_t cols, const Tableau& tableau, int threads,
                                int lanes = 0);

// out = [base +] sum_j weights[j] * vectors[j] over n elements.
template <class T>
void combine(std::int64_t n, T* out, const T* base, const std::vector<const T*>& vectors, const std::vector<T>& weights,
             int threads);

}  // namespace fastode
