#pragma once
// Products with constant matrices that a solve in steps of all rows keeps, so that its gradient need not make them again.
//
// Roofline. An element of a product with n columns costs 2 n flops; keeping it costs three passes over it (its line is read and
// written, later read again). At 100 Gflop/s and 8 GB/s a core these are 0.02 n and 1.5 nanoseconds: see WORTH_KEEPING in
// fastode/compiler/lower.py, which marks the products.
#include <atomic>
#include <utility>

#include "workspace.h"

namespace fastode::field {

// Bytes that a record keeps. Those of records without a bound of their own count together: a graph may hold many solves.
class KeptBytes {
 public:
  KeptBytes() = default;
  explicit KeptBytes(bool together) : together_(together) {}
  KeptBytes(KeptBytes&& other) noexcept { *this = std::move(other); }
  KeptBytes& operator=(KeptBytes&& other) noexcept {
    add(-count_);
    count_ = std::exchange(other.count_, 0);
    together_ = other.together_;
    return *this;
  }
  ~KeptBytes() { add(-count_); }

  Index count() const { return count_; }
  // Of all records that count with this one.
  Index counted() const { return together_ ? all_.load() : count_; }
  void add(Index bytes) {
    count_ += bytes;
    if (together_) all_ += bytes;
  }

 private:
  static inline std::atomic<Index> all_{0};
  Index count_ = 0;
  bool together_ = false;
};

template <class T>
class KeptProducts {
 public:
  KeptProducts() = default;

  // `chained`: the first stage of a step is the last one of the step before, and only the very first is evaluated by itself.
  // `together`: with other records, the bytes are those of all.
  KeptProducts(const Engine<T>& engine, Index tiles, int stages, bool chained, bool together)
      : size_(padded_to(engine.program.kept * engine.lanes, PAD)),
        tiles_(tiles),
        evaluations_(chained ? stages - 1 : stages),
        chained_(chained),
        bytes_(together) {}

  // Takes memory for step `step` unless that was done, if it then has `room` bytes at most.
  void begin_step(Index step, Index room) {
    if (size_ == 0) return;
    if (step == 0 && chained_ && first_.size() == 0) first_ = fitting(size_ * tiles_, room);
    if (static_cast<Index>(steps_.size()) == step) steps_.push_back(fitting(size_ * tiles_ * evaluations_, room));
  }

  // Gives memory back, that of the last steps first.
  void limit(Index room) {
    for (std::size_t n = steps_.size(); n-- > 0 && bytes_.counted() > room;) release(steps_[n]);
    if (bytes_.counted() > room) release(first_);
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

  Index bytes() const { return bytes_.count(); }

 private:
  Buffer<T> fitting(Index count, Index room) {
    const Index bytes = count * static_cast<Index>(sizeof(T));
    if (bytes_.counted() + bytes > room) return Buffer<T>();
    bytes_.add(bytes);
    return Buffer<T>::unset(count);
  }

  void release(Buffer<T>& kept) {
    bytes_.add(-kept.size() * static_cast<Index>(sizeof(T)));
    kept = Buffer<T>();
  }

  Index size_ = 0, tiles_ = 0;  // numbers of one evaluation of a tile
  int evaluations_ = 0;
  bool chained_ = false;
  KeptBytes bytes_;
  Buffer<T> first_;
  std::vector<Buffer<T>> steps_;  // [tiles, evaluations, size] each
};

}  // namespace fastode::field
