#pragma once
// One thread's hold on a tile: puts states, times and arguments in place, and evaluates stages.
#include <cstring>

#include "tiles.h"

namespace fastode::field {

template <class T>
class Evaluator {
 public:
  Evaluator(const Setting<T>& setting, const Engine<T>& engine, Workspaces<T>& pool)
      : setting_(setting), engine_(engine), pool_(pool), workspace_(pool.take()), lanes_(engine.lanes) {}
  ~Evaluator() { pool_.give(std::move(workspace_)); }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  const Workspace<T>& workspace() const { return *workspace_; }

  // Features of the state that the field sees.
  Index seen() const { return engine_.program.has_state ? engine_.program.state.width : 0; }

  void begin_tile(Index tile) {
    for (std::size_t a = 0; a < engine_.program.arguments.size(); ++a) {
      const Value& v = engine_.program.arguments[a];
      load_tile(setting_.arguments[a], v.width, setting_.tiling, tile, workspace_->at(v));
    }
  }

  void set_time(double t, Index slot) {
    if (engine_.program.has_time) *workspace_->at(engine_.program.time, slot) = static_cast<T>(t);
  }

  // The slope at `state`, in the workspace's slot.
  const T* slope_at(const T* state, double t, Index slot, Products<T> products = {}) {
    if (seen() > 0) copy(workspace_->at(engine_.program.state, slot), state, seen());
    set_time(t, slot);
    workspace_->run_value(slot, products);
    return workspace_->at(engine_.program.out, slot);
  }

  // The slope at y + dt sum_j w[j] k[j].
  const T* slope_of(const T* y, const Weights<T>& w, const T* const* k, T dt, double t, Index slot, Products<T> products = {}) {
    if (seen() > 0) combine(workspace_->at(engine_.program.state, slot), y, w, k, dt, seen());
    set_time(t, slot);
    workspace_->run_value(slot, products);
    return workspace_->at(engine_.program.out, slot);
  }

  // out = y + dt sum_j w[j] k[j] over the first `features`; without y: dt sum_j w[j] k[j].
  void combine(T* out, const T* y, const Weights<T>& w, const T* const* k, T dt, Index features) const {
    const T* used[MAX_FIELD_STAGES];
    const int count = w.count;
    for (int j = 0; j < count; ++j) used[j] = k[w.stage[j]];
    if (count == 0) {
      if (y != nullptr) copy(out, y, features);
      else std::fill_n(out, features * lanes_, T(0));
      return;
    }
    engine_.kernels.combine(out, y, count, used, w.weight, {&dt, false}, features, lanes_);
  }

  void copy(T* to, const T* from, Index features) const {
    std::memcpy(to, from, static_cast<std::size_t>(features * lanes_) * sizeof(T));
  }

 private:
  const Setting<T>& setting_;
  const Engine<T>& engine_;
  Workspaces<T>& pool_;
  std::unique_ptr<Workspace<T>> workspace_;
  Index lanes_;
};

}  // namespace fastode::field
