#pragma once
// Sums of the constants' gradients over the tiles of one group.
#include "workspace.h"

namespace fastode::field {

template <class T>
class Gradients {
 public:
  explicit Gradients(const Engine<T>& engine) : engine_(engine) {
    Index widest = 0;
    for (const MatrixGradient& m : engine.program.matrix_gradients) {
      const Index rows = std::min(m.g.width, m.x.width), cols = std::max(m.g.width, m.x.width);
      matrices_.emplace_back(rows * padded_to(cols, PAD));
      widest = std::max(widest, padded_to(cols, PAD));
    }
    for (const VectorGradient& v : engine.program.vector_gradients) vectors_.emplace_back(padded_to(v.g.width, PAD));
    transposed_ = Buffer<T>(widest * engine.lanes + PAD);
  }

  // Adds what the adjoint run at a stage has found.
  void add(const Workspace<T>& workspace, Index slot) {
    const Program& p = engine_.program;
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const MatrixGradient& m = p.matrix_gradients[i];
      const bool flip = m.g.width > m.x.width;  // vectors run along the longer side
      const Value& along = flip ? m.g : m.x;
      const Value& across = flip ? m.x : m.g;
      const T* wide = workspace.at(along, slot);
      const Index lanes = engine_.lanes_of(along.area);
      if (lanes > 1) {
        engine_.kernels.transpose(wide, along.width, lanes, transposed_.data());
        wide = transposed_.data();
      }
      engine_.kernels.outer(workspace.at(across, slot), across.width, wide, along.width, lanes, matrices_[i].data());
    }
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      const VectorGradient& v = p.vector_gradients[i];
      const T* g = workspace.at(v.g, slot);
      for (Index f = 0; f < v.g.width; ++f) vectors_[i][f] += g[f];
    }
  }

  // Adds the sums to the constants' gradients.
  void add_to(const std::vector<T*>& constants) const {
    const Program& p = engine_.program;
    const Index lanes = engine_.kernels.vector_lanes;
    for (std::size_t i = 0; i < matrices_.size(); ++i) {
      const MatrixGradient& m = p.matrix_gradients[i];
      const bool flip = m.g.width > m.x.width;
      const Index rows = m.g.width, cols = m.x.width, padded = padded_to(std::max(rows, cols), lanes);
      T* out = constants[m.constant];
      for (Index r = 0; r < rows; ++r) {
        for (Index c = 0; c < cols; ++c) {
          out[m.transposed ? c * rows + r : r * cols + c] += flip ? matrices_[i][c * padded + r] : matrices_[i][r * padded + c];
        }
      }
    }
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      T* out = constants[p.vector_gradients[i].constant];
      for (Index f = 0; f < p.vector_gradients[i].g.width; ++f) out[f] += vectors_[i][f];
    }
  }

 private:
  const Engine<T>& engine_;
  std::vector<Buffer<T>> matrices_, vectors_;
  Buffer<T> transposed_;
};

}  // namespace fastode::field
