// Whether a field is what it was in the solve before, asked in one call: most solves are like the one before.
#include <pybind11/pybind11.h>

#include <cstdlib>
#include <vector>

namespace py = pybind11;

namespace fastode {
namespace {

// What containers hold, or null: dictionaries are asked directly.
py::object item_of(const py::handle& container, const py::handle& key) {
  if (PyDict_Check(container.ptr())) {
    return py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(container.ptr(), key.ptr()));
  }
  py::object found = py::reinterpret_steal<py::object>(PyObject_GetItem(container.ptr(), key.ptr()));
  if (!found) PyErr_Clear();
  return found;
}

class FieldWatch {
 public:
  FieldWatch(const py::list& same, const py::list& absent, const py::list& sizes, const py::list& tensors, py::object dtype)
      : dtype_(std::move(dtype)) {
    for (const auto& entry : same) {
      const auto [container, key, value] = entry.cast<std::tuple<py::object, py::object, py::object>>();
      same_.push_back({container, key, value});
    }
    for (const auto& entry : absent) {
      const auto [container, key] = entry.cast<std::tuple<py::dict, py::object>>();
      same_.push_back({container, key, py::object()});
    }
    for (const auto& entry : sizes) {
      const auto [container, size] = entry.cast<std::tuple<py::dict, Py_ssize_t>>();
      sizes_.push_back({container, size});
    }
    for (const auto& entry : tensors) {
      const auto [container, key, shape] = entry.cast<std::tuple<py::object, py::object, py::object>>();
      tensors_.push_back({container, key, shape});
    }
  }

  // The tensors as they are now; None if anything is not what it was.
  py::object tensors() const {
    for (const Entry& e : same_) {
      if (item_of(e.container, e.key).ptr() != e.value.ptr()) return changed();
    }
    for (const Sized& s : sizes_) {
      if (PyDict_Size(s.container.ptr()) != s.size) return changed();
    }
    py::list found(tensors_.size());
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const Entry& e = tensors_[i];
      py::object x = item_of(e.container, e.key);
      if (!x || !is_plain(x, e.value)) return changed();
      PyList_SET_ITEM(found.ptr(), static_cast<Py_ssize_t>(i), x.release().ptr());
    }
    return found;
  }

 private:
  struct Entry {
    py::object container, key, value;  // no value: there must be none
  };
  struct Sized {
    py::object container;
    Py_ssize_t size;
  };

  static py::object changed() {
    PyErr_Clear();  // what is gone, or is no tensor, is not what it was
    return py::none();
  }

  // Whether the engine can read a tensor where it lies.
  bool is_plain(const py::object& x, const py::object& shape) const {
    static PyObject* const names[] = {PyUnicode_InternFromString("dtype"), PyUnicode_InternFromString("is_cpu"),
                                      PyUnicode_InternFromString("shape"), PyUnicode_InternFromString("is_contiguous"),
                                      PyUnicode_InternFromString("is_neg")};
    const auto attribute = [&](int i) { return py::reinterpret_steal<py::object>(PyObject_GetAttr(x.ptr(), names[i])); };
    const auto called = [&](int i) { return py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(x.ptr(), names[i])); };
    if (attribute(0).ptr() != dtype_.ptr() || attribute(1).ptr() != Py_True) return false;
    const py::object now = attribute(2);
    if (!now || PyObject_RichCompareBool(now.ptr(), shape.ptr(), Py_EQ) != 1) return false;
    return called(3).ptr() == Py_True && called(4).ptr() == Py_False;
  }

  std::vector<Entry> same_, tensors_;
  std::vector<Sized> sizes_;
  py::object dtype_;
};

}  // namespace

void register_watch(py::module_& m) {
  using py::arg;
  py::class_<FieldWatch>(m, "FieldWatch", "Whether dictionaries hold the same objects, and tensors are as they were.")
      .def(py::init<const py::list&, const py::list&, const py::list&, const py::list&, py::object>(), arg("same"), arg("absent"),
           arg("sizes"), arg("tensors"), arg("dtype"))
      .def("tensors", &FieldWatch::tensors);
  m.def("environment", [](const char* name) { return std::getenv(name); }, arg("name"), "An environment variable, or None.");
}

}  // namespace fastode
