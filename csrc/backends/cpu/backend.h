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
#include "runtime/op_rules.h"
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
  // What our own kernels multiply, where products are most of their work: attention's, and those of
  // Winograd's algorithm at its points.
  DType operands = DType::f32, points = DType::f32;
  Tactics tactics = {};

  // The word for a step; empty: its own estimate decides.
  std::string tactic(const Node& node) const {
    const auto found = tactics.find(node.name);
    const auto other = found == tactics.end() ? tactics.find("*") : found;
    return other == tactics.end() ? "" : other->second;
  }
};

struct Op : OpRules {
  std::unique_ptr<Operator> (*make)(const OperatorRequest&, const Device&);
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
  // Below, threads wake no sooner than one of them is done. Above, sharing also leaves each core
  // with the rows that it wrote in the step before.
  constexpr int64_t worth_waking = int64_t{1} << 14;
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

inline std::unique_ptr<Operator> kernel_operator(const Device& device, double flops, size_t scratch,
                                                 SimpleOperator::Bind bind) {
  return std::make_unique<SimpleOperator>(std::string("adfast:") + device.kernels->name, flops,
                                          scratch, std::move(bind));
}

}  // namespace adfast::cpu
