#pragma once
// What the native code may be given. Python passes addresses and sizes; everything is checked here, once, at the door.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace fastode {

namespace py = pybind11;
using Address = std::uintptr_t;

// A FakeTensor and a tensor without storage report address 0 and no error.
template <class T = void>
T* pointer(Address address, std::int64_t elements, std::size_t alignment, const char* name) {
  if (address == 0 && elements > 0) {
    throw py::value_error("`" + std::string(name) + "` is a null pointer for " + std::to_string(elements) +
                          " elements; pass data_ptr() of a contiguous tensor with storage (fake and meta tensors have none)");
  }
  if (address % alignment != 0) {
    throw py::value_error("`" + std::string(name) + "` is not aligned to its elements of " + std::to_string(alignment) +
                          " bytes");
  }
  return reinterpret_cast<T*>(address);
}

template <class T>
T* array(Address address, std::int64_t elements, const char* name) {
  return pointer<T>(address, elements, sizeof(T), name);
}

inline void check_itemsize(int itemsize) {
  if (itemsize == 4 || itemsize == 8) return;
  throw py::value_error("`itemsize` is " + std::to_string(itemsize) + "; allowed are 4 (float32) and 8 (float64)");
}

inline void check_size(std::int64_t size, const char* name) {
  if (size < 0) throw py::value_error("`" + std::string(name) + "` is " + std::to_string(size) + "; it must not be negative");
}

// rows * cols elements of `itemsize` bytes must be addressable.
inline void check_shape(std::int64_t rows, std::int64_t cols) {
  check_size(rows, "rows");
  check_size(cols, "cols");
  if (cols > 0 && rows > (std::int64_t{1} << 60) / cols) throw py::value_error("`rows` * `cols` is more than memory can hold");
}

inline int check_threads(int threads) {
  if (threads < 1) throw py::value_error("`threads` is " + std::to_string(threads) + "; it must be at least 1");
  return threads < 1024 ? threads : 1024;
}

inline int check_lanes(int lanes) {
  if (lanes == 0 || lanes == 4 || lanes == 8 || lanes == 16) return lanes;
  throw py::value_error("`lanes` is " + std::to_string(lanes) + "; allowed are 0 (any order of summation), 4, 8 and 16");
}

}  // namespace fastode
