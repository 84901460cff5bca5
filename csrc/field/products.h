#pragma once
// Products with constant matrices that a solve in steps of all rows keeps, so that its gradient need not make them again.
//
// Roofline. An element of a product with n columns costs 2 n flops; keeping it costs three passes over it (its line is read and
// written, later read again). At 100 Gflop/s and 8 GB/s a core these are 0.02 n and 1.5 nanoseconds: see WORTH_KEEPING in
// fastode/compiler/lower.py, which marks the products.
#include "workspace.h"

namespace fastode::field {

template <class T>
class KeptProducts {
 public:
  KeptProducts() = default;

  // `chained`: the first stage of a step is the last one of the step before, and only the very first is evaluated by itself.
  KeptProducts(const Engine<T>& engine, Index tiles, int stages, bool chained)
      : size_(padded_to(engine.program.kept * engine.lanes, PAD)),
        tiles_(tiles),
        evaluations_(chained ? stages - 1 : stages),
        chained_(chained) {}

  // Takes memory for step `step` unless that was done, if it then has `room` bytes at most.
  void begin_step(Index step, Index room) {
    if (size_ == 0) return;
    if (step == 0 && chained_ && first_.size() == 0) first_ = fitting(size_ * tiles_, room);
    if (static_cast<Index>(steps_.size()) == step) steps_.push_back(fitting(size_ * tiles_ * evaluations_, room));
  }

  // Gives memory back, that of the last steps first.
  void limit(Index room) {
    for (std::size_t n = steps_.size(); n-- > 0 && bytes_ > room;) release(steps_[n]);
    if (bytes_ > room) release(first_);
  }

  // Those of a stage on a tile; null if they are not kept.
  T* at(Index step, int stage, Index tile) const {
    if (size_ == 0) return nullptr;
    if (chained_ && step == 0 && stage == 0) return first_.size() == 0 ? nullptr : first_.data() + tile * size_;
    if (chained_ && stage == 0) {
      --step;
      stage = evaluations_;
    }
    const Buffer<T>& kept = steps_[step];
    return kept.size() == 0 ? nullptr : kept.data() + (tile * evaluations_ + stage - (chained_ ? 1 : 0)) * size_;
  }

  Index bytes() const { return bytes_; }

 private:
  Buffer<T> fitting(Index count, Index room) {
    const Index bytes = count * static_cast<Index>(sizeof(T));
    if (bytes_ + bytes > room) return Buffer<T>();
    bytes_ += bytes;
    return Buffer<T>::unset(count);
  }

  void release(Buffer<T>& kept) {
    bytes_ -= kept.size() * static_cast<Index>(sizeof(T));
    kept = Buffer<T>();
  }

  Index size_ = 0, tiles_ = 0;  // numbers of one evaluation of a tile
  int evaluations_ = 0;
  bool chained_ = false;
  Index bytes_ = 0;
  Buffer<T> first_;
  std::vector<Buffer<T>> steps_;  // [tiles, evaluations, size] each
};

}  // namespace fastode::field
