#include "step.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "fastode/rk.h"
#include "fastode/torch_order.h"
#include "threads.h"

namespace fastode {
namespace {

void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check(const Tableau& tableau) {
  const std::size_t stages = tableau.b.size();
  if (stages == 0 || stages > MAX_STAGES) {
    refuse("`b` has " + std::to_string(stages) + " entries; a method has 1 to " + std::to_string(MAX_STAGES) + " stages");
  }
  const auto length = [&](const char* name, std::size_t have, bool may_be_empty) {
    if (have == stages || (may_be_empty && have == 0)) return;
    refuse("`" + std::string(name) + "` has " + std::to_string(have) + " entries; `b` has " + std::to_string(stages));
  };
  length("c", tableau.c.size(), false);
  length("a", tableau.a.size(), false);
  length("b_error", tableau.b_error.size(), true);
  length("mid", tableau.mid.size(), true);
  for (std::size_t i = 0; i < stages; ++i) {
    if (tableau.a[i].size() == i) continue;
    refuse("`a[" + std::to_string(i) + "]` has " + std::to_string(tableau.a[i].size()) + " entries; stage " +
           std::to_string(i) + " of an explicit method has " + std::to_string(i));
  }
}

// A matrix cut into tasks: several whole rows each, or pieces of one long row.
struct Split {
  std::int64_t rows, cols, pieces, rows_per_task, tasks;

  Split(std::int64_t r, std::int64_t n)
      : rows(r),
        cols(n),
        pieces(std::max<std::int64_t>(1, (n + CHUNK - 1) / CHUNK)),
        rows_per_task(pieces > 1 ? 1 : std::max<std::int64_t>(1, CHUNK / std::max<std::int64_t>(n, 1))),
        tasks(pieces > 1 ? r * pieces : (r + rows_per_task - 1) / rows_per_task) {}

  bool narrow() const { return rows > 1 && cols < NARROW; }

  std::int64_t first_row(std::int64_t task) const { return pieces > 1 ? task / pieces : task * rows_per_task; }

  std::int64_t last_row(std::int64_t task) const { return std::min(rows, first_row(task) + rows_per_task); }

  // Calls body(row, piece, begin, end) for the wide rows, or the piece of one, that make up a task.
  template <class Body>
  void each(std::int64_t task, const Body& body) const {
    const std::int64_t piece = pieces > 1 ? task % pieces : 0;
    for (std::int64_t r = first_row(task), last = last_row(task); r < last; ++r) {
      const std::int64_t begin = piece * CHUNK;
      body(r, piece, r * cols + begin, r * cols + std::min(cols, begin + CHUNK));
    }
  }
};

template <class T>
class StepOf final : public Step {
 public:
  StepOf(std::int64_t rows, std::int64_t cols, const Tableau& tableau, int threads, int lanes)
      : Step(rows, cols, static_cast<int>(tableau.b.size()), threads),
        c_(cast(tableau.c)),
        b_(cast(tableau.b)),
        b_error_(cast(tableau.b_error)),
        mid_(cast(tableau.mid)),
        lanes_(lanes) {
    for (const auto& row : tableau.a) a_.push_back(cast(row));
    for (int terms = 0; terms <= stages_; ++terms) order_.push_back(summation_order(terms, lanes));
    if (lanes > 0 && !b_error_.empty() && elements() < SERIAL_SUM) ratios_.resize(elements());
    const Split flat(1, rows * cols), by_row(rows, cols);
    partial_.resize(std::max(flat.pieces, by_row.pieces > 1 ? by_row.tasks : 1));
  }

  void tolerance(double rtol, double atol) override {
    tolerance_ = {static_cast<T>(rtol), static_cast<T>(atol), nullptr, nullptr};
  }

  void tolerance_arrays(const void* rtol, const void* atol) override {
    tolerance_ = {T(0), T(0), static_cast<const T*>(rtol), static_cast<const T*>(atol)};
  }

  void times(std::int64_t rows, const double* t0, const double* dt, const double* t1, void* out) const override {
    T* target = static_cast<T*>(out);
    const T* at_end = nullptr;  // the times of the first stage at c = 1
    for (int i = 0; i < stages_; ++i, target += rows) {
      const T c = c_[i];
      if (c == T(1)) {
        if (at_end != nullptr) std::copy(at_end, at_end + rows, target);
        else for (std::int64_t r = 0; r < rows; ++r) target[r] = before_end(static_cast<T>(dt[r]), static_cast<T>(t1[r]));
        at_end = target;
      } else {
        for (std::int64_t r = 0; r < rows; ++r) target[r] = stage_time(static_cast<T>(t0[r]), static_cast<T>(dt[r]), T(0), c);
      }
    }
  }

  void begin(const void* y) override {
    y_ = static_cast<const T*>(y);
    known_ = 0;
    begun_ = true;
  }

  void slope(int j, const void* k) override {
    if (j < 0 || j >= stages_) {
      refuse("slope " + std::to_string(j) + " does not exist; this method has slopes 0 to " + std::to_string(stages_ - 1));
    }
    take(j, k);
  }

  void stage(bool by_row, int i, const double* dt, const void* k, void* out) override {
    if (i < 1 || i >= stages_) {
      refuse("stage " + std::to_string(i) + " does not exist; this method has stages 1 to " + std::to_string(stages_ - 1));
    }
    take(i - 1, k);
    refuse_input(out, i, "out");
    advance(by_row, a_[i].data(), i, dt, static_cast<T*>(out));
  }

  void finish(bool by_row, Norm norm, const double* dt, const void* k, void* y1, bool write, double* err) override {
    errors(by_row, norm, dt, k, y1, write, nullptr, err);
  }

  double mean_square(const double* dt, const void* k, void* y1, bool write) override {
    if (ratios_.empty()) {
      double err = 0.0;
      finish(false, Norm::rms, dt, k, y1, write, &err);
      return err * err;
    }
    take(stages_ - 1, k);
    T* const ratio = ratios_.data();
    if (order_[stages_].plain()) {
      if (write) refuse_input(y1, stages_, "y1");
      scale(false, Norm::rms, dt, y1, write, ratio, nullptr);
    } else {
      if (write) advance(false, b_.data(), stages_, dt, static_cast<T*>(y1));
      combine_groups(b_error_.data(), stages_, static_cast<T>(*dt), nullptr, ratio);
      ErrorArgs<T> args{y_, static_cast<T*>(y1), false, {}, {}, tolerance_, ratio, Norm::rms};
      args.error.add(ratio, T(1));
      kernels<T>().error(args, 0, elements());
    }
    return mean_square_in_torch_order(ratio, elements(), lanes_);
  }

  double mean_square_of(const void* y, const void* plus, const void* minus) override {
    if (elements() == 0) return 0.0;
    T* const state = const_cast<T*>(static_cast<const T*>(y));  // only read: nothing is written without `write`
    ErrorArgs<T> args{state, state, false, {}, {}, tolerance_, ratios_.empty() ? nullptr : ratios_.data(), Norm::rms};
    args.error.add(static_cast<const T*>(plus), T(1));
    if (minus != nullptr) args.error.add(static_cast<const T*>(minus), T(-1));
    const double total = kernels<T>().error(args, 0, elements());
    if (ratios_.empty()) return total / static_cast<double>(elements());
    return mean_square_in_torch_order(ratios_.data(), elements(), lanes_);
  }

  void scaled_error(bool by_row, const double* dt, const void* k, void* y1, bool write, void* out) override {
    refuse_input(out, stages_ - 1, "out");
    if (elements() > 0 && (out == k || out == y1)) refuse("`out` is also an input; give it memory of its own");
    errors(by_row, Norm::rms, dt, k, y1, write, static_cast<T*>(out), nullptr);
  }

  void interpolate(bool by_row, const double* x, const double* dt, const void* y1, void* out) override {
    if (mid_.empty()) refuse("this method has no dense output: `mid` is empty");
    if (known_ < stages_) refuse("interpolate comes after finish: the last slope is not known yet");
    refuse_input(out, stages_, "out");
    if (elements() > 0 && out == y1) refuse("`out` is also an input; give it memory of its own");
    const InterpolateArgs<T> args{y_, static_cast<const T*>(y1), static_cast<T*>(out), k_, mid_.data(), stages_};
    const Kernels<T>& kernel = kernels<T>();
    const Split split = cut(by_row);
    run(split, stages_, [&](std::int64_t task) {
      if (split.narrow()) {
        return kernel.interpolate_rows(args, x, dt, cols_, split.first_row(task), split.last_row(task));
      }
      split.each(task, [&](std::int64_t r, std::int64_t, std::int64_t begin, std::int64_t end) {
        kernel.interpolate(args, x[r], dt[r], begin, end);
      });
    });
  }

 private:
  static std::vector<T> cast(const std::vector<double>& values) { return {values.begin(), values.end()}; }

  Split cut(bool by_row) const { return by_row ? Split(rows_, cols_) : Split(1, elements()); }

  template <class Body>
  void run(const Split& split, int reads, Body body) const {
    if (elements() == 0) return;
    parallel_for(split.tasks, elements() * (reads + 1) < PARALLEL_READS ? 1 : threads_, body);
  }

  void take(int j, const void* k) {
    if (!begun_) refuse("begin comes before the stages: the state at the start of the step is not known yet");
    if (j > known_) {
      refuse("slope " + std::to_string(j) + " was given before slope " + std::to_string(known_) + "; call the stages in order");
    }
    k_[j] = static_cast<const T*>(k);
    known_ = j + 1;
  }

  // out = y + dt sum_j coefficients[j] k[j]
  void advance(bool by_row, const T* coefficients, int stages, const double* dt, T* out) const {
    if (!by_row && !order_[stages].plain() && elements() < SERIAL_SUM) {
      return combine_groups(coefficients, stages, static_cast<T>(*dt), y_, out);
    }
    const Kernels<T>& kernel = kernels<T>();
    const Split split = cut(by_row);
    if (split.narrow()) {
      const Terms<T> terms = scaled_terms(k_, coefficients, stages, T(1), order_[stages].term.data());
      return run(split, stages, [&](std::int64_t task) {
        kernel.combine_rows(out, y_, terms, dt, cols_, split.first_row(task), split.last_row(task));
      });
    }
    run(split, stages, [&](std::int64_t task) {
      split.each(task, [&](std::int64_t r, std::int64_t, std::int64_t begin, std::int64_t end) {
        const Terms<T> terms = scaled_terms(k_, coefficients, stages, static_cast<T>(dt[r]), order_[stages].term.data());
        kernel.combine(out, y_, terms.count, terms.vector, terms.weight, begin, end);
      });
    });
  }

  // out = [base +] the sum of the groups, each summed on its own first; block by block, so that groups stay in L1.
  void combine_groups(const T* coefficients, int stages, T dt, const T* base, T* out) const {
    constexpr std::int64_t SIZE = 256;
    const SumOrder& order = order_[stages];
    const Kernels<T>& kernel = kernels<T>();
    alignas(64) T sums[MAX_STAGES][SIZE];
    for (std::int64_t begin = 0; begin < elements(); begin += SIZE) {
      const std::int64_t n = std::min(SIZE, elements() - begin);
      Terms<T> total;
      for (int g = 0, at = 0; g < order.groups; at += order.group[g++]) {
        Terms<T> group;
        for (int i = at; i < at + order.group[g]; ++i) {
          const int j = order.term[i];
          if (coefficients[j] != T(0)) group.add(k_[j] + begin, coefficients[j] * dt);
        }
        if (group.count == 0) continue;
        if (group.count == 1) {
          total.add(group.vector[0], group.weight[0]);
          continue;
        }
        kernel.combine(sums[g], nullptr, group.count, group.vector, group.weight, 0, n);
        total.add(sums[g], T(1));
      }
      kernel.combine(out + begin, base != nullptr ? base + begin : nullptr, total.count, total.vector, total.weight, 0, n);
    }
  }

  void refuse_input(const void* out, int slopes, const char* name) const {
    if (elements() == 0) return;
    bool input = out == y_;
    for (int j = 0; j < std::min(slopes, known_); ++j) input |= out == k_[j];
    if (input) refuse("`" + std::string(name) + "` is also an input; give it memory of its own");
  }

  void errors(bool by_row, Norm norm, const double* dt, const void* k, void* y1, bool write, T* out, double* err) {
    take(stages_ - 1, k);
    if (write) refuse_input(y1, stages_, "y1");
    const Split split = cut(by_row);
    if (err != nullptr && (elements() == 0 || b_error_.empty())) {
      std::fill(err, err + split.rows, 0.0);
      if (write) advance(by_row, b_.data(), stages_, dt, static_cast<T*>(y1));
      return;
    }
    scale(by_row, norm, dt, y1, write, out, err);
  }

  void scale(bool by_row, Norm norm, const double* dt, void* y1, bool write, T* out, double* err) {
    const Split split = cut(by_row);
    const Kernels<T>& kernel = kernels<T>();
    const auto arguments = [&](T step) {
      ErrorArgs<T> args{y_, static_cast<T*>(y1), write, {}, {}, tolerance_, out, norm};
      if (write) args.state = scaled_terms(k_, b_.data(), stages_, step, order_[stages_].term.data());
      if (!b_error_.empty()) args.error = scaled_terms(k_, b_error_.data(), stages_, step, order_[stages_].term.data());
      return args;
    };
    if (split.narrow()) {
      const ErrorArgs<T> args = arguments(T(1));
      return run(split, stages_ + 1, [&](std::int64_t task) {
        kernel.error_rows(args, dt, cols_, err, split.first_row(task), split.last_row(task));
      });
    }
    run(split, stages_ + 1, [&](std::int64_t task) {
      split.each(task, [&](std::int64_t r, std::int64_t piece, std::int64_t begin, std::int64_t end) {
        const double total = kernel.error(arguments(static_cast<T>(dt[r])), begin, end);
        if (split.pieces > 1) partial_[r * split.pieces + piece] = total;
        else if (err != nullptr) err[r] = finish_norm(norm, total, split.cols);
      });
    });
    if (split.pieces == 1 || err == nullptr) return;
    for (std::int64_t r = 0; r < split.rows; ++r) {
      double total = 0.0;
      for (std::int64_t p = 0; p < split.pieces; ++p) total = join(norm, total, partial_[r * split.pieces + p]);
      err[r] = finish_norm(norm, total, split.cols);
    }
  }

  const std::vector<T> c_, b_, b_error_, mid_;
  const int lanes_;
  std::vector<SumOrder> order_;  // of a sum over so many stages
  std::vector<T> ratios_;
  std::vector<std::vector<T>> a_;
  Tolerance<T> tolerance_;
  const T* y_ = nullptr;
  const T* k_[MAX_STAGES] = {};
  int known_ = 0;
  bool begun_ = false;
  std::vector<double> partial_;
};

}  // namespace

std::unique_ptr<Step> make_step(int itemsize, std::int64_t rows, std::int64_t cols, const Tableau& tableau, int threads,
                                int lanes) {
  check(tableau);
  if (itemsize == 4) return std::make_unique<StepOf<float>>(rows, cols, tableau, threads, lanes);
  return std::make_unique<StepOf<double>>(rows, cols, tableau, threads, lanes);
}

template <class T>
void combine(std::int64_t n, T* out, const T* base, const std::vector<const T*>& vectors, const std::vector<T>& weights,
             int threads) {
  const int count = static_cast<int>(vectors.size());
  const Kernels<T>& kernel = kernels<T>();
  const Split split(1, n);
  auto body = [&](std::int64_t task) {
    split.each(task, [&](std::int64_t, std::int64_t, std::int64_t begin, std::int64_t end) {
      kernel.combine(out, base, count, vectors.data(), weights.data(), begin, end);
    });
  };
  parallel_for(split.tasks, n * (count + 1) < PARALLEL_READS ? 1 : threads, body);
}

template void combine(std::int64_t, float*, const float*, const std::vector<const float*>&, const std::vector<float>&, int);
template void combine(std::int64_t, double*, const double*, const std::vector<const double*>&, const std::vector<double>&,
                      int);

}  // namespace fastode
