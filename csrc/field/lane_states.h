#pragma once
// What the controller knows of the rows that are in the lanes of a tile.
#include <algorithm>
#include <cstring>
#include <vector>

#include "workspace.h"

namespace fastode::field {

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

}  // namespace fastode::field
