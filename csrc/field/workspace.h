#pragma once
// A program bound to a tile width, and the memory in which one thread runs it.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace fastode::field {

// Memory on a cache line's boundary, zeroed: what pads a value must not be a signalling or slow number.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index count) : size_(count) {
    if (count == 0) return;
    data_.reset(allocated(count, 64));
    std::fill_n(data_.get(), count, T(0));
  }
  // Not zeroed, for what is written whole before it is read; in huge pages where it is large, as the first touch of a page costs
  // more than writing to it.
  static Buffer unset(Index count) {
    constexpr std::size_t HUGE_PAGE = std::size_t{1} << 21;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    Buffer buffer;
    buffer.size_ = count;
    buffer.data_.get_deleter().alignment = bytes < HUGE_PAGE ? 64 : HUGE_PAGE;
    buffer.data_.reset(allocated(count, buffer.data_.get_deleter().alignment));
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE) madvise(buffer.data_.get(), bytes, MADV_HUGEPAGE);
#endif
    return buffer;
  }
  T* data() const { return data_.get(); }
  Index size() const { return size_; }
  T& operator[](Index i) const { return data_.get()[i]; }

 private:
  struct Free {
    std::size_t alignment = 64;
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{alignment}); }
  };
  static T* allocated(Index count, std::size_t alignment) {
    return static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t{alignment}));
  }
  std::unique_ptr<T, Free> data_;
  Index size_ = 0;
};

// Where the products of one evaluation that are kept are, or go to; null if none is.
template <class T>
struct Products {
  T* at = nullptr;
  bool made = false;
};

// What all threads of a solve share.
template <class T>
struct Engine {
  const Program& program;
  const FieldKernels<T>& kernels;
  Index lanes;                     // of a tile
  std::vector<const T*> constants;
  std::vector<Buffer<T>> panels, columns;  // forms of each matrix; empty where no instruction wants them

  Engine(const Program& p, Index lanes_of_a_tile, std::vector<const T*> constant_data)
      : program(p), kernels(field_kernels<T>()), lanes(lanes_of_a_tile), constants(std::move(constant_data)) {
    std::vector<bool> in_panels(p.matrices.size()), in_columns(p.matrices.size());
    for (const auto* list : {&p.once, &p.value, &p.adjoint}) {
      for (const Instruction& i : *list) {
        if (i.op != Operator::affine) continue;
        (has_lanes(i.out.area) && lanes > 1 ? in_panels : in_columns)[i.matrix] = true;
      }
    }
    panels.resize(p.matrices.size());
    columns.resize(p.matrices.size());
    for (std::size_t m = 0; m < p.matrices.size(); ++m) {
      const Matrix& matrix = p.matrices[m];
      const T* source = constants[matrix.constant];
      if (in_panels[m]) {
        panels[m] = Buffer<T>(Index{matrix.rows} * matrix.cols);
        kernels.pack(source, matrix, true, panels[m].data());
      }
      if (in_columns[m]) {
        columns[m] = Buffer<T>(padded_to(matrix.rows, PAD) * matrix.cols);
        kernels.pack(source, matrix, false, columns[m].data());
      }
    }
  }

  Index lanes_of(Area area) const { return has_lanes(area) ? lanes : 1; }
};

template <class T>
class Workspace {
 public:
  Workspace(const Engine<T>& engine, Index stages) : engine_(engine) {
    const Program& p = engine.program;
    Index total = 0;
    for (int a = 0; a < AREAS; ++a) {
      Index size = 0;
      for (const std::int32_t width : p.slots[a]) {
        offsets_[a].push_back(size);
        size += padded_to(width * engine.lanes_of(static_cast<Area>(a)), PAD);
      }
      starts_[a] = total;
      stage_size_[a] = has_stages(static_cast<Area>(a)) ? size : 0;
      total += has_stages(static_cast<Area>(a)) ? size * stages : size;
    }
    memory_ = Buffer<T>(total + PAD);
    std::size_t runs = 0;
    for (const auto* list : {&p.once, &p.value, &p.adjoint}) {
      for (const Instruction& i : *list) runs += i.runs.size();
    }
    runs_.reserve(runs);  // codes point into it
    value_ = placed(p.value);
    adjoint_ = placed(p.adjoint);
    const std::vector<Code<T>> once = placed(p.once);
    execute(once, 0, 0, once.size());
  }

  T* at(const Value& v, Index stage = 0) const {
    const int a = static_cast<int>(v.area);
    return memory_.data() + starts_[a] + stage * stage_size_[a] + offsets_[a][v.slot] +
           v.offset * engine_.lanes_of(v.area);
  }

  // The field at the state and time that are in place at this stage.
  void run_value(Index stage, Products<T> products = {}) const {
    std::size_t done = 0;
    if (products.at != nullptr) {
      for (std::size_t i = 0; i < value_.size(); ++i) {
        const Index kept = engine_.program.value[i].kept;
        if (kept < 0) continue;
        const Code<T>& c = value_[i];
        T* const product = c.out.data + stage * c.out.stage_stride;
        T* const place = products.at + kept * c.lanes;
        const std::size_t bytes = static_cast<std::size_t>(c.width * c.lanes) * sizeof(T);
        execute(value_, stage, done, products.made ? i : i + 1);
        if (products.made) std::memcpy(product, place, bytes);
        else std::memcpy(place, product, bytes);
        done = i + 1;
      }
    }
    execute(value_, stage, done, value_.size());
  }
  // Its vector-Jacobian product with the cotangent in place, at a stage where the field was run.
  void run_adjoint(Index stage) const { execute(adjoint_, stage, 0, adjoint_.size()); }

 private:
  void execute(const std::vector<Code<T>>& codes, Index stage, std::size_t from, std::size_t to) const {
    engine_.kernels.run(codes.data() + from, static_cast<Index>(to - from), stage);
  }

  Place<T> place(const Value& v, const Value& out) const {
    Place<T> p;
    const Index lanes = engine_.lanes_of(v.area);
    p.data = at(v);
    p.stage_stride = stage_size_[static_cast<int>(v.area)];
    const bool whole = v.width == out.width;
    if (engine_.lanes_of(out.area) == 1) {
      p.splat = !whole;
      p.feature_stride = whole ? 1 : 0;
    } else {
      p.splat = lanes == 1;
      p.feature_stride = whole && v.width > 1 ? lanes : 0;
      if (whole && lanes > 1) p.feature_stride = lanes;
    }
    return p;
  }

  std::vector<Code<T>> placed(const std::vector<Instruction>& instructions) {
    std::vector<Code<T>> codes;
    codes.reserve(instructions.size());
    for (const Instruction& i : instructions) {
      Code<T> c{};
      c.op = i.op;
      c.width = i.out.width;
      c.lanes = engine_.lanes_of(i.out.area);
      c.out = place(i.out, i.out);
      c.number = static_cast<T>(i.number);
      c.flat = true;
      if (i.op != Operator::gather) {
        for (std::size_t k = 0; k < i.inputs.size(); ++k) {
          c.in[k] = place(i.inputs[k], i.out);
          const bool along = i.inputs[k].width == i.out.width && !c.in[k].splat;
          if (!along && !(c.in[k].splat && c.in[k].feature_stride == 0)) c.flat = false;
        }
      }
      if (!i.inputs.empty()) {
        c.in_lanes = engine_.lanes_of(i.inputs[0].area);
        c.columns = i.inputs[0].width;
      }
      if (i.op == Operator::affine) {
        c.packed = (c.lanes > 1 ? engine_.panels : engine_.columns)[i.matrix].data();
        c.bias = i.inputs.size() == 2;
        c.bias_has_lanes = c.bias && has_lanes(i.inputs[1].area);
      }
      if (i.op == Operator::lookup || i.op == Operator::scatter) c.number_has_lanes = has_lanes(i.inputs[1].area);
      if (i.op == Operator::vector) c.in[0].data = const_cast<T*>(engine_.constants[i.matrix]);
      c.runs = runs_.data() + runs_.size();
      c.run_count = static_cast<Index>(i.runs.size());
      for (const Run& run : i.runs) {
        const Value& v = i.inputs[run.input];
        const Index lanes = engine_.lanes_of(v.area);
        runs_.push_back({at(v) + run.from * lanes, stage_size_[static_cast<int>(v.area)], run.step * lanes,
                          lanes == 1 && c.lanes > 1, run.count});
      }
      codes.push_back(c);
    }
    return codes;
  }

  const Engine<T>& engine_;
  Buffer<T> memory_;
  std::vector<Index> offsets_[AREAS];
  Index starts_[AREAS] = {}, stage_size_[AREAS] = {};
  std::vector<PlacedRun<T>> runs_;
  std::vector<Code<T>> value_, adjoint_;
};

// Workspaces for as many threads as ask at once.
template <class T>
class Workspaces {
 public:
  Workspaces(const Engine<T>& engine, Index stages) : engine_(engine), stages_(stages) {}

  std::unique_ptr<Workspace<T>> take() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        auto workspace = std::move(free_.back());
        free_.pop_back();
        return workspace;
      }
    }
    return std::make_unique<Workspace<T>>(engine_, stages_);
  }

  void give(std::unique_ptr<Workspace<T>> workspace) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(workspace));
  }

 private:
  const Engine<T>& engine_;
  Index stages_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace<T>>> free_;
};

}  // namespace fastode::field
