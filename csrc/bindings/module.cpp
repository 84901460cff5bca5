#include <pybind11/pybind11.h>

namespace fastode {
void register_targets(pybind11::module_& m);
void register_kernels(pybind11::module_& m);
void register_control(pybind11::module_& m);
void register_field(pybind11::module_& m);
void register_watch(pybind11::module_& m);
}  // namespace fastode

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of fastode for CPU tensors: addresses and sizes in, no torch inside.";
  fastode::register_targets(m);
  fastode::register_kernels(m);
  fastode::register_control(m);
  fastode::register_field(m);
  fastode::register_watch(m);
}
