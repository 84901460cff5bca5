#pragma once
// A test is a function that returns after CHECKs; main counts the failures.
#include <cmath>
#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      ++failures;                                                              \
      std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
    }                                                                          \
  } while (false)

inline bool close(double a, double b, double tolerance = 1e-14) { return std::fabs(a - b) <= tolerance * (1 + std::fabs(b)); }
