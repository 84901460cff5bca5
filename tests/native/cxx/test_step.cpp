// Every kernel at sizes around a block, in memory of exactly the right size, so that a sanitizer sees each access out of it.
#include <vector>

#include "../../../csrc/cpu/step.h"
#include "check.h"

using namespace fastode;

namespace {

template <class T>
void a_step_stays_inside_its_arrays(std::int64_t rows, std::int64_t cols, int stages, int threads) {
  Tableau tableau;
  for (int i = 0; i < stages; ++i) {
    tableau.c.push_back(i == 0 ? 0.0 : 1.0);
    tableau.a.emplace_back(i, 0.25);
    tableau.b.push_back(1.0 / stages);
    tableau.b_error.push_back(0.5);
    tableau.mid.push_back(0.5 / stages);
  }
  const auto step = make_step(sizeof(T), rows, cols, tableau, threads);
  const std::size_t n = rows * cols;
  // Slopes of one everywhere have known results.
  std::vector<T> y(n, T(2)), k(n, T(1)), out(n), y1(n), tolerance(n, T(1));
  std::vector<std::vector<T>> slopes(stages, k);
  std::vector<double> dt(rows, 0.5), x(rows, 0.5), err(rows, -1.0);
  for (bool by_row : {false, true}) {
    step->tolerance(0.0, 1.0);
    step->begin(y.data());
    for (int i = 1; i < stages; ++i) {
      step->stage(by_row, i, dt.data(), slopes[i - 1].data(), out.data());
      for (T v : out) CHECK(close(v, 2 + 0.125 * i, 1e-6));
    }
    step->finish(by_row, Norm::rms, dt.data(), slopes[stages - 1].data(), y1.data(), true, err.data());
    for (T v : y1) CHECK(close(v, 2.5, 1e-6));
    if (n > 0) CHECK(close(err[0], 0.25 * stages, 1e-6));
    if (n > 0) CHECK(close(err[by_row ? rows - 1 : 0], 0.25 * stages, 1e-6));
    step->tolerance_arrays(tolerance.data(), tolerance.data());
    step->scaled_error(by_row, dt.data(), slopes[stages - 1].data(), y1.data(), false, out.data());
    for (T v : out) CHECK(close(v, 0.25 * stages / 3.5, 1e-6));
    step->finish(by_row, Norm::max, dt.data(), slopes[stages - 1].data(), y1.data(), false, err.data());
    if (n > 0) CHECK(close(err[0], 0.25 * stages / 3.5, 1e-6));
    step->interpolate(by_row, x.data(), dt.data(), y1.data(), out.data());
    for (T v : out) CHECK(close(v, 2.25, 1e-6));
  }
  std::vector<T> times(stages);
  const double start = 0.0, half = 0.5;
  step->times(1, &start, &half, &half, times.data());
  CHECK(times[0] == 0);
}

template <class T>
void combine_stays_inside_its_arrays(std::int64_t n, int m) {
  std::vector<T> base(n, T(1)), out(n);
  std::vector<std::vector<T>> storage(m, std::vector<T>(n, T(2)));
  std::vector<const T*> vectors;
  for (const auto& v : storage) vectors.push_back(v.data());
  combine<T>(n, out.data(), base.data(), vectors, std::vector<T>(m, T(0.5)), 2);
  for (T v : out) CHECK(close(v, 1.0 + m, 1e-6));
  combine<T>(n, out.data(), nullptr, vectors, std::vector<T>(m, T(0.5)), 2);
  for (T v : out) CHECK(close(v, m, 1e-6));
}

}  // namespace

int main() {
  const std::int64_t shapes[][2] = {{0, 3},  {3, 0},  {1, 1},   {3, 1},   {1, 7},    {700, 3},   {5, 63},
                                    {5, 64}, {1, 255}, {2, 257}, {3, 511}, {3, 513}, {3, 20001}, {20001, 3}};
  for (const std::string& name : supported_targets()) {
    select_target(name);
    for (const auto& [rows, cols] : shapes) {
      for (int stages : {2, 7, 14}) {
        a_step_stays_inside_its_arrays<float>(rows, cols, stages, 3);
        a_step_stays_inside_its_arrays<double>(rows, cols, stages, 3);
      }
    }
    for (std::int64_t n : {0, 1, 511, 513, 100003}) {
      for (int m : {0, 1, 8, 9, 17}) {
        combine_stays_inside_its_arrays<float>(n, m);
        combine_stays_inside_its_arrays<double>(n, m);
      }
    }
  }
  return failures == 0 ? 0 : 1;
}
