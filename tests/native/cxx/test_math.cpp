// The elementary functions of csrc/field/math.inl against the library's of twice the precision, on every instruction set the
// processor has. `test_math table` also prints the largest errors.
#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "math_target.h"

namespace {

const double INF = std::numeric_limits<double>::infinity();
const double NOT = std::numeric_limits<double>::quiet_NaN();
const char* const NAMES[] = {"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "erf", "sin", "cos", "atan"};
const Function FUNCTIONS[] = {Function::exp,     Function::expm1,    Function::log, Function::log1p, Function::tanh,
                              Function::sigmoid, Function::softplus, Function::erf, Function::sin,   Function::cos,
                              Function::atan};

struct NamedTarget {
  const char* name;
  const Target* target;
};

std::vector<NamedTarget> targets() {
  std::vector<NamedTarget> found = {{"baseline", &baseline::target}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back({"avx2", &avx2::target});
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    found.push_back({"avx512", &avx512::target});
#endif
  return found;
}

void apply(const Target& target, Function function, const std::vector<float>& x, std::vector<float>& y) {
  target.floats(function, x.data(), y.data(), x.size());
}
void apply(const Target& target, Function function, const std::vector<double>& x, std::vector<double>& y) {
  target.doubles(function, x.data(), y.data(), x.size());
}

template <class T>
std::vector<T> values(const Target& target, Function function, std::vector<T> x) {
  const std::size_t n = x.size();
  x.resize((n + 15) / 16 * 16);
  std::vector<T> y(x.size());
  apply(target, function, x, y);
  y.resize(n);
  return y;
}

template <class W>
W exact(Function function, W x) {
  switch (function) {
    case Function::exp: return std::exp(x);
    case Function::expm1: return std::expm1(x);
    case Function::log: return std::log(x);
    case Function::log1p: return std::log1p(x);
    case Function::tanh: return std::tanh(x);
    case Function::sigmoid: return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
    case Function::softplus: return std::max(x, W(0)) + std::log1p(std::exp(-std::fabs(x)));
    case Function::erf: return std::erf(x);
    case Function::sin: return std::sin(x);
    case Function::cos: return std::cos(x);
    case Function::atan: return std::atan(x);
  }
  return x;
}

// In units of the spacing of T's numbers at the exact value; infinity counts as the number after the largest.
template <class T, class W>
double ulps(T y, W exact) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(y) || std::isnan(exact)) return std::isnan(y) && std::isnan(exact) ? 0 : INF;
  const W beyond = std::ldexp(W(1), Limits::max_exponent);
  const W a = std::clamp(W(y), -beyond, beyond), b = std::clamp(exact, -beyond, beyond);
  const int least = Limits::min_exponent, most = Limits::max_exponent;
  const int exponent = b == 0 ? least : std::clamp(std::ilogb(b) + 1, least, most);
  return static_cast<double>(std::fabs(std::ldexp(a - b, Limits::digits - exponent)));
}

template <class T, class W>
void are_within_four_ulps(const std::vector<T>& x, bool table) {
  for (Function function : FUNCTIONS) {
    std::vector<W> right(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) right[i] = exact<W>(function, x[i]);
    for (const NamedTarget& t : targets()) {
      const std::vector<T> y = values(*t.target, function, x);
      double largest = 0;
      T where = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double error = ulps<T, W>(y[i], right[i]);
        if (error > largest) largest = error, where = x[i];
      }
      const char* name = NAMES[static_cast<int>(function)];
      CHECK(largest <= 4);
      if (table || !(largest <= 4))
        std::printf("%d %-8s %-8s %.2f ulp at %.17g\n", int(sizeof(T) * 8), name, t.name, largest, double(where));
    }
  }
}

// Numbers where some function changes its form, with their neighbours.
template <class T>
void add_neighbours(std::vector<T>& x, int count) {
  using Limits = std::numeric_limits<T>;
  const double ln2 = 0.69314718055994531, pi = 3.14159265358979324;
  std::vector<double> points = {0,   0.5,   0.70710678118654752, 1,   1.41421356237309505, 2,
                                4,   5.95,  9,                   17,  20,                  40,
                                89,  88.72, 103.97,              104, 709.78,              710,
                                746, 745.1, 6e3,                 1e5, 3e6,                 1e9,
                                Limits::min(), Limits::max() / 2, Limits::max()};
  for (int i = -40; i <= 40; ++i) points.push_back((i + 0.5) * ln2);
  for (int i = 1; i <= 63; ++i) points.push_back(i * pi / 2);
  for (double i = 64; i < 1e9; i *= 1.3) points.push_back(std::floor(i) * pi / 2);
  for (double point : points) {
    for (T sign : {T(-1), T(1)}) {
      T below = sign * T(point), above = below;
      for (int i = 0; i < count; ++i) {
        x.push_back(below);
        x.push_back(above);
        below = std::nextafter(below, T(-INF));
        above = std::nextafter(above, T(INF));
      }
    }
  }
}

void floats_are_within_four_ulps(bool table) {
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < std::uint64_t(1) << 32; bits += 4099) {
    const std::uint32_t low = static_cast<std::uint32_t>(bits);
    float f;
    std::memcpy(&f, &low, sizeof f);
    x.push_back(f);
  }
  add_neighbours(x, 50);
  are_within_four_ulps<float, double>(x, table);
}

void doubles_are_within_four_ulps(bool table) {
  std::vector<double> x;
  std::mt19937_64 random(1);
  for (int i = 0; i < 100000; ++i) {
    const std::uint64_t bits = random();
    double d;
    std::memcpy(&d, &bits, sizeof d);
    x.push_back(d);
    const double unit = 2 * std::ldexp(static_cast<double>(random() >> 11), -53) - 1;
    for (double width : {1.0, 8.0}) x.push_back(width * unit);
    x.push_back(800 * unit);
    x.push_back(std::ldexp(unit, i % 64 - 30));
  }
  add_neighbours(x, 4);
  are_within_four_ulps<double, long double>(x, table);
}

bool same(double a, double b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

template <class T>
void special_values_are_right() {
  struct Case {
    Function function;
    double x, y;
  };
  const Case cases[] = {
      {Function::exp, -INF, 0},     {Function::exp, INF, INF},      {Function::exp, 0, 1},        {Function::exp, -0.0, 1},
      {Function::exp, 1e9, INF},    {Function::exp, -1e9, 0},       {Function::expm1, -INF, -1},  {Function::expm1, INF, INF},
      {Function::expm1, 0, 0},      {Function::expm1, -0.0, -0.0},  {Function::expm1, 1e9, INF},  {Function::expm1, -1e9, -1},
      {Function::log, 0, -INF},     {Function::log, -0.0, -INF},    {Function::log, -1, NOT},     {Function::log, -INF, NOT},
      {Function::log, INF, INF},    {Function::log, 1, 0},          {Function::log, -1e-40, NOT}, {Function::log1p, -1, -INF},
      {Function::log1p, -2, NOT},   {Function::log1p, -INF, NOT},   {Function::log1p, INF, INF},  {Function::log1p, 0, 0},
      {Function::log1p, -0.0, -0.0}, {Function::tanh, INF, 1},      {Function::tanh, -INF, -1},   {Function::tanh, 0, 0},
      {Function::tanh, -0.0, -0.0}, {Function::tanh, 50, 1},        {Function::sigmoid, -INF, 0}, {Function::sigmoid, INF, 1},
      {Function::sigmoid, 0, 0.5},  {Function::sigmoid, -0.0, 0.5}, {Function::sigmoid, 1e9, 1},  {Function::softplus, -INF, 0},
      {Function::softplus, INF, INF}, {Function::softplus, 1e9, 1e9}, {Function::softplus, -1e9, 0}, {Function::erf, INF, 1},
      {Function::erf, -INF, -1},    {Function::erf, 0, 0},          {Function::erf, -0.0, -0.0},  {Function::erf, 7, 1},
      {Function::sin, INF, NOT},    {Function::sin, -INF, NOT},     {Function::sin, 0, 0},        {Function::sin, -0.0, -0.0},
      {Function::cos, INF, NOT},    {Function::cos, -INF, NOT},     {Function::cos, 0, 1},        {Function::cos, -0.0, 1},
      {Function::atan, 0, 0},       {Function::atan, -0.0, -0.0},   {Function::atan, INF, T(1.57079632679489662)},
      {Function::atan, -INF, -T(1.57079632679489662)},
  };
  for (const NamedTarget& t : targets()) {
    for (const Case& c : cases) {
      const T y = values<T>(*t.target, c.function, {T(c.x)})[0];
      CHECK(same(y, c.y));
      if (!same(y, c.y)) std::printf("%s %s(%g) = %.17g\n", t.name, NAMES[static_cast<int>(c.function)], c.x, double(y));
    }
    for (Function function : FUNCTIONS) CHECK(std::isnan(values<T>(*t.target, function, {T(NOT)})[0]));
  }
}

template <class T>
void bounded_functions_stay_in_their_bounds() {
  std::vector<T> x;
  for (int i = -200000; i <= 200000; ++i) x.push_back(T(i) / 15000);
  for (const NamedTarget& t : targets())
    for (Function function : {Function::tanh, Function::sigmoid, Function::erf, Function::sin, Function::cos}) {
      T largest = 0;
      for (T y : values(*t.target, function, x)) largest = std::max(largest, std::fabs(y));
      CHECK(largest <= 1);
      if (!(largest <= 1)) std::printf("%s %s reaches %.17g\n", t.name, NAMES[static_cast<int>(function)], double(largest));
    }
}

template <class T>
void a_value_does_not_depend_on_its_lane() {
  const std::vector<T> x = {T(0.3), T(-2), T(1e10), T(NOT), T(-INF), T(1e-40), T(700), T(-0.0), T(2.5), T(-90), T(7e3), T(1)};
  for (const NamedTarget& t : targets())
    for (Function function : FUNCTIONS) {
      const std::vector<T> together = values(*t.target, function, x);
      for (std::size_t i = 0; i < x.size(); ++i)
        for (T alone : values(*t.target, function, std::vector<T>(16, x[i]))) CHECK(same(together[i], alone));
    }
}

}  // namespace

int main(int count, char** words) {
  const bool table = count > 1 && std::strcmp(words[1], "table") == 0;
  floats_are_within_four_ulps(table);
  doubles_are_within_four_ulps(table);
  special_values_are_right<float>();
  special_values_are_right<double>();
  bounded_functions_stay_in_their_bounds<float>();
  bounded_functions_stay_in_their_bounds<double>();
  a_value_does_not_depend_on_its_lane<float>();
  a_value_does_not_depend_on_its_lane<double>();
  return failures == 0 ? 0 : 1;
}
