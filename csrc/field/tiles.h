#pragma once
// Rows of a batch as tiles [features, lanes]. The last tile's spare lanes repeat its last row, so that nothing there is out of
// the field's domain when the rows are not; what they compute is never read.
#include <atomic>

#include "workspace.h"

namespace fastode::field {

struct Tiling {
  Index rows, lanes, tiles, groups;

  // Groups of neighbouring tiles are the tasks of a solve. How many there are depends on the sizes alone, so that sums over a
  // group, and the sum of the groups, are the same for any number of threads.
  Tiling(Index row_count, Index lane_count, Index most_groups)
      : rows(row_count),
        lanes(lane_count),
        tiles((row_count + lane_count - 1) / lane_count),
        groups(std::max<Index>(1, std::min(tiles, most_groups))) {}

  Index first(Index group) const { return tiles * group / groups; }
  Index rows_in(Index tile) const { return std::min(lanes, rows - tile * lanes); }
};

constexpr Index MOST_GROUPS = 32;
constexpr int MAX_FIELD_STAGES = 32;

// Samples a tile. More lanes let a weight serve more samples; fewer leave no lane idle in a small batch.
template <class T>
Index choose_lanes(Index rows, Index vector_lanes) {
  if (rows <= 1) return 1;
  if (rows <= vector_lanes) return vector_lanes;
  if (rows <= 2 * vector_lanes) return 2 * vector_lanes;
  return 4 * vector_lanes;
}

template <class T>
void load_tile(const T* rows_data, Index features, const Tiling& tiling, Index tile, T* out) {
  const Index lanes = tiling.lanes, count = tiling.rows_in(tile);
  const T* from = rows_data + tile * lanes * features;
  for (Index l = 0; l < lanes; ++l) {
    const T* row = from + std::min(l, count - 1) * features;
    for (Index f = 0; f < features; ++f) out[f * lanes + l] = row[f];
  }
}

template <class T>
void store_tile(const T* tile_data, Index features, const Tiling& tiling, Index tile, T* rows_data) {
  const Index lanes = tiling.lanes, count = tiling.rows_in(tile);
  T* to = rows_data + tile * lanes * features;
  for (Index l = 0; l < count; ++l) {
    for (Index f = 0; f < features; ++f) to[l * features + f] = tile_data[f * lanes + l];
  }
}

// As load_tile, with spare lanes 0: cotangents.
template <class T>
void load_cotangent(const T* rows_data, Index features, const Tiling& tiling, Index tile, T* out) {
  const Index lanes = tiling.lanes, count = tiling.rows_in(tile);
  const T* from = rows_data + tile * lanes * features;
  for (Index l = 0; l < lanes; ++l) {
    for (Index f = 0; f < features; ++f) out[f * lanes + l] = l < count ? from[l * features + f] : T(0);
  }
}

// A method's numbers in the state's precision, zero weights left out.
template <class T>
struct Weights {
  int count = 0;
  int stage[MAX_FIELD_STAGES];
  T weight[MAX_FIELD_STAGES];

  Weights() = default;
  Weights(const double* numbers, int stages) {
    for (int j = 0; j < stages; ++j) {
      if (numbers[j] == 0.0) continue;
      stage[count] = j;
      weight[count++] = static_cast<T>(numbers[j]);
    }
  }
};

// Weights w_j of y(t + x dt) = y + dt sum_j w_j k_j: torchdiffeq's quartic, or a straight line.
std::vector<double> output_weights(const Method& method, double x, bool quartic);

// The same as a polynomial in x: weights of the coefficient of x^power. That of x^0 is y, without slopes.
std::vector<double> piece_weights(const Method& method, int power, bool quartic);
constexpr int pieces_of(bool quartic) { return quartic ? 5 : 2; }

// What does not change during a solve.
template <class T>
struct Setting {
  const Program& program;
  const Method& method;
  Tiling tiling;
  Index features;   // of the solver's state; the field depends on the first program.state.width of them
  int threads;
  std::vector<const T*> arguments;  // [rows, width] each
  bool time_is_float32;

  double round_time(double t) const { return time_is_float32 ? static_cast<double>(static_cast<float>(t)) : t; }
  // In the arithmetic of the times, every operation of which rounds.
  double stage_time(int i, double t, double dt, double t1) const {
    const double c = method.c[i];
    if (c == 1.0) return t1;
    return time_is_float32 ? static_cast<float>(t) + static_cast<float>(c) * static_cast<float>(dt) : t + c * dt;
  }
};

// The rows of a method's `a`, by stage.
template <class T>
std::vector<Weights<T>> stage_weights(const Method& method) {
  std::vector<Weights<T>> a;
  a.reserve(method.stages);
  a.emplace_back();
  for (int i = 1; i < method.stages; ++i) a.emplace_back(&method.a[i * method.stages], i);
  return a;
}

// Called now and then by the thread that waits; true stops the solve.
struct Interrupt {
  bool (*asked)(void* context) = nullptr;
  void* context = nullptr;
};

// The thread that called asks whether to stop; the others look.
class Stop {
 public:
  explicit Stop(Interrupt interrupt) : interrupt_(interrupt) {}
  bool check() {
    if (!asked_ && interrupt_.asked != nullptr && interrupt_.asked(interrupt_.context)) asked_ = true;
    return asked_;
  }
  explicit operator bool() const { return asked_; }

 private:
  Interrupt interrupt_;
  std::atomic<bool> asked_{false};
};

}  // namespace fastode::field
