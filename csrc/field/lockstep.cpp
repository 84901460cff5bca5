#include "lockstep.h"

#include <chrono>
#include <cmath>
#include <limits>

#include "../cpu/threads.h"
#include "evaluator.h"
#include "fastode/interp.h"

namespace fastode::field {

namespace {

std::vector<double> weights_of(const Method& method, const QuarticWeights& q) {
  std::vector<double> w(method.stages);
  for (int j = 0; j < method.stages; ++j) {
    w[j] = q.y1 * method.b[j] + slope_weight(q, method.mid.data(), j, method.stages, 1.0);
  }
  return w;
}

}  // namespace

std::vector<double> output_weights(const Method& method, double x, bool quartic) {
  if (quartic) return weights_of(method, quartic_weights(x));
  std::vector<double> w = method.b;
  for (double& weight : w) weight *= x;
  return w;
}

std::vector<double> piece_weights(const Method& method, int power, bool quartic) {
  if (!quartic) return power == 1 ? method.b : std::vector<double>(method.stages);
  return weights_of(method, {QUARTIC_Y1[power], QUARTIC_MID[power], QUARTIC_F0[power], QUARTIC_F1[power]});
}

namespace {

// Asks at most every 20 ms.
class Pulse {
 public:
  explicit Pulse(Interrupt interrupt) : interrupt_(interrupt) {}
  bool stopped() {
    if (interrupt_.asked == nullptr || ++calls_ % 16 != 0) return false;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(20)) return false;
    last_ = now;
    return interrupt_.asked(interrupt_.context);
  }

 private:
  Interrupt interrupt_;
  unsigned calls_ = 0;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A solve in which every tile has its state and slopes.
template <class T>
class Adaptive {
 public:
  Adaptive(const Setting<T>& setting, const Engine<T>& engine, const AdaptiveRule& rule)
      : s_(setting),
        engine_(engine),
        rule_(rule),
        pool_(engine, 1),
        stages_(setting.method.stages),
        inner_(setting.method.ends_with_slope ? stages_ - 1 : stages_),
        size_(padded_to(setting.features * engine.lanes, PAD)),
        tiles_(setting.tiling.tiles),
        memory_(tiles_ * (stages_ + 2) * size_),
        arrays_(tiles_ * (stages_ + 2)),
        rtol_(tolerance_tile(rule.rtol)),
        atol_(tolerance_tile(rule.atol)),
        tolerance_{rtol_.data(), atol_.data(), rule.rtol.size() > 1 ? engine.lanes : 0},
        parts_(static_cast<Index>(rule.parts.size())),
        sums_(tiles_ * parts_) {
    for (Index i = 0; i < tiles_ * (stages_ + 2); ++i) arrays_[i] = memory_.data() + i * size_;
    a_ = stage_weights<T>(setting.method);
    b_ = Weights<T>(setting.method.b.data(), stages_);
    error_ = Weights<T>(setting.method.error.data(), stages_);
  }

  Account run(const T* y0, const std::vector<double>& times, T* out, Record<T>* record, Interrupt interrupt) {
    Pulse pulse(interrupt);
    Account account;
    direction_ = times.size() > 1 && times[1] < times[0] ? -1.0 : 1.0;
    double t = s_.round_time(times[0]);
    const auto end = [&](Outcome outcome, double dt) {
      account.outcome = outcome;
      account.t = t;
      account.dt = dt;
      return account;
    };

    record_ = record;
    if (record != nullptr && record->most_states > 0) {
      record->products = KeptProducts<T>(engine_, tiles_, stages_, true, record->shares_memory);
      record->products.begin_step(0, record->memory);
    }
    double dt = first_step(y0, t, account);
    if (!std::isfinite(dt) && !finite_start()) return end(Outcome::NON_FINITE, dt);
    std::size_t next = 1, stop = 0;
    const bool dense = record != nullptr && record->dense;
    for (int power = 0; power < pieces_of(true) && dense; ++power) {
      pieces_.emplace_back(piece_weights(s_.method, power, true).data(), stages_);
    }
    if (!dense) write(out);
    if (record != nullptr) {
      if (!dense) record->outputs.push_back({-1, 0.0});
      record->keeps_slopes = inner_ == stages_;
      keep(*record);
    }

    double since_output = 0;
    while (next < times.size()) {
      if (since_output >= rule_.max_steps || account.n_accepted + account.n_rejected >= rule_.max_total_steps) {
        return end(Outcome::TOO_MANY_STEPS, dt);
      }
      ++since_output;
      double tried = bounded(dt);
      double t1 = s_.round_time(t + direction_ * tried);
      if (!(direction_ * t1 > direction_ * t)) return end(Outcome::STEP_UNDERFLOW, tried);
      while (stop < rule_.stops.size() && direction_ * rule_.stops[stop] <= direction_ * t) ++stop;
      if (stop < rule_.stops.size() && direction_ * rule_.stops[stop] < direction_ * t1) {
        t1 = rule_.stops[stop];
        tried = s_.round_time(std::abs(t1 - t));
      }
      const double signed_dt = direction_ * tried;
      if (record != nullptr) record->products.begin_step(account.n_accepted, record->room_for_products());
      const double err = attempt(t, signed_dt, t1, account.n_accepted);
      account.n_func += stages_ - 1;
      const Decision decision = control(err, tried, rule_.limits);
      dt = s_.round_time(decision.dt);
      if (pulse.stopped()) return end(Outcome::INTERRUPTED, dt);
      if (!decision.accept) {
        ++account.n_rejected;
        continue;
      }
      ++account.n_accepted;
      if (!(err <= 1.0) && !finite()) {
        t = t1;
        return end(Outcome::NON_FINITE, dt);
      }
      for (; next < times.size() && direction_ * times[next] <= direction_ * t1; ++next) {
        since_output = 0;
        if (dense) continue;
        const double x = times[next] == t1 ? 1.0 : (times[next] - t) / (t1 - t);
        if (record != nullptr) record->outputs.push_back({static_cast<Index>(record->t.size()), x});
        write_between(out + static_cast<Index>(next) * s_.tiling.rows * s_.features, x, static_cast<T>(signed_dt));
      }
      if (dense) keep_pieces(*record, static_cast<T>(signed_dt));
      for (Index i = 0; i < tiles_; ++i) {
        std::swap(y(i), y1(i));
        std::swap(k(i)[0], k(i)[stages_ - 1]);
      }
      if (record != nullptr) {
        record->t.push_back(t);
        record->dt.push_back(signed_dt);
        record->t1.push_back(t1);
        keep(*record);
      }
      t = t1;
    }
    if (record != nullptr) record->last = copy_of_state(false);
    return end(Outcome::FINISHED, dt);
  }

 private:
  T*& y(Index tile) { return arrays_[tile * (stages_ + 2)]; }
  T*& y1(Index tile) { return arrays_[tile * (stages_ + 2) + 1]; }
  T** k(Index tile) { return &arrays_[tile * (stages_ + 2) + 2]; }

  Buffer<T> tolerance_tile(const std::vector<double>& values) const {
    const Index lanes = engine_.lanes, count = static_cast<Index>(values.size());
    Buffer<T> tile(padded_to(count * lanes, PAD));
    for (Index i = 0; i < count * lanes; ++i) tile[i] = static_cast<T>(values[i / lanes]);
    return tile;
  }

  double bounded(double dt) const {
    if (!std::isfinite(dt)) return rule_.limits.dt_min;
    return std::min(std::max(dt, rule_.limits.dt_min), rule_.limits.dt_max);
  }

  template <class Body>
  void over_tiles(Body body) {
    auto task = [&](Index group) {
      Evaluator<T> evaluator(s_, engine_, pool_);
      for (Index i = s_.tiling.first(group); i < s_.tiling.first(group + 1); ++i) {
        evaluator.begin_tile(i);
        body(evaluator, i);
      }
    };
    parallel_for(s_.tiling.groups, s_.threads, task);
  }

  // out[part] = sum over the rows of a tile and the features of a part of (x / (atol + rtol max(|a|, |b|)))^2
  void squares(const T* x, const T* a, const T* b, Index tile, double* out) const {
    const Index lanes = engine_.lanes;
    for (Index part = 0, from = 0; part < parts_; from = rule_.parts[part++]) {
      T sums[64];
      const Index at = from * lanes, tolerance_at = from * tolerance_.feature_stride;
      engine_.kernels.scaled_squares(sums, x + at, a + at, b + at,
                                     {tolerance_.rtol + tolerance_at, tolerance_.atol + tolerance_at, tolerance_.feature_stride},
                                     rule_.parts[part] - from, lanes);
      out[part] = 0.0;
      for (Index l = 0; l < s_.tiling.rows_in(tile); ++l) out[part] += static_cast<double>(sums[l]);
    }
  }

  // The largest of the parts' root mean squares; NaN if one is.
  double norm(const std::vector<double>& sums) const {
    double largest = 0.0;
    for (Index part = 0, from = 0; part < parts_; from = rule_.parts[part++]) {
      double total = 0.0;
      for (Index i = 0; i < tiles_; ++i) total += sums[i * parts_ + part];
      const Index count = s_.tiling.rows * (rule_.parts[part] - from);
      largest = nan_max(largest, std::sqrt(total / static_cast<double>(std::max<Index>(1, count))));
    }
    return largest;
  }

  // Loads the state, evaluates the first slope, and returns the size of the first step (Hairer, Norsett, Wanner I, II.4).
  double first_step(const T* y0, double t, Account& account) {
    std::vector<double> squares0(sums_.size());
    over_tiles([&](Evaluator<T>& e, Index i) {
      load_tile(y0, s_.features, s_.tiling, i, y(i));
      e.copy(k(i)[0], e.slope_at(y(i), t, 0, kept(0, 0, i)), s_.features);
      squares(y(i), y(i), y(i), i, &squares0[i * parts_]);
      squares(k(i)[0], y(i), y(i), i, &sums_[i * parts_]);
    });
    account.n_func += 1;
    const double d0 = norm(squares0);
    if (!std::isfinite(d0) && !finite_start()) return std::numeric_limits<double>::quiet_NaN();
    if (rule_.first_step > 0) return rule_.first_step;
    const double d1 = norm(sums_);
    const double h0 = d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1;
    const double signed_h0 = direction_ * h0;
    const Weights<T> one(std::vector<double>{1.0}.data(), 1), difference(std::vector<double>{1.0, -1.0}.data(), 2);
    over_tiles([&](Evaluator<T>& e, Index i) {
      const T* slopes[2] = {e.slope_of(y(i), one, k(i), static_cast<T>(signed_h0), s_.round_time(t + signed_h0), 0), k(i)[0]};
      e.combine(y1(i), nullptr, difference, slopes, T(1), s_.features);
      squares(y1(i), y(i), y(i), i, &sums_[i * parts_]);
    });
    account.n_func += 1;
    const double d2 = norm(sums_) / h0;
    const double h1 = d1 <= 1e-15 && d2 <= 1e-15 ? std::max(1e-6, h0 * 1e-3)
                                                 : std::pow(0.01 / (d2 > d1 ? d2 : d1), 1.0 / rule_.limits.order);
    return std::min(100 * h0, h1);
  }

  // Where the products of an evaluation go.
  Products<T> kept(Index step, int stage, Index tile) const {
    return {record_ == nullptr ? nullptr : record_->products.at(step, stage, tile)};
  }

  double attempt(double t, double dt, double t1, Index step_number) {
    const T step = static_cast<T>(dt);
    over_tiles([&](Evaluator<T>& e, Index i) {
      T** slopes = k(i);
      for (int j = 1; j < inner_; ++j) {
        const T* slope = e.slope_of(y(i), a_[j], slopes, step, s_.stage_time(j, t, dt, t1), 0, kept(step_number, j, i));
        e.copy(slopes[j], slope, s_.features);
      }
      e.combine(y1(i), y(i), b_, slopes, step, s_.features);
      if (inner_ < stages_) e.copy(slopes[inner_], e.slope_at(y1(i), t1, 0, kept(step_number, inner_, i)), s_.features);
      Buffer<T>& error = scratch();
      e.combine(error.data(), nullptr, error_, slopes, step, s_.features);
      squares(error.data(), y(i), y1(i), i, &sums_[i * parts_]);
    });
    return norm(sums_);
  }

  Buffer<T>& scratch() {
    thread_local Buffer<T> error;
    if (error.size() < size_) error = Buffer<T>(size_);
    return error;
  }

  bool finite_start() {
    for (Index i = 0; i < tiles_; ++i) {
      for (Index j = 0; j < size_; ++j) if (!std::isfinite(y(i)[j])) return false;
    }
    return true;
  }
  bool finite() {
    for (Index i = 0; i < tiles_; ++i) {
      for (Index j = 0; j < size_; ++j) if (!std::isfinite(y1(i)[j])) return false;
    }
    return true;
  }

  void write(T* out) {
    for (Index i = 0; i < tiles_; ++i) store_tile(y(i), s_.features, s_.tiling, i, out);
  }

  void write_between(T* out, double x, T dt) {
    if (x == 1.0) {
      for (Index i = 0; i < tiles_; ++i) store_tile(y1(i), s_.features, s_.tiling, i, out);
      return;
    }
    const Weights<T> w(output_weights(s_.method, x, true).data(), stages_);
    over_tiles([&](Evaluator<T>& e, Index i) {
      Buffer<T>& state = scratch();
      e.combine(state.data(), y(i), w, k(i), dt, s_.features);
      store_tile(state.data(), s_.features, s_.tiling, i, out);
    });
  }

  // The polynomial of the step that is accepted.
  void keep_pieces(Record<T>& record, T dt) {
    const Index cells = s_.tiling.rows * s_.features, step = static_cast<Index>(record.t.size());
    record.pieces.emplace_back(pieces_of(true) * cells);
    T* const out = record.pieces.back().data();
    for (int power = 0; power < pieces_of(true); ++power) record.outputs.push_back({step, 0.0, power});
    over_tiles([&](Evaluator<T>& e, Index i) {
      Buffer<T>& part = scratch();
      for (int power = 0; power < pieces_of(true); ++power) {
        e.combine(part.data(), power == 0 ? y(i) : nullptr, pieces_[power], k(i), dt, s_.features);
        store_tile(part.data(), s_.features, s_.tiling, i, out + power * cells);
      }
    });
  }

  Buffer<T> copy_of_state(bool with_slope) {
    const Index arrays = with_slope ? 2 : 1;
    Buffer<T> state(tiles_ * arrays * size_);
    for (Index i = 0; i < tiles_; ++i) {
      T* to = state.data() + i * arrays * size_;
      std::memcpy(to, y(i), size_ * sizeof(T));
      if (with_slope) std::memcpy(to + size_, k(i)[0], size_ * sizeof(T));
    }
    return state;
  }

  void keep(Record<T>& record) {
    if (record.most_states == 0) return;
    const auto halve = [&] {
      Index kept = 0;
      for (std::size_t i = 0; i < record.states.size(); i += 2) std::swap(record.states[kept++], record.states[i]);
      record.states.resize(kept);
    };
    const Index step = static_cast<Index>(record.t.size()), kept = static_cast<Index>(record.states.size());
    if (!is_kept(step, kept, record.most_states, record.every, halve)) return;
    record.states.push_back(copy_of_state(record.keeps_slopes));
    record.products.limit(record.room_for_products());
  }

  const Setting<T>& s_;
  const Engine<T>& engine_;
  const AdaptiveRule& rule_;
  Workspaces<T> pool_;
  int stages_, inner_;  // all stages; those that are evaluated before the new state is known
  Index size_, tiles_;
  Buffer<T> memory_;
  std::vector<T*> arrays_;
  Buffer<T> rtol_, atol_;
  TileTolerance<T> tolerance_;
  Index parts_;
  Record<T>* record_ = nullptr;
  double direction_ = 1.0;
  std::vector<double> sums_;
  std::vector<Weights<T>> a_, pieces_;
  Weights<T> b_, error_;
};

}  // namespace

template <class T>
Account solve_adaptive(const Setting<T>& setting, const Engine<T>& engine, const T* y0, const std::vector<double>& times,
                       const AdaptiveRule& rule, T* out, Record<T>* record, Interrupt interrupt) {
  Adaptive<T> solve(setting, engine, rule);
  return solve.run(y0, times, out, record, interrupt);
}

template Account solve_adaptive<float>(const Setting<float>&, const Engine<float>&, const float*, const std::vector<double>&,
                                       const AdaptiveRule&, float*, Record<float>*, Interrupt);
template Account solve_adaptive<double>(const Setting<double>&, const Engine<double>&, const double*,
                                        const std::vector<double>&, const AdaptiveRule&, double*, Record<double>*, Interrupt);

}  // namespace fastode::field
