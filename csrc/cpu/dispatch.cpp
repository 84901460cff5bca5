#include "dispatch.h"

#include "../field/kernels.h"

#include <atomic>
#include <stdexcept>

namespace fastode {

namespace baseline {
extern const Target target;
extern const field::FieldTarget field_target;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Target target;
extern const field::FieldTarget field_target;
}
namespace avx512 {
extern const Target target;
extern const field::FieldTarget field_target;
}
#endif

namespace {

struct Choice {
  const char* name;
  const Target* target;
  const field::FieldTarget* field;
  bool supported;
};

const std::vector<Choice>& choices() {
  static const std::vector<Choice> list = {
#if defined(__x86_64__)
      {"avx512", &avx512::target, &avx512::field_target,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")},
      {"avx2", &avx2::target, &avx2::field_target, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
      {"baseline", &baseline::target, &baseline::field_target, true},
  };
  return list;
}

const Choice* best() {
  for (const Choice& choice : choices()) {
    if (choice.supported) return &choice;
  }
  return &choices().back();
}

std::atomic<const Choice*>& current() {
  static std::atomic<const Choice*> choice{best()};
  return choice;
}

}  // namespace

const Target& current_target() { return *current().load(std::memory_order_relaxed)->target; }

const field::FieldTarget& field::current_field_target() { return *current().load(std::memory_order_relaxed)->field; }

std::string target_name() { return current().load()->name; }

std::vector<std::string> supported_targets() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) {
    if (choice.supported) names.emplace_back(choice.name);
  }
  return names;
}

void select_target(const std::string& name) {
  std::string allowed;
  for (const Choice& choice : choices()) {
    if (!choice.supported) continue;
    if (name == choice.name) {
      current().store(&choice);
      return;
    }
    allowed += (allowed.empty() ? "" : ", ") + std::string(choice.name);
  }
  throw std::invalid_argument("CPU target '" + name + "' is not available on this processor. Available: " + allowed);
}

}  // namespace fastode
