// The CPU backend: a table of ops over oneDNN (convolutions, pooling, products) and our kernels.
#pragma once
#include <omp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/kernels.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "runtime/nodes.h"
#include "runtime/operator.h"

namespace adfast::cpu {

struct Device {
  dnnl::engine engine;
  const kernels::Table* kernels;
  DType features;
  // Tokens, being f32, are rounded to this for products of many rows.
  DType products;
  // Steps whose node says how its input is quantised run in int8.
  bool int8 = false;
  // Products in bf16 for every one in f32.
  double bf16_rate = 1;
  Tactics tactics = {};

  // The word for a step; empty: its own estimate decides.
  std::string tactic(const Node& node) const {
    const auto found = tactics.find(node.name);
    const auto other = found == tactics.end() ? tactics.find("*") : found;
    return other == tactics.end() ? "" : other->second;
  }
};

// Which element type an operand must have. An index is a constant of i32; nothing else is.
enum class OperandType { any, f32, features, index };

// An op's row in the table. `inputs` and `outputs` bound their numbers.
struct Op {
  const char* name;
  size_t min_inputs, max_inputs, outputs;
  // Operand types, the last one repeated (none: any); results follow `result`.
  std::vector<OperandType> operands;
  // as_read: features where every reader takes them, else f32.
  enum class Result { features, f32, as_first, as_read, sum, product } result;
  std::unique_ptr<Operator> (*make)(const OperatorRequest&, const Device&);
  int optional = -1;     // an input below min_inputs that may be absent
  bool product = false;  // of input 0 and a constant: many rows are multiplied as Device::products
  bool writes_u8 = false;  // where every reader takes it; steps in int8 do so too
};

// Families; each returns its rows.
std::vector<Op> convolution_ops();
std::vector<Op> linear_ops();
std::vector<Op> detector_ops();
std::vector<Op> halo_ops();
std::vector<Op> elementwise_ops();
std::vector<Op> shape_ops();

using nodes::constant;
using nodes::floats;
using nodes::input_or_null;
using nodes::refuse;
using nodes::require;
using nodes::require_result;

inline kernels::Levels kernel_levels(const Levels& levels) {
  return {1 / levels.scale, static_cast<float>(levels.zero)};
}
inline kernels::DType kernel_type(DType type) { return static_cast<kernels::DType>(type); }

// Calls body(begin, end) for shares of `rows` rows, each on its own thread where there is work for
// several. Results must not depend on the shares.
template <class Body>
void share_rows(int64_t rows, int64_t width, Body&& body) {
  // Below, threads wake no sooner than one of them is done.
  constexpr int64_t worth_waking = int64_t{1} << 20;
  const int64_t parts =
      rows * width < worth_waking ? 1 : std::min<int64_t>(rows, omp_get_max_threads());
  if (parts == 1) return body(int64_t{0}, rows);
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static)
  for (int64_t part = 0; part < parts; ++part) {
    const uint32_t control = kernels::flush_denormals();
    body(rows * part / parts, rows * (part + 1) / parts);
    kernels::restore_denormals(control);
  }
}

// Elements are shared out in blocks, so that no two threads write to one cache line.
void share_unary(void (*run)(const kernels::UnaryArgs&), const kernels::UnaryArgs& args);

// An operator made of a function that binds and a few figures: most of them need no more.
class SimpleOperator final : public Operator {
 public:
  using Bind = std::function<std::function<void()>(const Binding&)>;
  SimpleOperator(std::string kernel, double flops, size_t scratch, Bind bind)
      : kernel_(std::move(kernel)), flops_(flops), scratch_(scratch), bind_(std::move(bind)) {}
  std::function<void()> bind(const Binding& binding) const override { return bind_(binding); }
  size_t scratch_bytes() const override { return scratch_; }
  double flops() const override { return flops_; }
  std::string kernel() const override { return kernel_; }

 private:
  std::string kernel_;
  double flops_;
  size_t scratch_;
  Bind bind_;
};

inline std::unique_ptr<Operator> kernel_operator(const Device& device, double flops, size_t scratch,
                                                 SimpleOperator::Bind bind) {
  return std::make_unique<SimpleOperator>(std::string("adfast:") + device.kernels->name, flops,
                                          scratch, std::move(bind));
}

}  // namespace adfast::cpu
