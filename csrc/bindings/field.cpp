// Field programs and the solves that run on them.
#include <pybind11/stl.h>

#include <memory>
#include <thread>
#include <unordered_map>
#include <variant>

#include "../field/lockstep.h"
#include "../field/rows.h"
#include "args.h"
#include "rows.h"

namespace fastode {
namespace {

using namespace field;

const std::unordered_map<std::string, Operator>& operators() {
  static const std::unordered_map<std::string, Operator> names = {
#define UNARY(name, expression) {#name, Operator::name},
#define BINARY(name, expression) {#name, Operator::name},
#include "../field/operators.def"
#undef UNARY
#undef BINARY
      {"where", Operator::where}, {"affine", Operator::affine},     {"gather", Operator::gather},
      {"sum", Operator::sum},     {"rows_sum", Operator::rows_sum}, {"vector", Operator::vector},
      {"lookup", Operator::lookup}, {"scatter", Operator::scatter}, {"literal", Operator::literal}};
  return names;
}

using PyValue = std::tuple<int, int, int, int>;  // area, slot, first feature, width
using PyInstruction = std::tuple<std::string, PyValue, std::vector<PyValue>, double, int, std::vector<std::array<int, 4>>, int>;

Value value_of(const PyValue& v) {
  return {static_cast<Area>(std::get<0>(v)), std::get<1>(v), std::get<2>(v), std::get<3>(v)};
}

std::vector<Value> values_of(const std::vector<PyValue>& list) {
  std::vector<Value> values;
  for (const PyValue& v : list) values.push_back(value_of(v));
  return values;
}

std::vector<Instruction> instructions_of(const py::handle& list) {
  std::vector<Instruction> instructions;
  for (const PyInstruction& given : list.cast<std::vector<PyInstruction>>()) {
    const auto& [name, out, inputs, number, matrix, runs, kept] = given;
    const auto found = operators().find(name);
    if (found == operators().end()) throw py::value_error("a field program has no operator `" + name + "`");
    Instruction i{found->second, value_of(out), values_of(inputs), number, matrix, {}, kept};
    for (const auto& r : runs) i.runs.push_back({r[0], r[1], r[2], r[3]});
    instructions.push_back(std::move(i));
  }
  return instructions;
}

// A program as fastode/compiler/lower.py describes it.
std::shared_ptr<Program> make_program(const py::dict& d) {
  auto p = std::make_shared<Program>();
  p->once = instructions_of(d["once"]);
  p->value = instructions_of(d["value"]);
  p->adjoint = instructions_of(d["adjoint"]);
  const auto slots = d["slots"].cast<std::vector<std::vector<std::int32_t>>>();
  if (slots.size() != AREAS) throw py::value_error("`slots` must have " + std::to_string(AREAS) + " lists");
  for (int a = 0; a < AREAS; ++a) p->slots[a] = slots[a];
  for (const auto& [constant, rows, cols, transposed] : d["matrices"].cast<std::vector<std::tuple<int, int, int, bool>>>()) {
    p->matrices.push_back({constant, rows, cols, transposed});
  }
  for (const auto& [constant, transposed, g, x] :
       d["matrix_gradients"].cast<std::vector<std::tuple<int, bool, PyValue, PyValue>>>()) {
    p->matrix_gradients.push_back({constant, transposed, value_of(g), value_of(x)});
  }
  for (const auto& [constant, g] : d["vector_gradients"].cast<std::vector<std::tuple<int, PyValue>>>()) {
    p->vector_gradients.push_back({constant, value_of(g)});
  }
  p->kept = d["kept"].cast<Index>();
  p->constants = d["constants"].cast<std::vector<Index>>();
  p->arguments = values_of(d["arguments"].cast<std::vector<PyValue>>());
  p->argument_cotangents = values_of(d["argument_cotangents"].cast<std::vector<PyValue>>());
  p->differentiated = d["differentiated"].cast<std::vector<std::int32_t>>();
  const auto optional = [&](const char* name, Value& value) {
    const py::object given = d[name];
    if (given.is_none()) return false;
    value = value_of(given.cast<PyValue>());
    return true;
  };
  p->has_time = optional("time", p->time);
  p->has_state = optional("state", p->state);
  p->has_cotangent = optional("cotangent", p->cotangent);
  p->has_state_cotangent = optional("state_cotangent", p->state_cotangent);
  p->has_time_cotangent = optional("time_cotangent", p->time_cotangent);
  p->out = value_of(d["out"].cast<PyValue>());
  return p;
}

std::shared_ptr<Method> make_method(const std::vector<double>& c, const std::vector<std::vector<double>>& a,
                                    const std::vector<double>& b, const std::vector<double>& error,
                                    const std::vector<double>& mid, bool ends_with_slope) {
  auto m = std::make_shared<Method>();
  m->stages = static_cast<int>(b.size());
  if (m->stages < 1 || m->stages > 32 || c.size() != b.size() || a.size() != b.size()) {
    throw py::value_error("a method has 1 to 32 stages, with as many nodes, weights and rows of `a`");
  }
  m->c = c;
  m->b = b;
  m->error = error.empty() ? std::vector<double>(b.size()) : error;
  m->mid = mid.empty() ? std::vector<double>(b.size()) : mid;
  m->a.assign(b.size() * b.size(), 0.0);
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() > i) throw py::value_error("row " + std::to_string(i) + " of `a` has more than " + std::to_string(i) + " entries");
    std::copy(a[i].begin(), a[i].end(), m->a.begin() + static_cast<std::ptrdiff_t>(i * b.size()));
  }
  m->ends_with_slope = ends_with_slope;
  return m;
}

// Runs Python's signal handlers while a solve is under way, in the thread that called.
struct Signals {
  std::thread::id caller = std::this_thread::get_id();

  static bool asked(void* context) {
    if (std::this_thread::get_id() != static_cast<Signals*>(context)->caller) return false;
    const py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }
};

// A program and a method at given addresses and sizes.
struct Call {
  std::shared_ptr<Program> program;
  std::shared_ptr<Method> method;
  int itemsize;
  Index rows, features;
  std::vector<Address> constants, arguments;
  int threads;
  bool time_is_float32;
};

template <class T>
class Bound {
 public:
  explicit Bound(const Call& call)
      : lanes_(choose_lanes<T>(call.rows, field_kernels<T>().vector_lanes)),
        setting_{*call.program, *call.method, Tiling(call.rows, lanes_, MOST_GROUPS), call.features,
                 check_threads(call.threads), pointers(call, call.arguments, true), call.time_is_float32},
        engine_(*call.program, lanes_, pointers(call, call.constants, false)) {}

  const Setting<T>& setting() const { return setting_; }
  const Engine<T>& engine() const { return engine_; }

 private:
  static std::vector<const T*> pointers(const Call& call, const std::vector<Address>& addresses, bool per_row) {
    const Program& p = *call.program;
    const std::size_t wanted = per_row ? p.arguments.size() : p.constants.size();
    if (addresses.size() != wanted) throw py::value_error("a field program has other constants or arguments");
    std::vector<const T*> result;
    for (std::size_t i = 0; i < wanted; ++i) {
      const Index count = per_row ? call.rows * p.arguments[i].width : p.constants[i];
      result.push_back(array<T>(addresses[i], count, per_row ? "arguments" : "constants"));
    }
    return result;
  }

  Index lanes_;
  Setting<T> setting_;
  Engine<T> engine_;
};

struct AnyRecord {
  std::variant<Record<float>, Record<double>> record;
  bool quartic = true;
};

// Moves the polynomials of all steps to [steps, coefficients, rows, features].
void take_pieces(AnyRecord& r, Address out) {
  std::visit(
      [&]<class T>(Record<T>& steps) {
        Index total = 0;
        for (const Buffer<T>& piece : steps.pieces) total += piece.size();
        T* to = array<T>(out, total, "out");
        for (const Buffer<T>& piece : steps.pieces) to = std::copy_n(piece.data(), piece.size(), to);
        steps.pieces.clear();
      },
      r.record);
}

py::tuple tuple_of(const Account& a) {
  return py::make_tuple(static_cast<int>(a.outcome), a.n_func, a.n_accepted, a.n_rejected, a.t, a.dt);
}

void check_parts(const std::vector<Index>& parts, Index features) {
  Index end = 0;
  for (const Index part : parts) {
    if (part <= end) throw py::value_error("`parts` must rise");
    end = part;
  }
  if (end != features) throw py::value_error("the last of `parts` must end at the last feature");
}

AdaptiveRule make_rule(std::vector<double> rtol, std::vector<double> atol, const std::array<double, 6>& limits,
                       double first_step, double max_steps, double max_total_steps, std::vector<Index> parts,
                       std::vector<double> stops) {
  if (rtol.empty() || rtol.size() != atol.size()) {
    throw py::value_error("there must be tolerances, as many relative as absolute ones");
  }
  return {std::move(rtol), std::move(atol), {limits[0], limits[1], limits[2], limits[3], limits[4], limits[5]},
          first_step,      max_steps,       max_total_steps, std::move(parts), std::move(stops)};
}

template <class T>
py::object adaptive(const Call& call, Address y0, const std::vector<double>& times, const AdaptiveRule& rule, Address out,
                    Index most_states, Index memory, bool shares_memory, bool dense) {
  const Bound<T> bound(call);
  const Index cells = call.rows * call.features;
  const T* from = array<T>(y0, cells, "y0");
  T* to = dense ? nullptr : array<T>(out, cells * static_cast<Index>(times.size()), "out");
  check_parts(rule.parts, call.features);
  if (rule.rtol.size() != 1 && static_cast<Index>(rule.rtol.size()) != call.features) {
    throw py::value_error("tolerances are one number, or one for each feature");
  }
  auto record = most_states > 0 || dense ? std::make_shared<AnyRecord>(AnyRecord{Record<T>{}, true}) : nullptr;
  if (record) {
    std::get<Record<T>>(record->record).most_states = most_states > 0 ? std::max<Index>(2, most_states) : 0;
    std::get<Record<T>>(record->record).memory = memory;
    std::get<Record<T>>(record->record).shares_memory = shares_memory;
    std::get<Record<T>>(record->record).dense = dense;
  }
  Signals signals;
  Account account;
  {
    const py::gil_scoped_release release;
    account = solve_adaptive<T>(bound.setting(), bound.engine(), from, times, rule, to,
                                record ? &std::get<Record<T>>(record->record) : nullptr, {&Signals::asked, &signals});
  }
  if (account.outcome == Outcome::INTERRUPTED) throw py::error_already_set();
  return py::make_tuple(tuple_of(account), record);
}

template <class T>
py::object grid(const Call& call, Address y0, const std::vector<double>& points, const std::vector<Index>& output_step,
                const std::vector<double>& output_x, const std::vector<int>& output_power, Address out, Index most_states,
                Index memory, bool shares_memory) {
  const Bound<T> bound(call);
  const Index cells = call.rows * call.features;
  if (points.empty() || output_step.size() != output_x.size() || output_step.size() != output_power.size()) {
    throw py::value_error("a grid has points, and outputs a step each");
  }
  const T* from = array<T>(y0, cells, "y0");
  T* to = array<T>(out, cells * static_cast<Index>(output_step.size()), "out");
  auto record = std::make_shared<AnyRecord>(AnyRecord{Record<T>{}, false});
  Record<T>& steps = std::get<Record<T>>(record->record);
  for (std::size_t o = 0; o < output_step.size(); ++o) {
    const Output output{output_step[o], output_x[o], output_power[o]};
    if (output.step < -1 || output.step >= static_cast<Index>(points.size()) - 1 || output.power >= pieces_of(false)) {
      throw py::value_error("an output lies in no step, or is no part of a straight line");
    }
    steps.outputs.push_back(output);
  }
  steps.most_states = most_states;
  steps.memory = memory;
  steps.shares_memory = shares_memory;
  Signals signals;
  Account account;
  {
    const py::gil_scoped_release release;
    account = solve_grid<T>(bound.setting(), bound.engine(), from, points, to, steps, {&Signals::asked, &signals});
  }
  if (account.outcome == Outcome::INTERRUPTED) throw py::error_already_set();
  return py::make_tuple(tuple_of(account), most_states > 0 ? py::cast(record) : py::none());
}

// Where gradients of the differentiated arguments and of the constants go; null for constants without.
template <class T>
std::pair<std::vector<T*>, std::vector<T*>> places_of_gradients(const Call& call, const std::vector<Address>& grad_arguments,
                                                                const std::vector<Address>& grad_constants) {
  const Program& p = *call.program;
  if (grad_arguments.size() != p.differentiated.size() || grad_constants.size() != p.constants.size()) {
    throw py::value_error("gradients are wanted for each differentiated argument and each constant (0 for none)");
  }
  std::vector<T*> arguments, constants;
  for (std::size_t i = 0; i < grad_arguments.size(); ++i) {
    arguments.push_back(array<T>(grad_arguments[i], call.rows * p.arguments[p.differentiated[i]].width, "grad_arguments"));
  }
  for (std::size_t i = 0; i < grad_constants.size(); ++i) {
    constants.push_back(grad_constants[i] == 0 ? nullptr : array<T>(grad_constants[i], p.constants[i], "grad_constants"));
  }
  std::vector<std::int32_t> needed;
  for (const MatrixGradient& m : p.matrix_gradients) needed.push_back(m.constant);
  for (const VectorGradient& v : p.vector_gradients) needed.push_back(v.constant);
  for (const std::int32_t constant : needed) {
    if (constants[constant] == nullptr) throw py::value_error("a differentiated constant has no place for its gradient");
  }
  return {arguments, constants};
}

template <class T>
py::tuple backward(const Call& call, const AnyRecord& record, Address grad_out, Address grad_y0,
                   const std::vector<Address>& grad_arguments, const std::vector<Address>& grad_constants, Address grad_points,
                   Address grad_x) {
  const Bound<T> bound(call);
  if (!std::holds_alternative<Record<T>>(record.record)) throw py::value_error("the record is of another dtype");
  const Record<T>& steps = std::get<Record<T>>(record.record);
  const Index cells = call.rows * call.features;
  const T* given = array<T>(grad_out, cells * static_cast<Index>(steps.outputs.size()), "grad_out");
  T* to = array<T>(grad_y0, cells, "grad_y0");
  const auto [arguments, constants] = places_of_gradients<T>(call, grad_arguments, grad_constants);
  GridGradients grid;
  const bool moves = grad_points != 0;
  if (moves && (record.quartic || !call.program->has_time_cotangent)) {
    throw py::value_error("gradients of times are those of a grid, by a program with a cotangent of the time");
  }
  Signals signals;
  Account account;
  {
    const py::gil_scoped_release release;
    account = sweep<T>(bound.setting(), bound.engine(), steps, record.quartic, given, to, arguments, constants,
                       moves ? &grid : nullptr, {&Signals::asked, &signals});
  }
  if (account.outcome == Outcome::INTERRUPTED) throw py::error_already_set();
  if (moves) {
    std::copy(grid.points.begin(), grid.points.end(), array<double>(grad_points, grid.points.size(), "grad_points"));
    std::copy(grid.x.begin(), grid.x.end(), array<double>(grad_x, grid.x.size(), "grad_x"));
  }
  return tuple_of(account);
}

struct AnyRowRecord {
  std::variant<std::vector<RowRecord<float>>, std::vector<RowRecord<double>>> rows;
};

// Copies starts and sizes of all steps to [steps] each, one row after the other, and moves their polynomials to [steps,
// coefficients, features].
void take_row_pieces(AnyRowRecord& r, Address t, Address dt, Address out) {
  std::visit(
      [&]<class T>(std::vector<RowRecord<T>>& rows) {
        Index steps = 0, total = 0;
        for (const RowRecord<T>& row : rows) {
          steps += row.steps();
          total += static_cast<Index>(row.pieces.size());
        }
        double* starts = array<double>(t, steps, "t");
        double* sizes = array<double>(dt, steps, "dt");
        T* to = array<T>(out, total, "out");
        for (RowRecord<T>& row : rows) {
          for (Index n = 0; n < row.steps(); ++n) *starts++ = row.t(n);
          sizes = std::copy(row.dt.begin(), row.dt.end(), sizes);
          to = std::copy(row.pieces.begin(), row.pieces.end(), to);
          row.pieces = std::vector<T>();
        }
      },
      r.rows);
}

template <class T>
py::object solve_each_row(const Call& call, const std::vector<Address>& arrays, const std::vector<double>& limits,
                          std::int64_t max_steps, bool choose_first, Address y, const std::array<Address, 2>& tolerances,
                          const std::array<Index, 2>& strides, const std::vector<Index>& parts,
                          const std::array<Address, 3>& outputs, Index count, Index most_states, bool dense) {
  const Bound<T> bound(call);
  const RowState state = row_state(call.rows, arrays);
  const Index cells = call.rows * call.features;
  const Index numbers = call.rows == 0 ? 0 : (call.rows - 1) * strides[0] + (call.features - 1) * strides[1] + 1;
  const RowTolerances<T> tolerance{array<T>(tolerances[0], numbers, "rtol"), array<T>(tolerances[1], numbers, "atol"), strides[0],
                                   strides[1]};
  const RowOutputTimes<T> times{array<double>(outputs[0], call.rows * (count + 1), "times"), count,
                                array<Index>(outputs[1], call.rows, "next"), array<T>(outputs[2], cells * count, "out")};
  check_parts(parts, call.features);
  const RowRule rule{row_limits(limits, max_steps), choose_first, parts};
  T* states = array<T>(y, cells, "y");
  auto record = most_states > 0 || dense ? std::make_shared<AnyRowRecord>(AnyRowRecord{std::vector<RowRecord<T>>()}) : nullptr;
  Signals signals;
  bool done;
  {
    const py::gil_scoped_release release;
    done = solve_rows<T>(bound.setting(), bound.engine(), state, rule, states, tolerance, times,
                         record ? &std::get<std::vector<RowRecord<T>>>(record->rows) : nullptr,
                         {most_states > 0 ? std::max<Index>(2, most_states) : 0, dense}, {&Signals::asked, &signals});
  }
  if (!done) throw py::error_already_set();
  return py::cast(record);
}

template <class T>
void backward_each_row(const Call& call, const AnyRowRecord& record, Address y, Address t_last, Address grad_out, Index count,
                       Address grad_pieces, Address grad_y, const std::vector<Address>& grad_arguments,
                       const std::vector<Address>& grad_constants) {
  const Bound<T> bound(call);
  const auto [arguments, constants] = places_of_gradients<T>(call, grad_arguments, grad_constants);
  if (!std::holds_alternative<std::vector<RowRecord<T>>>(record.rows)) throw py::value_error("the record is of another dtype");
  const auto& rows = std::get<std::vector<RowRecord<T>>>(record.rows);
  if (static_cast<Index>(rows.size()) != call.rows) throw py::value_error("the record is of another number of rows");
  const Index cells = call.rows * call.features;
  Index steps = 0;
  for (const RowRecord<T>& row : rows) steps += row.steps();
  const T* pieces = grad_pieces == 0 ? nullptr : array<T>(grad_pieces, steps * pieces_of(true) * call.features, "grad_pieces");
  Signals signals;
  bool done;
  {
    const py::gil_scoped_release release;
    done = sweep_rows<T>(bound.setting(), bound.engine(), rows, array<T>(y, cells, "y"), array<double>(t_last, call.rows, "t_last"),
                         array<T>(grad_out, cells * count, "grad_out"), count, pieces, array<T>(grad_y, cells, "grad_y"),
                         arguments, constants, {&Signals::asked, &signals});
  }
  if (!done) throw py::error_already_set();
}

#define BY_ITEMSIZE(call, f, ...) ((call).itemsize == 4 ? f<float>(call, __VA_ARGS__) : f<double>(call, __VA_ARGS__))

}  // namespace

void register_field(py::module_& m) {
  using py::arg;
  py::class_<Program, std::shared_ptr<Program>>(m, "FieldProgram", "A lowered field program.").def(py::init(&make_program));
  py::class_<Method, std::shared_ptr<Method>>(m, "FieldMethod", "A Butcher tableau.")
      .def(py::init(&make_method), arg("c"), arg("a"), arg("b"), arg("error"), arg("mid"), arg("ends_with_slope"));
  py::class_<AdaptiveRule>(m, "FieldSteps", "How steps are chosen and judged.")
      .def(py::init(&make_rule), arg("rtol"), arg("atol"), arg("limits"), arg("first_step"), arg("max_steps"),
           arg("max_total_steps"), arg("parts"), arg("stops"));
  py::class_<AnyRecord, std::shared_ptr<AnyRecord>>(m, "FieldRecord", "The accepted steps of a solve.")
      .def_property_readonly("steps", [](const AnyRecord& r) {
        return std::visit([](const auto& steps) { return static_cast<Index>(steps.t.size()); }, r.record);
      })
      .def_property_readonly("states", [](const AnyRecord& r) {
        return std::visit([](const auto& steps) { return static_cast<Index>(steps.states.size()); }, r.record);
      })
      .def_property_readonly("product_bytes", [](const AnyRecord& r) {
        return std::visit([](const auto& steps) { return steps.products.bytes(); }, r.record);
      })
      .def_property_readonly("ends", [](const AnyRecord& r) {
        return std::visit([](const auto& steps) { return steps.t1; }, r.record);
      })
      .def("take_pieces", &take_pieces, arg("out"));
  py::class_<AnyRowRecord, std::shared_ptr<AnyRowRecord>>(m, "FieldRowRecord", "The accepted steps of each row.")
      .def_property_readonly("states", [](const AnyRowRecord& r) {
        return std::visit(
            [](const auto& rows) {
              Index kept = 0;
              for (const auto& row : rows) kept += (row.steps() + row.every - 1) / row.every;
              return kept;
            },
            r.rows);
      })
      .def("take_pieces", &take_row_pieces, arg("t"), arg("dt"), arg("out"));
  py::class_<Call>(m, "FieldCall", "A program, a method, and the addresses of a call.")
      .def(py::init([](std::shared_ptr<Program> program, std::shared_ptr<Method> method, int itemsize, Index rows,
                       Index features, std::vector<Address> constants, std::vector<Address> arguments, int threads,
                       bool time_is_float32) {
             check_itemsize(itemsize);
             check_shape(rows, features);
             return Call{std::move(program), std::move(method), itemsize, rows, features, std::move(constants),
                         std::move(arguments), threads, time_is_float32};
           }),
           arg("program"), arg("method"), arg("itemsize"), arg("rows"), arg("features"), arg("constants"), arg("arguments"),
           arg("threads"), arg("time_is_float32"))
      .def("adaptive",
           [](const Call& call, Address y0, const std::vector<double>& times, const AdaptiveRule& rule, Address out,
              Index most_states, Index memory, bool shares_memory, bool dense) {
             return BY_ITEMSIZE(call, adaptive, y0, times, rule, out, most_states, memory, shares_memory, dense);
           })
      .def("grid",
           [](const Call& call, Address y0, const std::vector<double>& points, const std::vector<Index>& output_step,
              const std::vector<double>& output_x, const std::vector<int>& output_power, Address out, Index most_states,
              Index memory, bool shares_memory) {
             return BY_ITEMSIZE(call, grid, y0, points, output_step, output_x, output_power, out, most_states, memory,
                                shares_memory);
           })
      .def("sweep", [](const Call& call, const AnyRecord& record, Address grad_out, Address grad_y0,
                       const std::vector<Address>& grad_arguments, const std::vector<Address>& grad_constants,
                       Address grad_points, Address grad_x) {
        return BY_ITEMSIZE(call, backward, record, grad_out, grad_y0, grad_arguments, grad_constants, grad_points, grad_x);
      })
      .def("rows",
           [](const Call& call, const std::vector<Address>& arrays, const std::vector<double>& limits, std::int64_t max_steps,
              bool choose_first, Address y, const std::array<Address, 2>& tolerances, const std::array<Index, 2>& strides,
              const std::vector<Index>& parts, const std::array<Address, 3>& outputs, Index count, Index most_states,
              bool dense) {
             return BY_ITEMSIZE(call, solve_each_row, arrays, limits, max_steps, choose_first, y, tolerances, strides, parts,
                                outputs, count, most_states, dense);
           })
      .def("sweep_rows", [](const Call& call, const AnyRowRecord& record, Address y, Address t_last, Address grad_out, Index count,
                            Address grad_pieces, Address grad_y, const std::vector<Address>& grad_arguments,
                            const std::vector<Address>& grad_constants) {
        BY_ITEMSIZE(call, backward_each_row, record, y, t_last, grad_out, count, grad_pieces, grad_y, grad_arguments,
                    grad_constants);
      });
}

}  // namespace fastode
