// The discrete adjoint of solves in which every row has its own steps.
//
// Going backwards, rows with like numbers of steps share a tile. A lane whose row has no such step waits at the row's first
// state with a step of zero: its cotangents are zero there, and stay so. (At its last state the field may have no derivative.)
// Steps of a row after the last that anything depends on are left out, too: their derivatives need not be finite.
// Where not every state is kept, a segment of steps is taken again since the last state that all rows of the tile have.
#include <algorithm>
#include <memory>

#include "../cpu/threads.h"
#include "gradients.h"
#include "row_tile.h"
#include "rows.h"

namespace fastode::field {
namespace {

template <class T>
bool matters(const T* cotangent, Index count) {
  return std::any_of(cotangent, cotangent + count, [](T x) { return x != T(0); });
}

// Rows in the lanes of a tile, from their last steps to their first.
template <class T>
class RowSweep {
 public:
  RowSweep(const Setting<T>& setting, const Engine<T>& engine, const std::vector<RowRecord<T>>& record, const T* y_last,
           const double* t_last, const T* grad_out, Index count, const T* grad_pieces,
           const std::vector<Index>& first_piece, const std::vector<Index>& used_steps)
      : s_(setting),
        engine_(engine),
        record_(record),
        y_last_(y_last),
        t_last_(t_last),
        grad_out_(grad_out),
        count_(count),
        grad_pieces_(grad_pieces),
        first_piece_(first_piece),
        used_steps_(used_steps),
        times_(3 * engine.lanes),
        tile_(setting, engine, setting.method.stages, &times_[0], &times_[engine.lanes], &times_[2 * engine.lanes]),
        lanes_(engine.lanes),
        n_(setting.features),
        stages_(setting.method.stages),
        last_(setting.method.ends_with_slope ? stages_ - 1 : stages_),
        b_(setting.method.b.data(), stages_),
        memory_((stages_ + 3) * tile_.size()),
        y_(memory_.data() + stages_ * tile_.size()),
        lambda_(y_ + tile_.size()),
        carry_(lambda_ + tile_.size()),
        lane_(lanes_) {
    for (const std::int32_t argument : engine.program.differentiated) {
      argument_sums_.emplace_back(padded_to(engine.program.arguments[argument].width * lanes_, PAD));
    }
    for (int power = 0; power < pieces_of(true) && grad_pieces != nullptr; ++power) {
      piece_weights_.push_back(piece_weights(setting.method, power, true));
    }
  }

  // `rows` has the row with most steps first; each has one at least.
  void run(const Index* rows, Index count, T* grad_y, const std::vector<T*>& grad_arguments, Gradients<T>& gradients,
           Stop& stop) {
    begin(rows, count, grad_y);
    const bool shares = last_ < stages_;
    const Index steps = used_steps_[rows[0]];
    for (Index n = steps - 1; n >= 0; --n) {
      if (n % 64 == 63 && stop.check()) return;
      if (shares) {
        const bool wanted = outputs_at_end_slope(n);
        if (n < steps - 1 || wanted) {
          if (n == steps - 1) {
            load_all(y_, steps);
            set_steps(steps);
            tile_.slope_at(y_, 0, 0);
          }
          pull(0, gradients);
        }
      }
      const T* y = load_step(n, steps);
      const T* k[MAX_FIELD_STAGES];
      k[0] = tile_.slope_at(y, 0, 0);
      for (int i = 1; i < last_; ++i) k[i] = tile_.stage(i, y, k, i);
      std::fill_n(memory_.data(), stages_ * tile_.size(), T(0));
      std::fill_n(carry_, tile_.size(), T(0));
      outputs_inside(n);
      for (int j = 0; j < b_.count; ++j) add(slope(b_.stage[j]), lambda_, b_.weight[j], tile_.steps(), n_);
      add(lambda_, carry_, T(1), one(), n_);
      for (int i = last_ - 1; i >= 1; --i) {
        const T* g = pull(i, gradients);
        const Weights<T>& a = tile_.a(i);
        for (int j = 0; j < a.count; ++j) add(slope(a.stage[j]), g, a.weight[j], tile_.steps(), tile_.seen());
      }
      if (n == 0 || !shares) pull(0, gradients);
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
    every_ = 1;
    for (Index l = 0; l < count; ++l) every_ = std::max(every_, record_[rows[l]].every);
    if (every_ > 1 && segment_.size() < (every_ + stages_) * tile_.size()) {
      segment_ = Buffer<T>((every_ + stages_) * tile_.size());
    }
    for (Buffer<T>& sums : argument_sums_) std::fill_n(sums.data(), sums.size(), T(0));
    for (Index l = 0; l < lanes_; ++l) {
      const Index row = rows[std::min(l, count - 1)];  // spare lanes repeat a row, without steps
      const RowRecord<T>& r = record_[row];
      const Output* outputs = r.outputs.data();
      Lane& lane = lane_[l] = {row, 0, outputs, outputs, false};
      if (l < count) {
        const Index last = r.steps() - 1;
        lane.steps = used_steps_[row];
        lane.outputs_end = outputs + r.outputs.size();
        while (lane.outputs_end != outputs && lane.outputs_end[-1].step >= lane.steps) --lane.outputs_end;
        if (lane.steps == r.steps()) {
          lane.needs_last = grad_pieces_ != nullptr && matters(given_piece(lane, last, 1), (pieces_of(true) - 1) * n_);
          for (const Output& o : r.outputs) lane.needs_last |= o.step == last && o.x != 1.0;
        }
      }
      tile_.load_arguments(l, row);
      if (l < count) {
        for (Index f = 0; f < n_; ++f) lambda_[f * lanes_ + l] = grad_y[row * n_ + f];
      }
    }
  }

  // Where step n of each lane begins.
  const T* load_step(Index n, Index steps) {
    if (every_ == 1) {
      load_all(y_, n);
      set_steps(n);
      return y_;
    }
    const Index start = n / every_ * every_;
    if (n == start + every_ - 1 || n == steps - 1) take_again(start, n);
    set_steps(n);
    return segment_.data() + (n - start) * tile_.size();
  }

  // States before steps start, ..., n into the segment.
  void take_again(Index start, Index n) {
    const T* k[MAX_FIELD_STAGES];
    for (int i = 0; i < last_; ++i) k[i] = segment_.data() + (every_ + i) * tile_.size();
    load_all(segment_.data(), start);
    for (Index m = start; m < n; ++m) {
      const T* y = segment_.data() + (m - start) * tile_.size();
      T* y1 = segment_.data() + (m + 1 - start) * tile_.size();
      set_steps(m);
      for (int i = 0; i < last_; ++i) {
        tile_.copy(const_cast<T*>(k[i]), i == 0 ? tile_.slope_at(y, 0, 0) : tile_.stage(i, y, k, 0), n_);
      }
      tile_.combine(y1, y, b_, k, n_);
      for (Index l = 0; l < lanes_; ++l) {
        if (m + 1 >= lane_[l].steps) load_kept(l, y1, m + 1);
      }
    }
  }

  void load_all(T* to, Index n) const {
    for (Index l = 0; l < lanes_; ++l) load_kept(l, to, n);
  }

  // Whether the slope at the end of the lane's last step is wanted, and step n would begin there.
  static bool is_at_end(const Lane& lane, Index n) { return n == lane.steps && lane.needs_last; }

  // The state before step n, which the row has kept. Without such a step it is where the lane waits.
  void load_kept(Index l, T* to, Index n) const {
    const Lane& lane = lane_[l];
    const RowRecord<T>& r = record_[lane.row];
    const T* y = is_at_end(lane, n) ? y_last_ + lane.row * n_ : r.states.data() + (n < lane.steps ? n / r.every * n_ : 0);
    for (Index f = 0; f < n_; ++f) to[f * lanes_ + l] = y[f];
  }

  void set_steps(Index n) {
    for (Index l = 0; l < lanes_; ++l) {
      const Lane& lane = lane_[l];
      const RowRecord<T>& r = record_[lane.row];
      const double wait = is_at_end(lane, n) ? t_last_[lane.row] : r.start;
      if (n < lane.steps) tile_.set_step(l, r.t(n), r.dt[n], r.t1[n]);
      else tile_.set_step(l, wait, 0.0, wait);
    }
  }

  // What outputs inside step n take from the slope at its end; whether there are any.
  bool outputs_at_end_slope(Index n) {
    bool any = false;
    for (Index l = 0; l < lanes_; ++l) {
      const Lane& lane = lane_[l];
      for (const Output* o = lane.outputs_end; o != lane.outputs_begin && o[-1].step == n; --o) {
        if (o[-1].x == 1.0) continue;
        any = true;
        const double w = output_weights(s_.method, o[-1].x, true)[stages_ - 1];
        add_to_lane(slope(0), l, w * record_[lane.row].dt[n], given(lane, o[-1]));
      }
      if (grad_pieces_ == nullptr || n >= lane.steps) continue;
      any = true;
      for (int power = 1; power < pieces_of(true); ++power) {
        add_to_lane(slope(0), l, piece_weights_[power][stages_ - 1] * record_[lane.row].dt[n], given_piece(lane, n, power));
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
          add_to_lane(lambda_, l, 1.0, g);
          continue;
        }
        add_to_slopes(l, output_weights(s_.method, o.x, true), record_[lane.row].dt[n], g);
        add_to_lane(carry_, l, 1.0, g);
      }
      if (grad_pieces_ == nullptr || n >= lane.steps) continue;
      add_to_lane(carry_, l, 1.0, given_piece(lane, n, 0));
      for (int power = 1; power < pieces_of(true); ++power) {
        add_to_slopes(l, piece_weights_[power], record_[lane.row].dt[n], given_piece(lane, n, power));
      }
    }
  }

  // The cotangents of the slopes that step n itself evaluates, from dt sum_j w_j k_j.
  void add_to_slopes(Index l, const std::vector<double>& w, double dt, const T* g) const {
    for (int j = 0; j < last_; ++j) {
      if (w[j] != 0.0) add_to_lane(slope(j), l, w[j] * dt, g);
    }
  }

  void add_to_lane(T* total, Index l, double w, const T* g) const {
    for (Index f = 0; f < n_; ++f) total[f * lanes_ + l] += static_cast<T>(w) * g[f];
  }

  const T* given_piece(const Lane& lane, Index n, int power) const {
    return grad_pieces_ + ((first_piece_[lane.row] + n) * pieces_of(true) + power) * n_;
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
  const T* grad_pieces_;
  const std::vector<Index>& first_piece_;  // of each row, among the pieces of all
  const std::vector<Index>& used_steps_;   // of each row
  std::vector<double> times_;
  RowTile<T> tile_;
  Index lanes_, n_;
  int stages_;
  int last_;  // stages but for one that is the first of the next step
  Index every_ = 1;  // of all rows in the tile
  Weights<T> b_;
  Buffer<T> memory_, segment_;
  T *y_, *lambda_, *carry_;
  std::vector<Lane> lane_;
  std::vector<std::vector<double>> piece_weights_;
  std::vector<Buffer<T>> argument_sums_;
};

}  // namespace

template <class T>
bool sweep_rows(const Setting<T>& setting, const Engine<T>& engine, const std::vector<RowRecord<T>>& record, const T* y_last,
                const double* t_last, const T* grad_out, Index count, const T* grad_pieces, T* grad_y,
                const std::vector<T*>& grad_arguments, const std::vector<T*>& grad_constants, Interrupt interrupt) {
  std::vector<Index> rows, first_piece, used_steps;
  const Index features = setting.features, of_piece = pieces_of(true) * features;
  // How many steps of row r there are up to the last that anything depends on, and the next, whose first slope is its last.
  const auto used = [&](Index r, Index first) {
    const Index steps = record[r].steps();
    if (matters(grad_y + r * features, features)) return steps;
    Index last = 0;
    for (const auto& o : record[r].outputs) {
      if (matters(grad_out + (r * count + o.index) * features, features)) last = o.step + 1;
    }
    for (Index n = steps; grad_pieces != nullptr && n > last; --n) {
      if (matters(grad_pieces + (first + n - 1) * of_piece, of_piece)) last = n;
    }
    return last == 0 || !setting.method.ends_with_slope ? last : std::min(steps, last + 1);
  };
  Index pieces = 0;
  for (Index r = 0; r < setting.tiling.rows; ++r) {
    first_piece.push_back(pieces);
    used_steps.push_back(used(r, pieces));
    if (used_steps.back() > 0) rows.push_back(r);
    pieces += record[r].steps();
  }
  std::stable_sort(rows.begin(), rows.end(), [&](Index a, Index b) { return used_steps[a] > used_steps[b]; });
  const Tiling tiling(static_cast<Index>(rows.size()), engine.lanes, MOST_GROUPS);
  std::vector<std::unique_ptr<Gradients<T>>> groups(tiling.groups);
  Stop stop(interrupt);
  auto task = [&](Index group) {
    groups[group] = std::make_unique<Gradients<T>>(engine);
    RowSweep<T> row_sweep(setting, engine, record, y_last, t_last, grad_out, count, grad_pieces, first_piece, used_steps);
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
                                const float*, const double*, const float*, Index, const float*, float*,
                                const std::vector<float*>&, const std::vector<float*>&, Interrupt);
template bool sweep_rows<double>(const Setting<double>&, const Engine<double>&, const std::vector<RowRecord<double>>&,
                                 const double*, const double*, const double*, Index, const double*, double*,
                                 const std::vector<double*>&, const std::vector<double*>&, Interrupt);

}  // namespace fastode::field
