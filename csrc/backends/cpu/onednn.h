// What convolutions, pooling and products share: packing constants once, binding memory, running
// without building argument maps per call.
#pragma once
#include <vector>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

inline dnnl::memory::data_type onednn_type(DType type) {
  return type == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

struct Argument {
  int index;
  dnnl::memory memory;
};

// An argument whose memory is the context's.
struct Slot {
  int index;
  dnnl::memory::desc desc;
  enum Kind { input, output } kind;
  size_t position;
};

// `tensor`'s f32 values, described by `plain`, in the layout and type of `wanted`.
dnnl::memory packed(const dnnl::engine& engine, const Tensor& tensor,
                    const dnnl::memory::desc& plain, const dnnl::memory::desc& wanted);

// Post-ops in the order of the graph's semantics: add the residual, then the node's activation.
dnnl::primitive_attr fused_attributes(const Node& node, bool residual,
                                      const dnnl::memory::desc& residual_desc);

class OnednnOperator final : public Operator {
 public:
  OnednnOperator(dnnl::primitive primitive, const dnnl::primitive_desc_base& desc,
                 dnnl::engine engine, std::vector<Argument> constants, std::vector<Slot> slots,
                 double flops);
  std::function<void()> bind(const Binding& binding) const override;
  size_t scratch_bytes() const override { return scratch_.get_size(); }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override;
  std::string kernel() const override { return kernel_; }

 private:
  dnnl::primitive primitive_;
  dnnl::engine engine_;
  dnnl::memory::desc scratch_;
  std::vector<Argument> constants_;
  std::vector<Slot> slots_;
  double flops_;
  std::string kernel_;
};

}  // namespace adfast::cpu
