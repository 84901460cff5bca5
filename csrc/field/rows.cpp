// Every row its own solve: a lane that finishes takes the next row, so a batch costs the mean of its step counts.
//
// Going backwards, rows with like numbers of steps share a tile. A lane whose row has no such step waits at the row's first
// state with a step of zero: its cotangents are zero there, and stay so. (At its last state the field may have no derivative.)
#include "rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include "../cpu/threads.h"
#include "gradients.h"

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

// The controller's arrays for the rows that are in the lanes now.
class LaneStates {
 public:
  LaneStates(Index lanes, const RowState& all)
      : all_(all),
        doubles_(DOUBLES * padded_to(lanes, PAD)),
        history_(2 * lanes, 1.0),
        stops_(std::max<Index>(1, lanes * all.n_stops)),
        n_accepted_(lanes),
        n_rejected_(lanes),
        next_stop_(lanes),
        accept_(lanes),
        status_(lanes, static_cast<std::int32_t>(Status::FINISHED)) {
    double** arrays[DOUBLES] = {&lanes_.t,    &lanes_.t1,       &lanes_.dt,    &lanes_.size,   &lanes_.err,     &lanes_.stop,
                                &lanes_.due,  &lanes_.attempts, &lanes_.moves, &lanes_.factor, &lanes_.special, &lanes_.accepted,
                                &t_end_};
    for (int i = 0; i < DOUBLES; ++i) *arrays[i] = doubles_.data() + i * padded_to(lanes, PAD);
    state_ = {lanes_.t,          lanes_.t1,          lanes_.dt,      lanes_.size,       history_.data(),
              lanes_.err,        t_end_,             accept_.data(), status_.data(),    n_accepted_.data(),
              n_rejected_.data(), stops_.data(),     next_stop_.data(), lanes_.due,     all.n_stops};
  }

  const LaneControl& lanes() const { return lanes_; }

  void load(Index l, Index row) {
    lanes_.t[l] = all_.t[row];
    lanes_.t1[l] = all_.t1[row];
    lanes_.dt[l] = all_.dt[row];
    lanes_.size[l] = all_.size[row];
    lanes_.due[l] = all_.due[row];
    lanes_.attempts[l] = static_cast<double>(all_.n_accepted[row] + all_.n_rejected[row]);
    lanes_.moves[l] = static_cast<double>(all_.n_accepted[row]);
    t_end_[l] = all_.t_end[row];
    std::memcpy(&history_[2 * l], all_.history + 2 * row, 2 * sizeof(double));
    status_[l] = all_.status[row];
    for (Index s = 0; s < all_.n_stops; ++s) stops_[l * all_.n_stops + s] = all_.stops[row * all_.n_stops + s];
    next_stop_[l] = all_.next_stop[row];
    lanes_.stop[l] = next_stop(l, state_);
  }

  void store(Index l, Index row) const {
    all_.t[row] = lanes_.t[l];
    all_.t1[row] = lanes_.t1[l];
    all_.dt[row] = lanes_.dt[l];
    all_.size[row] = lanes_.size[l];
    std::memcpy(all_.history + 2 * row, &history_[2 * l], 2 * sizeof(double));
    all_.status[row] = status_[l];
    all_.accept[row] = accept_[l];
    all_.n_accepted[row] = static_cast<std::int64_t>(lanes_.moves[l]);
    all_.n_rejected[row] = static_cast<std::int64_t>(lanes_.attempts[l] - lanes_.moves[l]);
    all_.next_stop[row] = next_stop_[l];
  }

  // control_row for one lane, whatever happens to it; `done` as it returns it.
  int control(Index l, const RowLimits& rule) {
    n_accepted_[l] = static_cast<std::int64_t>(lanes_.moves[l]);
    n_rejected_[l] = static_cast<std::int64_t>(lanes_.attempts[l] - lanes_.moves[l]);
    const int done = control_row(l, state_, rule, lanes_.factor[l]);
    lanes_.moves[l] = static_cast<double>(n_accepted_[l]);
    lanes_.attempts[l] = static_cast<double>(n_accepted_[l] + n_rejected_[l]);
    lanes_.stop[l] = next_stop(l, state_);
    return done;
  }

  // A lane without a row: never ordinary.
  void idle(Index l, double t) {
    status_[l] = static_cast<std::int32_t>(Status::FINISHED);
    lanes_.t[l] = lanes_.t1[l] = lanes_.stop[l] = t;
    lanes_.dt[l] = 0.0;
  }

  void set_due(Index l, double t) { lanes_.due[l] = t; }
  bool runs(Index l) const { return status_[l] == static_cast<std::int32_t>(Status::RUNNING); }

 private:
  static constexpr int DOUBLES = 13;

  const RowState& all_;
  Buffer<double> doubles_;
  LaneControl lanes_;
  double* t_end_;
  std::vector<double> history_, stops_;
  std::vector<Index> n_accepted_, n_rejected_, next_stop_;
  std::vector<unsigned char> accept_;
  std::vector<std::int32_t> status_;
  RowState state_;
};

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
    const int count = static_cast<int>(w.stage.size());
    for (int j = 0; j < count; ++j) used[j] = k[w.stage[j]];
    engine_.kernels.combine(out, y, count, used, w.weight.data(), steps(), features, lanes_);
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

template <class T>
class RowSolver {
 public:
  RowSolver(const Setting<T>& setting, const Engine<T>& engine, const RowState& state, const RowRule& rule, T* y,
            const RowTolerances<T>& tolerances, const RowOutputTimes<T>& outputs, std::vector<RowRecord<T>>* record,
            const Buffer<T>& first_slopes)
      : s_(setting),
        engine_(engine),
        all_(state),
        rule_(rule),
        y_all_(y),
        tolerances_(tolerances),
        outputs_(outputs),
        record_(record),
        first_slopes_(first_slopes),
        states_(engine.lanes, state),
        tile_(setting, engine, 1, states_.lanes().t, states_.lanes().dt, states_.lanes().t1),
        lanes_(engine.lanes),
        n_(setting.features),
        stages_(setting.method.stages),
        memory_((stages_ + 3) * tile_.size()),
        tolerance_features_(tolerances.feature_stride == 0 ? 1 : setting.features),
        rtol_(padded_to(tolerance_features_ * lanes_, PAD)),
        atol_(padded_to(tolerance_features_ * lanes_, PAD)),
        mask_(padded_to(lanes_, PAD)),
        sums_(padded_to(lanes_, PAD)),
        b_(setting.method.b.data(), stages_),
        error_weights_(setting.method.error.data(), stages_),
        began_(3 * lanes_),
        row_(lanes_, -1) {
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
      engine_.kernels.select(k_[0], k_[stages_ - 1], mask_.data(), n_, lanes_);
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

  TileTolerance<T> tolerance() const {
    return {rtol_.data(), atol_.data(), tolerances_.feature_stride == 0 ? 0 : lanes_};
  }

  double rms(Index l) const { return std::sqrt(static_cast<double>(sums_[l]) / static_cast<double>(std::max<Index>(1, n_))); }

  void choose_first(Index from, Index end) {
    std::vector<double> d0(lanes_), d1(lanes_), h0(lanes_);
    engine_.kernels.scaled_squares(sums_.data(), y_, y_, y_, tolerance(), n_, lanes_);
    for (Index l = 0; l < lanes_; ++l) d0[l] = rms(l);
    engine_.kernels.scaled_squares(sums_.data(), k_[0], y_, y_, tolerance(), n_, lanes_);
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
    engine_.kernels.scaled_squares(sums_.data(), error_, y_, y_, tolerance(), n_, lanes_);
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
    for (int i = 1; i < stages_ - 1; ++i) tile_.copy(k_[i], tile_.stage(i, y_, k, 0), n_);
    tile_.combine(y1_, y_, b_, k, n_);
    tile_.copy(k_[stages_ - 1], tile_.slope_at(y1_, stages_ - 1, 0), n_);
    tile_.combine(error_, nullptr, error_weights_, k, n_);
    engine_.kernels.scaled_squares(sums_.data(), error_, y_, y1_, tolerance(), n_, lanes_);
  }

  void note_step(Index l, double t, double dt, double t1) {
    RowRecord<T>& r = (*record_)[row_[l]];
    r.t.push_back(t);
    r.dt.push_back(dt);
    r.t1.push_back(t1);
    for (Index f = 0; f < n_; ++f) r.states.push_back(y_[f * lanes_ + l]);
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
        const std::vector<double> w = output_weights(s_.method, x, true);
        for (Index f = 0; f < n_; ++f) {
          T sum = T(0);
          for (int j = 0; j < stages_; ++j) sum += static_cast<T>(w[j]) * k_[j][f * lanes_ + l];
          to[f] = y_[f * lanes_ + l] + tile_.dt()[l] * sum;
        }
      }
      if (record_ != nullptr) {
        RowRecord<T>& r = (*record_)[row];
        r.outputs.push_back({static_cast<Index>(r.t.size()) - 1, next, x});
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
  const Buffer<T>& first_slopes_;
  LaneStates states_;
  RowTile<T> tile_;
  Index lanes_, n_;
  int stages_;
  Buffer<T> memory_;
  Index tolerance_features_;
  Buffer<T> rtol_, atol_, mask_, sums_;
  Weights<T> b_, error_weights_;
  std::vector<double> began_;
  std::vector<Index> row_;
  T* k_[MAX_FIELD_STAGES];
  T *y_, *y1_, *error_;
};

// Rows in the lanes of a tile, from their last steps to their first.
template <class T>
class RowSweep {
 public:
  RowSweep(const Setting<T>& setting, const Engine<T>& engine, const std::vector<RowRecord<T>>& record, const T* y_last,
           const double* t_last, const T* grad_out, Index count)
      : s_(setting),
        engine_(engine),
        record_(record),
        y_last_(y_last),
        t_last_(t_last),
        grad_out_(grad_out),
        count_(count),
        times_(3 * engine.lanes),
        tile_(setting, engine, setting.method.stages, &times_[0], &times_[engine.lanes], &times_[2 * engine.lanes]),
        lanes_(engine.lanes),
        n_(setting.features),
        stages_(setting.method.stages),
        b_(setting.method.b.data(), stages_),
        memory_((stages_ + 3) * tile_.size()),
        y_(memory_.data() + stages_ * tile_.size()),
        lambda_(y_ + tile_.size()),
        carry_(lambda_ + tile_.size()),
        lane_(lanes_) {
    for (const std::int32_t argument : engine.program.differentiated) {
      argument_sums_.emplace_back(padded_to(engine.program.arguments[argument].width * lanes_, PAD));
    }
  }

  // `rows` has the row with most steps first; each has one at least.
  void run(const Index* rows, Index count, T* grad_y, const std::vector<T*>& grad_arguments, Gradients<T>& gradients,
           Stop& stop) {
    begin(rows, count, grad_y);
    const int last = stages_ - 1;  // the last slope of a step is the first of the next
    const Index steps = static_cast<Index>(record_[rows[0]].t.size());
    for (Index n = steps - 1; n >= 0; --n) {
      if (n % 64 == 63 && stop.check()) return;
      const bool wanted = outputs_at_end_slope(n);
      if (n < steps - 1 || wanted) {
        if (n == steps - 1) {
          load_step(steps);
          tile_.slope_at(y_, 0, 0);
        }
        pull(0, gradients);
      }
      load_step(n);
      const T* k[MAX_FIELD_STAGES];
      k[0] = tile_.slope_at(y_, 0, 0);
      for (int i = 1; i < last; ++i) k[i] = tile_.stage(i, y_, k, i);
      std::fill_n(memory_.data(), stages_ * tile_.size(), T(0));
      std::fill_n(carry_, tile_.size(), T(0));
      outputs_inside(n);
      for (std::size_t j = 0; j < b_.stage.size(); ++j) add(slope(b_.stage[j]), lambda_, b_.weight[j], tile_.steps(), n_);
      add(lambda_, carry_, T(1), one(), n_);
      for (int i = last - 1; i >= 1; --i) {
        const T* g = pull(i, gradients);
        const Weights<T>& a = tile_.a(i);
        for (std::size_t j = 0; j < a.stage.size(); ++j) add(slope(a.stage[j]), g, a.weight[j], tile_.steps(), tile_.seen());
      }
      if (n == 0) pull(0, gradients);
    }
    for (Index l = 0; l < count; ++l) {
      for (Index f = 0; f < n_; ++f) grad_y[rows[l] * n_ + f] = lambda_[f * lanes_ + l];
      for (std::size_t a = 0; a < grad_arguments.size(); ++a) {
        const Index width = engine_.program.arguments[engine_.program.differentiated[a]].width;
        for (Index f = 0; f < width; ++f) grad_arguments[a][rows[l] * width + f] = argument_sums_[a][f * lanes_ + l];
      }
    }
  }

 private:
  using Output = typename RowRecord<T>::Output;
  struct Lane {
    Index row, steps;
    const Output *outputs_begin, *outputs_end;  // those not yet passed
    bool needs_last;                            // outputs inside the last step need the slope at its end
  };

  static Steps<T> one() {
    static const T number = T(1);
    return {&number, false};
  }
  T* slope(int i) const { return memory_.data() + i * tile_.size(); }
  const T* given(const Lane& lane, const Output& output) const { return grad_out_ + (lane.row * count_ + output.index) * n_; }
  void add(T* out, const T* g, T w, Steps<T> steps, Index features) const {
    engine_.kernels.add_scaled(out, g, w, steps, features, lanes_);
  }

  void begin(const Index* rows, Index count, const T* grad_y) {
    std::fill_n(memory_.data(), memory_.size(), T(0));
    for (Buffer<T>& sums : argument_sums_) std::fill_n(sums.data(), sums.size(), T(0));
    for (Index l = 0; l < lanes_; ++l) {
      const Index row = rows[std::min(l, count - 1)];  // spare lanes repeat a row, without steps
      const RowRecord<T>& r = record_[row];
      const Output* outputs = r.outputs.data();
      Lane& lane = lane_[l] = {row, 0, outputs, outputs, false};
      if (l < count) {
        lane.steps = static_cast<Index>(r.t.size());
        lane.outputs_end = outputs + r.outputs.size();
        for (const Output& o : r.outputs) lane.needs_last |= o.step == lane.steps - 1 && o.x != 1.0;
      }
      tile_.load_arguments(l, row);
      load_state(l, r.states.data(), r.t[0], 0.0, r.t[0]);
      if (l < count) {
        for (Index f = 0; f < n_; ++f) lambda_[f * lanes_ + l] = grad_y[row * n_ + f];
      }
    }
  }

  void load_step(Index n) {
    for (Index l = 0; l < lanes_; ++l) {
      const Lane& lane = lane_[l];
      const RowRecord<T>& r = record_[lane.row];
      if (n == lane.steps && lane.needs_last) load_state(l, y_last_ + lane.row * n_, t_last_[lane.row], 0.0, t_last_[lane.row]);
      if (n >= lane.steps) continue;
      load_state(l, r.states.data() + n * n_, r.t[n], r.dt[n], r.t1[n]);
    }
  }

  void load_state(Index l, const T* y, double t, double dt, double t1) {
    tile_.set_step(l, t, dt, t1);
    for (Index f = 0; f < n_; ++f) y_[f * lanes_ + l] = y[f];
  }

  // What outputs inside step n take from the slope at its end; whether there are any.
  bool outputs_at_end_slope(Index n) {
    bool any = false;
    for (Index l = 0; l < lanes_; ++l) {
      const Lane& lane = lane_[l];
      for (const Output* o = lane.outputs_end; o != lane.outputs_begin && o[-1].step == n; --o) {
        if (o[-1].x == 1.0) continue;
        any = true;
        const T w = static_cast<T>(output_weights(s_.method, o[-1].x, true)[stages_ - 1] * record_[lane.row].dt[n]);
        for (Index f = 0; f < n_; ++f) slope(0)[f * lanes_ + l] += w * given(lane, o[-1])[f];
      }
    }
    return any;
  }

  void outputs_inside(Index n) {
    for (Index l = 0; l < lanes_; ++l) {
      Lane& lane = lane_[l];
      for (; lane.outputs_end != lane.outputs_begin && lane.outputs_end[-1].step == n; --lane.outputs_end) {
        const Output& o = lane.outputs_end[-1];
        const T* g = given(lane, o);
        if (o.x == 1.0) {
          for (Index f = 0; f < n_; ++f) lambda_[f * lanes_ + l] += g[f];
          continue;
        }
        const std::vector<double> w = output_weights(s_.method, o.x, true);
        for (int j = 0; j < stages_ - 1; ++j) {
          const T weight = static_cast<T>(w[j] * record_[lane.row].dt[n]);
          for (Index f = 0; f < n_; ++f) slope(j)[f * lanes_ + l] += weight * g[f];
        }
        for (Index f = 0; f < n_; ++f) carry_[f * lanes_ + l] += g[f];
      }
    }
  }

  // The vector-Jacobian product of the evaluation in `slot`, with the cotangent of its slope; see TileSweep.
  const T* pull(int slot, Gradients<T>& gradients) {
    const Program& p = engine_.program;
    const Workspace<T>& w = tile_.workspace();
    if (p.has_cotangent) tile_.copy(w.at(p.cotangent, slot), slope(slot), n_);
    w.run_adjoint(slot);
    gradients.add(w, slot);
    for (std::size_t a = 0; a < argument_sums_.size(); ++a) {
      const Value& v = p.argument_cotangents[a];
      add(argument_sums_[a].data(), w.at(v, slot), T(1), one(), v.width);
    }
    const T* g = w.at(p.state_cotangent, slot);
    add(lambda_, g, T(1), one(), tile_.seen());
    return g;
  }

  const Setting<T>& s_;
  const Engine<T>& engine_;
  const std::vector<RowRecord<T>>& record_;
  const T* y_last_;
  const double* t_last_;
  const T* grad_out_;
  Index count_;
  std::vector<double> times_;
  RowTile<T> tile_;
  Index lanes_, n_;
  int stages_;
  Weights<T> b_;
  Buffer<T> memory_;
  T *y_, *lambda_, *carry_;
  std::vector<Lane> lane_;
  std::vector<Buffer<T>> argument_sums_;
};

}  // namespace

template <class T>
bool solve_rows(const Setting<T>& setting, const Engine<T>& engine, const RowState& state, const RowRule& rule, T* y,
                const RowTolerances<T>& tolerances, const RowOutputTimes<T>& outputs, std::vector<RowRecord<T>>* record,
                Interrupt interrupt) {
  const Index rows = setting.tiling.rows;
  if (record != nullptr) record->resize(rows);
  const Buffer<T> slopes(rows * setting.features);
  Queue queue;
  queue.rows = rows;
  Stop stop(interrupt);
  const Index workers = std::max<Index>(1, std::min<Index>(setting.threads, setting.tiling.tiles));
  auto begin = [&](Index worker) {
    RowSolver<T> solver(setting, engine, state, rule, y, tolerances, outputs, record, slopes);
    solver.begin_rows(rows * worker / workers, rows * (worker + 1) / workers, slopes);
  };
  parallel_for(workers, setting.threads, begin);
  auto work = [&](Index) {
    RowSolver<T> solver(setting, engine, state, rule, y, tolerances, outputs, record, slopes);
    solver.run(queue, stop);
  };
  parallel_for(workers, setting.threads, work);
  return !stop;
}

template <class T>
bool sweep_rows(const Setting<T>& setting, const Engine<T>& engine, const std::vector<RowRecord<T>>& record, const T* y_last,
                const double* t_last, const T* grad_out, Index count, T* grad_y, const std::vector<T*>& grad_arguments,
                const std::vector<T*>& grad_constants, Interrupt interrupt) {
  std::vector<Index> rows;
  // A row that nothing depends on is left out: the derivatives of one that failed need not be finite.
  const auto matters = [&](const T* g, Index n) { return std::any_of(g, g + n, [](T x) { return x != T(0); }); };
  const Index features = setting.features;
  for (Index r = 0; r < setting.tiling.rows; ++r) {
    if (record[r].t.empty()) continue;
    if (matters(grad_y + r * features, features) || matters(grad_out + r * count * features, count * features)) rows.push_back(r);
  }
  std::stable_sort(rows.begin(), rows.end(), [&](Index a, Index b) { return record[a].t.size() > record[b].t.size(); });
  const Tiling tiling(static_cast<Index>(rows.size()), engine.lanes, MOST_GROUPS);
  std::vector<std::unique_ptr<Gradients<T>>> groups(tiling.groups);
  Stop stop(interrupt);
  auto task = [&](Index group) {
    groups[group] = std::make_unique<Gradients<T>>(engine);
    RowSweep<T> row_sweep(setting, engine, record, y_last, t_last, grad_out, count);
    for (Index i = tiling.first(group); i < tiling.first(group + 1) && !stop; ++i) {
      row_sweep.run(rows.data() + i * tiling.lanes, tiling.rows_in(i), grad_y, grad_arguments, *groups[group], stop);
      stop.check();
    }
  };
  parallel_for(tiling.groups, setting.threads, task);
  for (const auto& group : groups) group->add_to(grad_constants);
  return !stop;
}

template bool sweep_rows<float>(const Setting<float>&, const Engine<float>&, const std::vector<RowRecord<float>>&,
                                const float*, const double*, const float*, Index, float*, const std::vector<float*>&,
                                const std::vector<float*>&, Interrupt);
template bool sweep_rows<double>(const Setting<double>&, const Engine<double>&, const std::vector<RowRecord<double>>&,
                                 const double*, const double*, const double*, Index, double*, const std::vector<double*>&,
                                 const std::vector<double*>&, Interrupt);
template bool solve_rows<float>(const Setting<float>&, const Engine<float>&, const RowState&, const RowRule&, float*,
                                const RowTolerances<float>&, const RowOutputTimes<float>&, std::vector<RowRecord<float>>*,
                                Interrupt);
template bool solve_rows<double>(const Setting<double>&, const Engine<double>&, const RowState&, const RowRule&, double*,
                                 const RowTolerances<double>&, const RowOutputTimes<double>&,
                                 std::vector<RowRecord<double>>*, Interrupt);

}  // namespace fastode::field
