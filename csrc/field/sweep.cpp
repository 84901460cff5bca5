// The discrete adjoint of a recorded solve, and solves along a given grid: tiles do not wait for each other.
//
//   lambda_n = (d y_{n+1} / d y_n)' lambda_{n+1} + sum over outputs in step n of (d out / d y_n)' g_out
//
// Each step's stages are evaluated again from its first state (which is recorded, or comes from taking steps again since a
// recorded one), all of them are kept in the workspace, and the method is run backwards over them. Where the last slope of a
// step is the first of the next, it is evaluated and differentiated once, with the cotangents of both: at the step's end where
// it is the field's slope there, as the last stage (of the step before) where it is not. Chosen step sizes are constants; the points
// of a grid need not be.
// Reference: Zhuang et al., "Adaptive checkpoint adjoint for gradient estimation in neural ODE", 2020.
#include <atomic>
#include <cmath>

#include "../cpu/threads.h"
#include "evaluator.h"
#include "gradients.h"
#include "lockstep.h"

namespace fastode::field {
namespace {

// The outputs of a step and what they take from its slopes.
template <class T>
struct StepOutputs {
  std::vector<Index> output;
  std::vector<std::vector<double>> weights;
  std::vector<bool> at_end, has_state;
};

template <class T>
std::vector<StepOutputs<T>> outputs_of_steps(const Record<T>& record, const Method& method, bool quartic) {
  std::vector<StepOutputs<T>> steps(record.t.size());
  for (std::size_t o = 0; o < record.outputs.size(); ++o) {
    const Output& output = record.outputs[o];
    if (output.step < 0) continue;
    StepOutputs<T>& step = steps[output.step];
    step.output.push_back(static_cast<Index>(o));
    step.weights.push_back(output.power < 0 ? output_weights(method, output.x, quartic)
                                            : piece_weights(method, output.power, quartic));
    step.at_end.push_back(output.is_state());
    step.has_state.push_back(output.has_state());
  }
  return steps;
}

// One tile, from the last step to the first.
template <class T>
class TileSweep {
 public:
  TileSweep(const Setting<T>& setting, const Engine<T>& engine, const Record<T>& record,
            const std::vector<StepOutputs<T>>& outputs, const std::vector<Weights<T>>& a, const T* grad_out)
      : s_(setting),
        engine_(engine),
        record_(record),
        outputs_(outputs),
        a_(a),
        grad_out_(grad_out),
        size_(padded_to(setting.features * engine.lanes, PAD)),
        stages_(setting.method.stages),
        arrays_(record.keeps_slopes ? 2 : 1),
        b_(setting.method.b.data(), stages_),
        memory_((stages_ + 3) * size_),
        segment_((record.every > 1 ? record.every * arrays_ + stages_ : 0) * size_),
        lambda_(memory_.data() + stages_ * size_),
        given_(lambda_ + size_),
        carry_(given_ + size_) {
    for (const std::int32_t argument : engine.program.differentiated) {
      argument_sums_.emplace_back(padded_to(engine.program.arguments[argument].width * engine.lanes, PAD));
    }
  }

  // `lambda` is the cotangent of the initial state when done.
  const T* run(Evaluator<T>& e, Index tile, Gradients<T>& gradients, GridGradients* of_grid, Index& n_func, Stop& stop) {
    std::fill_n(memory_.data(), memory_.size(), T(0));
    for (Buffer<T>& sums : argument_sums_) std::fill_n(sums.data(), sums.size(), T(0));
    const Index steps = static_cast<Index>(record_.t.size());
    const bool shares = s_.method.ends_with_slope, chained = record_.keeps_slopes;
    const int last = shares ? stages_ - 1 : stages_;
    for (Index n = steps - 1; n >= 0; --n) {
      if (n % 64 == 63 && stop.check()) return lambda_;
      const StepOutputs<T>& outs = outputs_[n];
      const T dt = static_cast<T>(record_.dt[n]);
      if (shares) {
        // the slope at the step's end, from the outputs inside the step and from the next step
        bool wanted = false;
        for (std::size_t o = 0; o < outs.output.size(); ++o) {
          const double w = outs.weights[o][stages_ - 1];
          if (outs.at_end[o] || w == 0.0) continue;
          load_cotangent(output(outs.output[o]), s_.features, s_.tiling, tile, given_);
          add(slope(0), given_, static_cast<T>(w), dt, s_.features);
          wanted = true;
        }
        if (n < steps - 1 || wanted) {
          if (n == steps - 1) {
            e.slope_at(record_.last.data() + tile * size_, record_.t1[n], 0, kept(n + 1, 0, tile));
            ++n_func;
          }
          pull(e, slope(0), 0, gradients, lambda_);
        }
      }
      // stages again
      const T* y = state(e, n, tile, last, n_func);
      const T* k[MAX_FIELD_STAGES];
      const bool evaluates_first = !chained || n == 0;
      k[0] = evaluates_first ? e.slope_at(y, record_.t[n], 0, kept(n, 0, tile)) : y + size_;
      for (int i = 1; i < last; ++i) {
        k[i] = e.slope_of(y, a_[i], k, dt, s_.stage_time(i, record_.t[n], record_.dt[n], record_.t1[n]), i, kept(n, i, tile));
      }
      n_func += evaluates_first ? last : last - 1;
      // the method backwards
      if (chained) std::memcpy(slope(last - 1), slope(0), size_ * sizeof(T));
      std::fill_n(memory_.data(), (chained ? last - 1 : stages_) * size_, T(0));
      std::fill_n(carry_, size_, T(0));
      for (std::size_t o = 0; o < outs.output.size(); ++o) {
        load_cotangent(output(outs.output[o]), s_.features, s_.tiling, tile, given_);
        if (outs.at_end[o]) {
          add(lambda_, given_, T(1), T(1), s_.features);
          continue;
        }
        for (int j = 0; j < last; ++j) {
          if (outs.weights[o][j] != 0.0) add(slope(j), given_, static_cast<T>(outs.weights[o][j]), dt, s_.features);
        }
        if (of_grid != nullptr) of_grid->x[outs.output[o]] += record_.dt[n] * moved_by_fraction(given_, k);
        if (outs.has_state[o]) add(carry_, given_, T(1), T(1), s_.features);
      }
      for (int j = 0; j < b_.count; ++j) add(slope(b_.stage[j]), lambda_, b_.weight[j], dt, s_.features);
      add(lambda_, carry_, T(1), T(1), s_.features);
      for (int i = last - 1; i >= 1; --i) {
        const T* g = pull(e, slope(i), i, gradients, lambda_);
        if (of_grid != nullptr) move_stage(e, n, i, k[i], *of_grid);
        for (int j = 0; j < a_[i].count; ++j) add(slope(a_[i].stage[j]), g, a_[i].weight[j], dt, e.seen());
      }
      if (n == 0 || !(shares || chained)) pull(e, slope(0), 0, gradients, lambda_);
      if (of_grid != nullptr) move_stage(e, n, 0, k[0], *of_grid);
    }
    for (std::size_t o = 0; o < record_.outputs.size(); ++o) {
      if (record_.outputs[o].step >= 0) continue;
      load_cotangent(output(static_cast<Index>(o)), s_.features, s_.tiling, tile, given_);
      add(lambda_, given_, T(1), T(1), s_.features);
    }
    return lambda_;
  }

  const std::vector<Buffer<T>>& argument_sums() const { return argument_sums_; }

 private:
  T* slope(int i) const { return memory_.data() + i * size_; }

  // The products of an evaluation, if they were kept.
  Products<T> kept(Index step, int stage, Index tile) const { return {record_.products.at(step, stage, tile), true}; }

  // Where step n began; its first slope follows if it is kept.
  const T* state(Evaluator<T>& e, Index n, Index tile, int last, Index& n_func) {
    const Index every = record_.every, start = n / every * every;
    const T* recorded = record_.states[start / every].data() + tile * arrays_ * size_;
    if (n == start) return recorded;
    const bool first_of_segment = n == start + every - 1 || n == static_cast<Index>(record_.t.size()) - 1;
    if (first_of_segment) {
      std::memcpy(segment_.data(), recorded, arrays_ * size_ * sizeof(T));
      const T* k[MAX_FIELD_STAGES];
      for (int i = 0; i < last; ++i) k[i] = segment_.data() + (every * arrays_ + i) * size_;
      for (Index m = start; m < n; ++m) {
        const T* y = segment_.data() + (m - start) * arrays_ * size_;
        T* y1 = segment_.data() + (m + 1 - start) * arrays_ * size_;
        const T dt = static_cast<T>(record_.dt[m]);
        if (record_.keeps_slopes) e.copy(const_cast<T*>(k[0]), y + size_, s_.features);
        for (int i = arrays_ - 1; i < last; ++i) {
          const double t = s_.stage_time(i, record_.t[m], record_.dt[m], record_.t1[m]);
          e.copy(const_cast<T*>(k[i]), i == 0 ? e.slope_at(y, t, 0) : e.slope_of(y, a_[i], k, dt, t, 0), s_.features);
        }
        e.combine(y1, y, b_, k, dt, s_.features);
        if (record_.keeps_slopes) e.copy(y1 + size_, k[last - 1], s_.features);
        n_func += last - (arrays_ - 1);
      }
    }
    return segment_.data() + (n - start) * arrays_ * size_;
  }
  const T* output(Index o) const { return grad_out_ + o * s_.tiling.rows * s_.features; }

  void add(T* out, const T* g, T w, T dt, Index features) const {
    engine_.kernels.add_scaled(out, g, w, {&dt, false}, features, engine_.lanes);
  }

  // The vector-Jacobian product of the evaluation in `slot`; its part for the state is added to `total` and returned.
  const T* pull(Evaluator<T>& e, const T* cotangent, Index slot, Gradients<T>& gradients, T* total) {
    const Program& p = engine_.program;
    const Workspace<T>& w = e.workspace();
    if (p.has_cotangent) e.copy(w.at(p.cotangent, slot), cotangent, s_.features);
    w.run_adjoint(slot);
    gradients.add(w, slot);
    for (std::size_t a = 0; a < argument_sums_.size(); ++a) {
      const Value& v = p.argument_cotangents[a];
      add(argument_sums_[a].data(), w.at(v, slot), T(1), T(1), v.width);
    }
    const T* g = w.at(p.state_cotangent, slot);
    add(total, g, T(1), T(1), e.seen());
    return g;
  }

  double dot(const T* a, const T* b) const {
    double sum = 0.0;
    for (Index i = 0; i < s_.features * engine_.lanes; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  }

  // How an output moves, in a step's length, with its fraction of the step: along the mean slope.
  double moved_by_fraction(const T* cotangent, const T* const* k) const {
    double sum = 0.0;
    for (int j = 0; j < b_.count; ++j) sum += static_cast<double>(b_.weight[j]) * dot(cotangent, k[b_.stage[j]]);
    return sum;
  }

  // What the ends of step n are to a stage whose cotangent is whole: its slope counts by the length of the step, and is taken at
  // a time between them.
  void move_stage(Evaluator<T>& e, Index n, int i, const T* k, GridGradients& of_grid) const {
    const double length = dot(slope(i), k) / record_.dt[n];
    const double time = static_cast<double>(*e.workspace().at(engine_.program.time_cotangent, i));
    of_grid.points[n] += (1.0 - s_.method.c[i]) * time - length;
    of_grid.points[n + 1] += s_.method.c[i] * time + length;
  }

  const Setting<T>& s_;
  const Engine<T>& engine_;
  const Record<T>& record_;
  const std::vector<StepOutputs<T>>& outputs_;
  const std::vector<Weights<T>>& a_;
  const T* grad_out_;
  Index size_;
  int stages_, arrays_;  // arrays a state is kept in
  Weights<T> b_;
  Buffer<T> memory_;
  Buffer<T> segment_;
  T *lambda_, *given_, *carry_;
  std::vector<Buffer<T>> argument_sums_;
};

}  // namespace

template <class T>
Account sweep(const Setting<T>& setting, const Engine<T>& engine, const Record<T>& record, bool quartic, const T* grad_out,
              T* grad_y0, const std::vector<T*>& grad_arguments, const std::vector<T*>& grad_constants, GridGradients* grad_grid,
              Interrupt interrupt) {
  const std::vector<Weights<T>> a = stage_weights<T>(setting.method);
  const std::vector<StepOutputs<T>> outputs = outputs_of_steps(record, setting.method, quartic);
  Workspaces<T> pool(engine, setting.method.stages);
  std::vector<std::unique_ptr<Gradients<T>>> groups(setting.tiling.groups);
  std::vector<GridGradients> grids;
  if (grad_grid != nullptr) {
    *grad_grid = {std::vector<double>(record.t.size() + 1), std::vector<double>(record.outputs.size())};
    grids.assign(setting.tiling.groups, *grad_grid);
  }
  std::vector<Index> n_func(setting.tiling.groups);
  Stop stop(interrupt);
  auto task = [&](Index group) {
    groups[group] = std::make_unique<Gradients<T>>(engine);
    Evaluator<T> e(setting, engine, pool);
    TileSweep<T> tile_sweep(setting, engine, record, outputs, a, grad_out);
    for (Index i = setting.tiling.first(group); i < setting.tiling.first(group + 1) && !stop; ++i) {
      e.begin_tile(i);
      n_func[group] = 0;
      const T* lambda = tile_sweep.run(e, i, *groups[group], grids.empty() ? nullptr : &grids[group], n_func[group], stop);
      store_tile(lambda, setting.features, setting.tiling, i, grad_y0);
      for (std::size_t k = 0; k < grad_arguments.size(); ++k) {
        const Value& v = engine.program.arguments[engine.program.differentiated[k]];
        store_tile(tile_sweep.argument_sums()[k].data(), v.width, setting.tiling, i, grad_arguments[k]);
      }
      stop.check();
    }
  };
  parallel_for(setting.tiling.groups, setting.threads, task);
  for (const auto& group : groups) group->add_to(grad_constants);
  for (const GridGradients& grid : grids) {
    for (std::size_t i = 0; i < grid.points.size(); ++i) grad_grid->points[i] += grid.points[i];
    for (std::size_t i = 0; i < grid.x.size(); ++i) grad_grid->x[i] += grid.x[i];
  }
  Account account;
  account.n_func = n_func[0];
  if (stop) account.outcome = Outcome::INTERRUPTED;
  return account;
}

template <class T>
Account solve_grid(const Setting<T>& setting, const Engine<T>& engine, const T* y0, const std::vector<double>& points, T* out,
                   Record<T>& record, Interrupt interrupt) {
  const Index steps = static_cast<Index>(points.size()) - 1, size = padded_to(setting.features * engine.lanes, PAD);
  const int stages = setting.method.stages;
  record.t.assign(points.begin(), points.end() - 1);
  record.t1.assign(points.begin() + 1, points.end());
  for (Index n = 0; n < steps; ++n) record.dt.push_back(setting.round_time(record.t1[n] - record.t[n]));
  const bool keep = record.most_states > 0;
  if (keep) {
    record.every = std::max<Index>(1, (steps + record.most_states - 1) / record.most_states);
    for (Index n = 0; n < steps; n += record.every) record.states.emplace_back(setting.tiling.tiles * size);
    record.last = Buffer<T>(setting.tiling.tiles * size);
    record.products = KeptProducts<T>(engine, setting.tiling.tiles, stages, false, record.shares_memory);
    const Index room = record.room_for_products();
    for (Index n = 0; n < steps; ++n) record.products.begin_step(n, room);
  }
  const auto keep_state = [&](const T* y, Index n, Index tile) {
    if (!keep || (n < steps && n % record.every != 0)) return;
    std::memcpy((n < steps ? record.states[n / record.every] : record.last).data() + tile * size, y, size * sizeof(T));
  };
  const std::vector<Weights<T>> a = stage_weights<T>(setting.method);
  const Weights<T> b(setting.method.b.data(), stages);
  const std::vector<StepOutputs<T>> outputs = outputs_of_steps(record, setting.method, false);
  Workspaces<T> pool(engine, 1);
  Stop stop(interrupt);
  auto task = [&](Index group) {
    Evaluator<T> e(setting, engine, pool);
    const Buffer<T> memory((stages + 3) * size);
    const T* k[MAX_FIELD_STAGES];
    for (int i = 0; i < stages; ++i) k[i] = memory.data() + i * size;
    T* y = memory.data() + stages * size;
    T* y1 = y + size;
    T* state = y1 + size;
    for (Index tile = setting.tiling.first(group); tile < setting.tiling.first(group + 1) && !stop; ++tile) {
      e.begin_tile(tile);
      load_tile(y0, setting.features, setting.tiling, tile, y);
      for (std::size_t o = 0; o < record.outputs.size(); ++o) {
        if (record.outputs[o].step < 0) store_tile(y, setting.features, setting.tiling, tile, out + o * setting.tiling.rows * setting.features);
      }
      keep_state(y, 0, tile);
      for (Index n = 0; n < steps; ++n) {
        const T dt = static_cast<T>(record.dt[n]);
        for (int i = 0; i < stages; ++i) {
          const double t = setting.stage_time(i, record.t[n], record.dt[n], record.t1[n]);
          const Products<T> products{record.products.at(n, i, tile)};
          e.copy(const_cast<T*>(k[i]), i == 0 ? e.slope_at(y, t, 0, products) : e.slope_of(y, a[i], k, dt, t, 0, products),
                 setting.features);
        }
        e.combine(y1, y, b, k, dt, setting.features);
        for (std::size_t o = 0; o < outputs[n].output.size(); ++o) {
          const T* found = y1;
          if (!outputs[n].at_end[o]) {
            const T* from = outputs[n].has_state[o] ? y : nullptr;
            e.combine(state, from, Weights<T>(outputs[n].weights[o].data(), stages), k, dt, setting.features);
            found = state;
          }
          store_tile(found, setting.features, setting.tiling, tile,
                     out + outputs[n].output[o] * setting.tiling.rows * setting.features);
        }
        std::swap(y, y1);
        keep_state(y, n + 1, tile);
        if (n % 64 == 63 && stop.check()) return;
      }
      stop.check();
    }
  };
  parallel_for(setting.tiling.groups, setting.threads, task);
  Account account;
  account.n_func = steps * stages;
  account.n_accepted = steps;
  account.t = points.back();
  if (stop) account.outcome = Outcome::INTERRUPTED;
  return account;
}

template Account sweep<float>(const Setting<float>&, const Engine<float>&, const Record<float>&, bool, const float*, float*,
                              const std::vector<float*>&, const std::vector<float*>&, GridGradients*, Interrupt);
template Account sweep<double>(const Setting<double>&, const Engine<double>&, const Record<double>&, bool, const double*,
                               double*, const std::vector<double*>&, const std::vector<double*>&, GridGradients*, Interrupt);
template Account solve_grid<float>(const Setting<float>&, const Engine<float>&, const float*, const std::vector<double>&,
                                   float*, Record<float>&, Interrupt);
template Account solve_grid<double>(const Setting<double>&, const Engine<double>&, const double*, const std::vector<double>&,
                                    double*, Record<double>&, Interrupt);

}  // namespace fastode::field
