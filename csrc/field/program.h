#pragma once
// A field program as the engine runs it: instructions over values that live in areas of a workspace.
//
// A value is a matrix [features, lanes], a lane being a sample of the tile at hand; a shared value has one lane and is the same
// for all samples. fastode/compiler/lower.py decides what lives where.
#include <cstdint>
#include <vector>

namespace fastode::field {

using Index = std::int64_t;

enum class Operator : std::int32_t {
#define UNARY(name, expression) name,
#define BINARY(name, expression) name,
#include "operators.def"
#undef UNARY
#undef BINARY
  where,      // inputs[0] != 0 ? inputs[1] : inputs[2]
  affine,     // packed matrix `matrix` times inputs[0] (+ inputs[1])
  gather,     // runs of features
  sum,        // consecutive groups of features
  rows_sum,   // over the lanes
  lookup,     // the group of inputs[0]'s features that the number inputs[1] names; NaN if it names none
  scatter,    // inputs[0] in the place of that group, 0 elsewhere: the transpose of lookup
  vector,     // constant `matrix`, a vector
  literal,    // `number`
};

// Where values live. What the values of a stage need is kept, for each stage, until its adjoint has run.
enum class Area : std::int32_t {
  LANES = 0,          // one for each stage
  SHARED = 1,         // one for each stage
  ADJOINT = 2,        // lanes, while one stage's adjoint runs
  ADJOINT_SHARED = 3,
  CONSTANT = 4,       // shared, computed once a solve
  ARGUMENT = 5,       // lanes, the per-row arguments
};
constexpr int AREAS = 6;
constexpr bool has_lanes(Area area) { return area == Area::LANES || area == Area::ADJOINT || area == Area::ARGUMENT; }
constexpr bool has_stages(Area area) { return area == Area::LANES || area == Area::SHARED; }

struct Value {
  Area area = Area::LANES;
  std::int32_t slot = 0;
  std::int32_t offset = 0;  // first feature: a value may be a part of another
  std::int32_t width = 0;
};

// Features [from, from + count) of input `input`, or feature `from` again and again if step is 0.
struct Run {
  std::int32_t input, from, count, step;
};

struct Instruction {
  Operator op;
  Value out;
  std::vector<Value> inputs;
  double number = 0.0;
  std::int32_t matrix = -1;
  std::vector<Run> runs;
  std::int32_t kept = -1;  // where its value is among the products that may be kept for a gradient
};

// A constant matrix [rows, cols], as an affine map reads it.
struct Matrix {
  std::int32_t constant, rows, cols;
  bool transposed;  // the constant is stored [cols, rows]
};

// sum over rows of g x' for one constant; accumulated as [rows, cols], or transposed where rows > cols.
struct MatrixGradient {
  std::int32_t constant;
  bool transposed;  // the constant is stored [cols, rows]
  Value g, x;
};

struct VectorGradient {
  std::int32_t constant;
  Value g;  // shared
};

struct Program {
  std::vector<Instruction> once, value, adjoint;
  std::vector<std::int32_t> slots[AREAS];  // features of each slot
  std::vector<Matrix> matrices;
  std::vector<MatrixGradient> matrix_gradients;
  std::vector<VectorGradient> vector_gradients;
  std::vector<Index> constants;            // elements of each
  std::vector<Value> arguments;            // in ARGUMENT
  std::vector<Value> argument_cotangents;  // of the arguments in `differentiated`
  std::vector<std::int32_t> differentiated;
  Index kept = 0;  // features of the products that may be kept for a gradient
  Value time, state, out, cotangent, state_cotangent;
  Value time_cotangent;  // of the time that the rows share, summed over a tile
  bool has_time = false, has_state = false, has_cotangent = false, has_state_cotangent = false, has_time_cotangent = false;
};

// A method: y1 = y + dt sum_j b[j] k_j with k_i = f(t + c[i] dt, y + dt sum_{j<i} a[i][j] k_j).
struct Method {
  int stages = 0;
  std::vector<double> c, a, b, error, mid;  // a is [stages, stages]
  // The last stage is the slope at the new state, and the first of the next step. With an error estimate but without this, the
  // step after takes the last stage for its first all the same where rows share the steps (torchdiffeq's rule), and evaluates its
  // own where they do not.
  bool ends_with_slope = false;
};

}  // namespace fastode::field
