#include <pybind11/stl.h>

#include <cstdlib>
#include <optional>

#include "../cpu/dispatch.h"
#include "../cpu/step.h"
#include "args.h"

namespace fastode {
namespace {

// Taking the lock back may mean waiting for another thread's turn, so small calls keep it; from about this much work on
// (4 microseconds in float32) other Python threads should run meanwhile.
constexpr std::int64_t GIL_ELEMENTS = 65536;

class Unlocked {
 public:
  explicit Unlocked(std::int64_t work) {
    if (work > GIL_ELEMENTS) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
};

// The Python class: a Step whose addresses have been checked.
class PyStep {
 public:
  PyStep(int itemsize, std::int64_t rows, std::int64_t cols, const Tableau& tableau, int threads, int lanes)
      : itemsize_(itemsize) {
    check_itemsize(itemsize);
    check_shape(rows, cols);
    step_ = make_step(itemsize, rows, cols, tableau, check_threads(threads), check_lanes(lanes));
  }

  void tolerance(double rtol, double atol) { step_->tolerance(rtol, atol); }
  void tolerance_arrays(Address rtol, Address atol) {
    step_->tolerance_arrays(state(rtol, "rtol"), state(atol, "atol"));
  }
  void times(double t0, double dt, double t1, Address out) const {
    step_->times(1, &t0, &dt, &t1, pointer(out, step_->stages(), itemsize_, "out"));
  }
  void times_rows(Address t0, Address dt, Address t1, Address out) const {
    step_->times(step_->rows(), rows(t0, "t0"), rows(dt, "dt"), rows(t1, "t1"),
                 pointer(out, step_->stages() * step_->rows(), itemsize_, "out"));
  }
  void begin(Address y) { step_->begin(state(y, "y")); }

  void slope(int j, Address k) { step_->slope(j, state(k, "k")); }

  void stage(int i, double dt, Address k, Address out) {
    void *slope = state(k, "k"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->stage(false, i, &dt, slope, target);
  }

  template <Norm norm>
  double finish(double dt, Address k, Address y1, bool write) {
    void *slope = state(k, "k"), *end = state(y1, "y1");
    double err = 0.0;
    const Unlocked unlocked(work());
    step_->finish(false, norm, &dt, slope, end, write, &err);
    return err;
  }

  double mean_square(double dt, Address k, Address y1, bool write) {
    void *slope = state(k, "k"), *end = state(y1, "y1");
    const Unlocked unlocked(work());
    return step_->mean_square(&dt, slope, end, write);
  }

  double mean_square_of(Address y, Address plus, Address minus) {
    void *at = state(y, "y"), *first = state(plus, "plus");
    void* second = minus == 0 ? nullptr : state(minus, "minus");
    const Unlocked unlocked(work());
    return step_->mean_square_of(at, first, second);
  }

  void scaled_error(double dt, Address k, Address y1, bool write, Address out) {
    void *slope = state(k, "k"), *end = state(y1, "y1"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->scaled_error(false, &dt, slope, end, write, target);
  }

  void interpolate(double x, double dt, Address y1, Address out) {
    void *end = state(y1, "y1"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->interpolate(false, &x, &dt, end, target);
  }

  void stage_rows(int i, Address dt, Address k, Address out) {
    const double* steps = rows(dt, "dt");
    void *slope = state(k, "k"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->stage(true, i, steps, slope, target);
  }

  void finish_rows(Address dt, Address k, Address y1, bool write, Address err) {
    const double* steps = rows(dt, "dt");
    void *slope = state(k, "k"), *end = state(y1, "y1");
    double* errors = rows(err, "err");
    const Unlocked unlocked(work());
    step_->finish(true, Norm::rms, steps, slope, end, write, errors);
  }

  void scaled_error_rows(Address dt, Address k, Address y1, bool write, Address out) {
    const double* steps = rows(dt, "dt");
    void *slope = state(k, "k"), *end = state(y1, "y1"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->scaled_error(true, steps, slope, end, write, target);
  }

  void interpolate_rows(Address x, Address dt, Address y1, Address out) {
    const double *fractions = rows(x, "x"), *steps = rows(dt, "dt");
    void *end = state(y1, "y1"), *target = state(out, "out");
    const Unlocked unlocked(work());
    step_->interpolate(true, fractions, steps, end, target);
  }

 private:
  void* state(Address address, const char* name) const { return pointer(address, step_->elements(), itemsize_, name); }
  double* rows(Address address, const char* name) const { return array<double>(address, step_->rows(), name); }
  std::int64_t work() const { return step_->elements() * step_->stages(); }

  int itemsize_;
  std::unique_ptr<Step> step_;
};

template <class T>
void combine_as(std::int64_t n, Address out, Address base, const std::vector<Address>& vectors,
                const std::vector<double>& weights, int threads) {
  T* target = array<T>(out, n, "out");
  const T* start = array<T>(base, 0, "base");
  std::vector<const T*> terms;
  std::vector<T> factors(weights.begin(), weights.end());
  for (Address vector : vectors) {
    terms.push_back(array<T>(vector, n, "vectors"));
    if (n > 0 && terms.back() == target) throw py::value_error("`out` is also one of `vectors`; give it memory of its own");
  }
  const Unlocked unlocked(n * static_cast<std::int64_t>(vectors.size() + 1));
  combine(n, target, start, terms, factors, threads);
}

void combine_any(int itemsize, std::int64_t n, Address out, Address base, const std::vector<Address>& vectors,
                 const std::vector<double>& weights, int threads) {
  check_itemsize(itemsize);
  check_size(n, "n");
  if (vectors.size() != weights.size()) {
    throw py::value_error("`vectors` has " + std::to_string(vectors.size()) + " entries and `weights` " +
                          std::to_string(weights.size()) + "; they must be as many");
  }
  threads = check_threads(threads);
  if (itemsize == 4) combine_as<float>(n, out, base, vectors, weights, threads);
  else combine_as<double>(n, out, base, vectors, weights, threads);
}

}  // namespace

void register_targets(py::module_& m) {
  if (const char* wanted = std::getenv("FASTODE_CPU_TARGET"); wanted != nullptr && *wanted != '\0') {
    try {
      select_target(wanted);
    } catch (const std::invalid_argument& error) {
      throw py::import_error("FASTODE_CPU_TARGET: " + std::string(error.what()));
    }
  }
  m.def("target", &target_name);
  m.def("targets", &supported_targets);
  m.def("select_target", &select_target, py::arg("name"));
}

void register_kernels(py::module_& m) {
  using py::arg;
  py::class_<Tableau>(m, "Tableau", "Coefficients of an explicit Runge-Kutta method.")
      .def(py::init<std::vector<double>, std::vector<std::vector<double>>, std::vector<double>, std::vector<double>,
                    std::vector<double>>(),
           arg("c"), arg("a"), arg("b"), arg("b_error"), arg("mid"));
  py::class_<PyStep>(m, "Step", "The kernels of one Runge-Kutta step for one tensor.")
      .def(py::init<int, std::int64_t, std::int64_t, const Tableau&, int, int>(), arg("itemsize"), arg("rows"),
           arg("cols"), arg("tableau"), arg("threads"), arg("lanes") = 0)
      .def("tolerance", &PyStep::tolerance, arg("rtol"), arg("atol"))
      .def("tolerance_arrays", &PyStep::tolerance_arrays, arg("rtol"), arg("atol"))
      .def("times", &PyStep::times, arg("t0"), arg("dt"), arg("t1"), arg("out"))
      .def("times_rows", &PyStep::times_rows, arg("t0"), arg("dt"), arg("t1"), arg("out"))
      .def("begin", &PyStep::begin, arg("y"))
      .def("slope", &PyStep::slope, arg("j"), arg("k"))
      .def("stage", &PyStep::stage, arg("i"), arg("dt"), arg("k"), arg("out"))
      .def("finish", &PyStep::finish<Norm::rms>, arg("dt"), arg("k"), arg("y1"), arg("write"))
      .def("mean_square", &PyStep::mean_square, arg("dt"), arg("k"), arg("y1"), arg("write"))
      .def("mean_square_of", &PyStep::mean_square_of, arg("y"), arg("plus"), arg("minus"))
      .def("max_error", &PyStep::finish<Norm::max>, arg("dt"), arg("k"), arg("y1"), arg("write"))
      .def("scaled_error", &PyStep::scaled_error, arg("dt"), arg("k"), arg("y1"), arg("write"), arg("out"))
      .def("interpolate", &PyStep::interpolate, arg("x"), arg("dt"), arg("y1"), arg("out"))
      .def("stage_rows", &PyStep::stage_rows, arg("i"), arg("dt"), arg("k"), arg("out"))
      .def("finish_rows", &PyStep::finish_rows, arg("dt"), arg("k"), arg("y1"), arg("write"), arg("err"))
      .def("scaled_error_rows", &PyStep::scaled_error_rows, arg("dt"), arg("k"), arg("y1"), arg("write"), arg("out"))
      .def("interpolate_rows", &PyStep::interpolate_rows, arg("x"), arg("dt"), arg("y1"), arg("out"));
  m.def("combine", &combine_any, arg("itemsize"), arg("n"), arg("out"), arg("base"), arg("vectors"), arg("weights"),
        arg("threads"));
}

}  // namespace fastode
