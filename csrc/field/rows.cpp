// Every row its own solve: a lane that finishes takes the next row, so a batch costs the mean of its step counts.
#include "rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "../cpu/threads.h"
#include "lane_states.h"
#include "row_tile.h"

namespace fastode::field {
namespace {

// Rows are handed to lanes in their order. A row's result depends on nothing but the row, so it does not matter who takes it.
struct Queue {
  std::atomic<Index> next{0};
  Index rows;

  Index take() {
    const Index row = next.fetch_add(1, std::memory_order_relaxed);
    return row < rows ? row : -1;
  }
};

template <class T>
class RowSolver {
 public:
  RowSolver(const Setting<T>& setting, const Engine<T>& engine, const RowState& state, const RowRule& rule, T* y,
            const RowTolerances<T>& tolerances, const RowOutputTimes<T>& outputs, std::vector<RowRecord<T>>* record,
            Keeping keeping, const Buffer<T>& first_slopes)
      : s_(setting),
        engine_(engine),
        all_(state),
        rule_(rule),
        y_all_(y),
        tolerances_(tolerances),
        outputs_(outputs),
        record_(record),
        keeping_(keeping),
        first_slopes_(first_slopes),
        states_(engine.lanes, state),
        tile_(setting, engine, 1, states_.lanes().t, states_.lanes().dt, states_.lanes().t1),
        lanes_(engine.lanes),
        n_(setting.features),
        stages_(setting.method.stages),
        fresh_(!setting.method.ends_with_slope),
        memory_((stages_ + 3) * tile_.size()),
        tolerance_features_(tolerances.feature_stride == 0 ? 1 : setting.features),
        rtol_(padded_to(tolerance_features_ * lanes_, PAD)),
        atol_(padded_to(tolerance_features_ * lanes_, PAD)),
        mask_(padded_to(lanes_, PAD)),
        sums_(padded_to(lanes_, PAD)),
        sums_of_part_(padded_to(lanes_, PAD)),
        b_(setting.method.b.data(), stages_),
        error_weights_(setting.method.error.data(), stages_),
        began_(3 * lanes_),
        row_(lanes_, -1) {
    for (int power = 0; power < pieces_of(true) && keeping.pieces; ++power) {
      const std::vector<double> weights = piece_weights(setting.method, power, true);
      piece_weights_.emplace_back(weights.begin(), weights.end());
    }
    for (int i = 0; i < stages_; ++i) k_[i] = memory_.data() + i * tile_.size();
    y_ = memory_.data() + stages_ * tile_.size();
    y1_ = y_ + tile_.size();
    error_ = y1_ + tile_.size();
  }

  // First slopes and, where they are not given, first steps of rows [begin, end) (Hairer, Norsett, Wanner I, II.4).
  void begin_rows(Index begin, Index end, const Buffer<T>& slopes) {
    for (Index from = begin; from < end; from += lanes_) {
      for (Index l = 0; l < lanes_; ++l) {
        const Index row = std::min(from + l, end - 1);
        load_state(l, row);
        tile_.set_step(l, all_.t[row], 0.0, all_.t[row]);
      }
      tile_.copy(k_[0], tile_.slope_at(y_, 0, 0), n_);
      for (Index l = 0; l < lanes_ && from + l < end; ++l) store_lane(k_[0], l, slopes.data() + (from + l) * n_);
      if (rule_.choose_first) choose_first(from, end);
    }
  }

  void run(Queue& queue, Stop& stop) {
    Index active = 0;
    for (Index l = 0; l < lanes_; ++l) active += refill(l, queue);
    for (Index l = 0; l < lanes_; ++l) {
      if (row_[l] < 0 && active > 0) copy_lane(l);  // an idle lane repeats a row, out of harm's way
    }
    RowLimits ordinary = rule_.limits;
    if (rule_.limits.filter[1] != 0.0 || rule_.limits.filter[2] != 0.0) ordinary.max_steps = 0;  // no lane is ordinary then
    const LaneControl& s = states_.lanes();
    unsigned rounds = 0;
    while (active > 0) {
      attempt();
      if (record_ != nullptr) remember(s);
      const bool all = engine_.kernels.control(ordinary, s, sums_.data(), n_, lanes_, mask_.data(), tile_.dt());
      if (record_ != nullptr) {
        for (Index l = 0; l < lanes_; ++l) {
          if (mask_[l] != T(0)) note_step(l, began_[l], began_[lanes_ + l], began_[2 * lanes_ + l]);
        }
      }
      if (!all) judge_special_lanes(s);
      engine_.kernels.select(y_, y1_, mask_.data(), n_, lanes_);
      if (!fresh_) engine_.kernels.select(k_[0], k_[stages_ - 1], mask_.data(), n_, lanes_);
      for (Index l = 0; l < lanes_ && !all; ++l) {
        if (s.special[l] == 0.0 || row_[l] < 0) continue;
        if (states_.runs(l)) {
          tile_.set_step(l, s.t[l], s.dt[l], s.t1[l]);
        } else {
          finish(l);
          active += refill(l, queue) - 1;
        }
      }
      if (++rounds % 64 == 0 && stop.check()) return;
    }
  }

 private:
  void judge_special_lanes(const LaneControl& s) {
    for (Index l = 0; l < lanes_; ++l) {
      if (s.special[l] == 0.0 || row_[l] < 0) continue;
      const double t = s.t[l], dt = s.dt[l], t1 = s.t1[l];
      const int done = states_.control(l, rule_.limits);
      if ((done & ROW_ACCEPTED) == 0) continue;
      mask_[l] = T(1);
      if (record_ != nullptr) note_step(l, t, dt, t1);
      if ((done & ROW_HAS_OUTPUT) != 0) write_outputs(l, t, dt, t1);
    }
  }

  // Where the steps under way begin and end.
  void remember(const LaneControl& s) {
    const double* arrays[3] = {s.t, s.dt, s.t1};
    for (int i = 0; i < 3; ++i) std::memcpy(&began_[i * lanes_], arrays[i], static_cast<std::size_t>(lanes_) * sizeof(double));
  }

  void load_state(Index l, Index row) {
    for (Index f = 0; f < n_; ++f) y_[f * lanes_ + l] = y_all_[row * n_ + f];
    for (Index f = 0; f < tolerance_features_; ++f) {
      const Index at = row * tolerances_.row_stride + f * tolerances_.feature_stride;
      rtol_[f * lanes_ + l] = tolerances_.rtol[at];
      atol_[f * lanes_ + l] = tolerances_.atol[at];
    }
    tile_.load_arguments(l, row);
  }

  void store_lane(const T* tile, Index l, T* row) const {
    for (Index f = 0; f < n_; ++f) row[f] = tile[f * lanes_ + l];
  }

  // The sum of squares of x in units of the tolerance, in each lane. With several parts, features times the largest of their mean
  // squares.
  void measure(const T* x, const T* y, const T* y1) {
    const Index stride = tolerances_.feature_stride == 0 ? 0 : lanes_;
    const auto of_features = [&](T* sums, Index from, Index end) {
      const Index at = from * lanes_;
      engine_.kernels.scaled_squares(sums, x + at, y + at, y1 + at, {rtol_.data() + from * stride, atol_.data() + from * stride, stride},
                                     end - from, lanes_);
    };
    if (rule_.parts.size() == 1) return of_features(sums_.data(), 0, n_);
    std::fill_n(sums_.data(), lanes_, T(0));
    Index from = 0;
    for (const Index end : rule_.parts) {
      of_features(sums_of_part_.data(), from, end);
      const T share = static_cast<T>(n_) / static_cast<T>(end - from);
      for (Index l = 0; l < lanes_; ++l) sums_[l] = nan_max(sums_[l], share * sums_of_part_[l]);
      from = end;
    }
  }

  double rms(Index l) const { return std::sqrt(static_cast<double>(sums_[l]) / static_cast<double>(std::max<Index>(1, n_))); }

  void choose_first(Index from, Index end) {
    std::vector<double> d0(lanes_), d1(lanes_), h0(lanes_);
    measure(y_, y_, y_);
    for (Index l = 0; l < lanes_; ++l) d0[l] = rms(l);
    measure(k_[0], y_, y_);
    for (Index l = 0; l < lanes_; ++l) {
      d1[l] = rms(l);
      const Index row = std::min(from + l, end - 1);
      const double span = std::fabs(all_.t_end[row] - all_.t[row]);
      h0[l] = nan_min(d0[l] < 1e-5 || d1[l] < 1e-5 ? 1e-6 : 0.01 * d0[l] / d1[l], span);
      const double signed_h0 = std::copysign(h0[l], all_.t_end[row] - all_.t[row]);
      tile_.set_step(l, all_.t[row], signed_h0, all_.t[row] + signed_h0);
    }
    const std::vector<double> forward = {1.0}, change = {1.0, -1.0};
    const T* slope[1] = {k_[0]};
    T* trial = y1_;
    tile_.combine(trial, y_, Weights<T>(forward.data(), 1), slope, n_);
    // the node of the last stage is 1
    const T* both[2] = {tile_.slope_at(trial, stages_ - 1, 0), k_[0]};
    for (Index l = 0; l < lanes_; ++l) tile_.set_step(l, 0.0, 1.0, 0.0);
    tile_.combine(error_, nullptr, Weights<T>(change.data(), 2), both, n_);
    measure(error_, y_, y_);
    for (Index l = 0; l < lanes_ && from + l < end; ++l) {
      const Index row = from + l;
      if (all_.size[row] == all_.size[row]) continue;
      const double d2 = rms(l) / h0[l];
      const double largest = std::isfinite(d2) ? nan_max(d1[l], d2) : d1[l];
      const double h1 =
          largest <= 1e-15 ? std::max(1e-6, 1e-3 * h0[l]) : power(0.01 / largest, 1.0 / rule_.limits.limits.order);
      const bool empty = all_.t_end[row] == all_.t[row];
      all_.size[row] = empty ? 1.0 : nan_min(100 * h0[l], h1);
    }
  }

  // The next row into a lane; 1 if there is one that has something to do.
  Index refill(Index l, Queue& queue) {
    for (;;) {
      const Index row = row_[l] = queue.take();
      if (row < 0) {
        states_.idle(l, states_.lanes().t[l]);
        tile_.set_step(l, states_.lanes().t[l], 0.0, states_.lanes().t[l]);
        return 0;
      }
      propose_row(row, all_, rule_.limits);
      states_.load(l, row);
      if (!states_.runs(l)) continue;
      load_state(l, row);
      for (Index f = 0; f < n_; ++f) k_[0][f * lanes_ + l] = first_slopes_[row * n_ + f];
      tile_.set_step(l, all_.t[row], all_.dt[row], all_.t1[row]);
      return 1;
    }
  }

  void copy_lane(Index l) {
    Index from = 0;
    while (row_[from] < 0) ++from;
    load_state(l, row_[from]);
    for (Index f = 0; f < n_; ++f) k_[0][f * lanes_ + l] = k_[0][f * lanes_ + from];
    states_.idle(l, all_.t[row_[from]]);
    tile_.set_step(l, all_.t[row_[from]], 0.0, all_.t[row_[from]]);
  }

  void finish(Index l) {
    const Index row = row_[l];
    states_.store(l, row);
    store_lane(y_, l, y_all_ + row * n_);
  }

  void attempt() {
    const T* k[MAX_FIELD_STAGES];
    for (int i = 0; i < stages_; ++i) k[i] = k_[i];
    if (fresh_) tile_.copy(k_[0], tile_.slope_at(y_, 0, 0), n_);
    for (int i = 1; i < (fresh_ ? stages_ : stages_ - 1); ++i) tile_.copy(k_[i], tile_.stage(i, y_, k, 0), n_);
    tile_.combine(y1_, y_, b_, k, n_);
    if (!fresh_) tile_.copy(k_[stages_ - 1], tile_.slope_at(y1_, stages_ - 1, 0), n_);
    if (error_weights_.count == 0) return zero_errors();
    tile_.combine(error_, nullptr, error_weights_, k, n_);
    measure(error_, y_, y1_);
  }

  // Without an estimate a step is as good as its new state is finite.
  void zero_errors() {
    std::fill_n(sums_.data(), lanes_, T(0));
    for (Index f = 0; f < n_; ++f) {
      for (Index l = 0; l < lanes_; ++l) sums_[l] += y1_[f * lanes_ + l] - y1_[f * lanes_ + l];
    }
  }

  void note_step(Index l, double t, double dt, double t1) {
    RowRecord<T>& r = (*record_)[row_[l]];
    if (r.dt.empty()) r.start = t;
    const Index kept = static_cast<Index>(r.states.size()) / n_;
    const auto halve = [&] {
      for (Index i = 2; i < kept; i += 2) std::copy_n(&r.states[i * n_], n_, &r.states[i / 2 * n_]);
      r.states.resize((kept + 1) / 2 * n_);
    };
    if (keeping_.most_states > 0 && is_kept(r.steps(), kept, keeping_.most_states, r.every, halve)) {
      for (Index f = 0; f < n_; ++f) r.states.push_back(y_[f * lanes_ + l]);
    }
    if (keeping_.pieces) note_pieces(l, static_cast<T>(dt), r.pieces);
    r.dt.push_back(dt);
    r.t1.push_back(t1);
  }

  void note_pieces(Index l, T dt, std::vector<T>& pieces) const {
    for (int power = 0; power < pieces_of(true); ++power) {
      for (Index f = 0; f < n_; ++f) pieces.push_back(combined(l, f, power == 0, piece_weights_[power], dt));
    }
  }

  // dt sum_j w_j k_j in a lane, and its state before the step if it is wanted.
  T combined(Index l, Index f, bool with_state, const std::vector<T>& w, T dt) const {
    T sum = T(0);
    for (int j = 0; j < stages_; ++j) sum += w[j] * k_[j][f * lanes_ + l];
    return with_state ? y_[f * lanes_ + l] + dt * sum : dt * sum;
  }

  void write_outputs(Index l, double t, double dt, double t1) {
    const Index row = row_[l];
    const double sign = dt < 0.0 ? -1.0 : 1.0;
    const double* times = outputs_.times + row * (outputs_.count + 1);
    Index& next = outputs_.next[row];
    for (; sign * times[next] <= sign * t1; ++next) {
      const double x = times[next] == t1 ? 1.0 : (times[next] - t) / dt;
      T* to = outputs_.out + (row * outputs_.count + next) * n_;
      if (x == 1.0) {
        store_lane(y1_, l, to);
      } else {
        const std::vector<double> weights = output_weights(s_.method, x, true);
        const std::vector<T> w(weights.begin(), weights.end());
        for (Index f = 0; f < n_; ++f) to[f] = combined(l, f, true, w, tile_.dt()[l]);
      }
      if (record_ != nullptr) {
        RowRecord<T>& r = (*record_)[row];
        r.outputs.push_back({r.steps() - 1, next, x});
      }
    }
    states_.set_due(l, times[next]);
  }

  const Setting<T>& s_;
  const Engine<T>& engine_;
  const RowState& all_;
  const RowRule& rule_;
  T* y_all_;
  const RowTolerances<T>& tolerances_;
  const RowOutputTimes<T>& outputs_;
  std::vector<RowRecord<T>>* record_;
  Keeping keeping_;
  const Buffer<T>& first_slopes_;
  LaneStates states_;
  RowTile<T> tile_;
  Index lanes_, n_;
  int stages_;
  bool fresh_;  // the first slope of a step is evaluated anew
  Buffer<T> memory_;
  Index tolerance_features_;
  Buffer<T> rtol_, atol_, mask_, sums_, sums_of_part_;
  Weights<T> b_, error_weights_;
  std::vector<std::vector<T>> piece_weights_;
  std::vector<double> began_;
  std::vector<Index> row_;
  T* k_[MAX_FIELD_STAGES];
  T *y_, *y1_, *error_;
};

}  // namespace

template <class T>
bool solve_rows(const Setting<T>& setting, const Engine<T>& engine, const RowState& state, const RowRule& rule, T* y,
                const RowTolerances<T>& tolerances, const RowOutputTimes<T>& outputs, std::vector<RowRecord<T>>* record,
                Keeping keeping, Interrupt interrupt) {
  const Index rows = setting.tiling.rows;
  if (record != nullptr) record->resize(rows);
  const Buffer<T> slopes(rows * setting.features);
  Queue queue;
  queue.rows = rows;
  Stop stop(interrupt);
  const Index workers = std::max<Index>(1, std::min<Index>(setting.threads, setting.tiling.tiles));
  auto begin = [&](Index worker) {
    RowSolver<T> solver(setting, engine, state, rule, y, tolerances, outputs, record, keeping, slopes);
    solver.begin_rows(rows * worker / workers, rows * (worker + 1) / workers, slopes);
  };
  if (setting.method.ends_with_slope || rule.choose_first) parallel_for(workers, setting.threads, begin);
  auto work = [&](Index) {
    RowSolver<T> solver(setting, engine, state, rule, y, tolerances, outputs, record, keeping, slopes);
    solver.run(queue, stop);
  };
  parallel_for(workers, setting.threads, work);
  return !stop;
}

template bool solve_rows<float>(const Setting<float>&, const Engine<float>&, const RowState&, const RowRule&, float*,
                                const RowTolerances<float>&, const RowOutputTimes<float>&, std::vector<RowRecord<float>>*,
                                Keeping, Interrupt);
template bool solve_rows<double>(const Setting<double>&, const Engine<double>&, const RowState&, const RowRule&, double*,
                                 const RowTolerances<double>&, const RowOutputTimes<double>&,
                                 std::vector<RowRecord<double>>*, Keeping, Interrupt);

}  // namespace fastode::field
