// What convolutions, pooling and products share: packing constants once, binding memory, running
// without building argument maps per call.
#pragma once
#include <vector>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

inline dnnl::memory::data_type onednn_type(DType type) {
  if (type == DType::u8) return dnnl::memory::data_type::u8;
  return type == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// Whether oneDNN may use an instruction set here: the processor has it, and ADFAST_ISA allows it.
bool onednn_has(dnnl::cpu_isa isa);
bool onednn_has_vnni();
// Whether this machine keeps the sizes of its caches from oneDNN, which then goes wrong.
bool caches_are_hidden();

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

// The values of `source`, which has no blocks, in the layout of `result`, one by one; what pads it
// becomes zero. For machines on which oneDNN does that wrong. Both have one type.
void pack_by_strides(const dnnl::memory& source, const dnnl::memory& result);

// Post-ops in the order of the graph's semantics: add the residual, then activate.
dnnl::primitive_attr fused_attributes(nodes::Activation activation, bool residual,
                                      const dnnl::memory::desc& residual_desc);

// A step in int8: u8 times s8 weights, one scale a row (an output channel). Its sums are whole
// numbers; bias, residual and activation are added to them in f32.
bool is_int8(const OperatorRequest& request);
// Lets `attr` take scales and zeros; `rows` is the mask of the weight's output channels.
void set_levels(dnnl::primitive_attr* attr, const OperatorRequest& request, int rows);
// The quantised weight in the layout of `wanted`, and all scales and zeros. `plain`: as packed().
std::vector<Argument> int8_arguments(const Device& device, const OperatorRequest& request,
                                     const dnnl::memory::desc& plain,
                                     const dnnl::memory::desc& wanted);

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

// Whether oneDNN lacks a step that reads and writes as `request` does: it has bf16 on AVX-512 and
// on AVX2 with conversions only, where it knows the caches.
bool must_widen(const OperatorRequest& request);
// The step as `make` makes it for f32, its operands widened into scratch and its results rounded.
std::unique_ptr<Operator> widened(const OperatorRequest& request, const Device& device,
                                  decltype(Op::make) make);

}  // namespace adfast::cpu
