#pragma once
// Lanes that are at times of their own: puts states, times and arguments in place, and evaluates stages. See Evaluator.
#include <cstring>

#include "tiles.h"

namespace fastode::field {

// One thread's tile of rows.
template <class T>
class RowTile {
 public:
  // Where each lane's step begins and ends is in `t`, `dt` and `t1`.
  RowTile(const Setting<T>& setting, const Engine<T>& engine, Index slots, double* t, double* dt, double* t1)
      : s_(setting),
        engine_(engine),
        workspace_(engine, slots),
        lanes_(engine.lanes),
        size_(padded_to(setting.features * lanes_, PAD)),
        a_(stage_weights<T>(setting.method)),
        dt_(padded_to(lanes_, PAD)),
        times_(t),
        dts_(dt),
        ends_(t1) {}

  Index size() const { return size_; }
  const Workspace<T>& workspace() const { return workspace_; }
  Index seen() const { return engine_.program.has_state ? engine_.program.state.width : 0; }
  Steps<T> steps() const { return {dt_.data(), lanes_ > 1}; }
  T* dt() const { return dt_.data(); }

  void set_step(Index l, double t, double dt, double t1) {
    times_[l] = t;
    dts_[l] = dt;
    ends_[l] = t1;
    dt_[l] = static_cast<T>(dt);
  }

  void load_arguments(Index l, Index row) {
    for (std::size_t a = 0; a < engine_.program.arguments.size(); ++a) {
      const Value& v = engine_.program.arguments[a];
      T* to = workspace_.at(v);
      const T* from = s_.arguments[a] + row * v.width;
      for (Index f = 0; f < v.width; ++f) to[f * lanes_ + l] = from[f];
    }
  }

  // Times of stage i of every lane's step into the slot.
  void set_times(int i, Index slot) const {
    if (!engine_.program.has_time) return;
    const double c = s_.method.c[i];
    T* to = workspace_.at(engine_.program.time, slot);
    for (Index l = 0; l < lanes_; ++l) to[l] = static_cast<T>(c == 1.0 ? ends_[l] : times_[l] + c * dts_[l]);
  }

  // The slope at `state`, at stage i's times.
  const T* slope_at(const T* state, int i, Index slot) const {
    if (seen() > 0) copy(workspace_.at(engine_.program.state, slot), state, seen());
    set_times(i, slot);
    workspace_.run_value(slot);
    return workspace_.at(engine_.program.out, slot);
  }

  const T* stage(int i, const T* y, const T* const* k, Index slot) const {
    if (seen() > 0) combine(workspace_.at(engine_.program.state, slot), y, a_[i], k, seen());
    set_times(i, slot);
    workspace_.run_value(slot);
    return workspace_.at(engine_.program.out, slot);
  }

  void combine(T* out, const T* y, const Weights<T>& w, const T* const* k, Index features) const {
    const T* used[MAX_FIELD_STAGES];
    const int count = w.count;
    for (int j = 0; j < count; ++j) used[j] = k[w.stage[j]];
    engine_.kernels.combine(out, y, count, used, w.weight, steps(), features, lanes_);
  }

  void copy(T* to, const T* from, Index features) const {
    std::memcpy(to, from, static_cast<std::size_t>(features * lanes_) * sizeof(T));
  }

  const Weights<T>& a(int i) const { return a_[i]; }

 private:
  const Setting<T>& s_;
  const Engine<T>& engine_;
  Workspace<T> workspace_;
  Index lanes_;
  Index size_;
  std::vector<Weights<T>> a_;
  Buffer<T> dt_;
  double *times_, *dts_, *ends_;
};

}  // namespace fastode::field
