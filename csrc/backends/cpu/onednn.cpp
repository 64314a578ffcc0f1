#include "backends/cpu/onednn.h"

#include <cstring>

#include "backends/cpu/quantise.h"

namespace adfast::cpu {
namespace {

template <class T>
dnnl::memory vector_of(const dnnl::engine& engine, dnnl::memory::data_type type,
                       const std::vector<T>& values) {
  const auto size = static_cast<dnnl::memory::dim>(values.size());
  dnnl::memory result({{size}, type, dnnl::memory::format_tag::x}, engine);
  std::memcpy(result.get_data_handle(), values.data(), values.size() * sizeof(T));
  return result;
}

// See widened(). A copy of f32 for each tensor in bf16, behind the step's own scratch.
class Widened final : public Operator {
 public:
  Widened(std::unique_ptr<Operator> inner, const Device& device, const OperatorRequest& request)
      : inner_(std::move(inner)),
        convert_(device.kernels->unary),
        scratch_(cache_lines(inner_->scratch_bytes())) {
    for (const Tensor* input : request.inputs) inputs_.push_back(copy_of(input));
    for (const Tensor* output : request.outputs) outputs_.push_back(copy_of(output));
  }

  std::function<void()> bind(const Binding& binding) const override {
    using kernels::DType;
    Binding wide = binding;
    std::vector<kernels::UnaryArgs> before, after;
    const auto convert = [](const void* from, DType type, void* to, DType to_type, int64_t count) {
      return kernels::UnaryArgs{kernels::Unary::identity, from, type, to, to_type, count};
    };
    auto* scratch = static_cast<std::byte*>(binding.scratch);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const auto [count, offset] = inputs_[i];
      if (count == 0) continue;
      wide.inputs[i] = scratch + offset;
      before.push_back(convert(binding.inputs[i], DType::bf16, wide.inputs[i], DType::f32, count));
    }
    for (size_t i = 0; i < outputs_.size(); ++i) {
      const auto [count, offset] = outputs_[i];
      if (count == 0) continue;
      wide.outputs[i] = scratch + offset;
      after.push_back(convert(wide.outputs[i], DType::f32, binding.outputs[i], DType::bf16, count));
    }
    return [before, after, run = inner_->bind(wide), convert_all = convert_] {
      for (const kernels::UnaryArgs& args : before) share_unary(convert_all, args);
      run();
      for (const kernels::UnaryArgs& args : after) share_unary(convert_all, args);
    };
  }
  size_t scratch_bytes() const override { return scratch_; }
  double flops() const override { return inner_->flops(); }
  size_t packed_bytes() const override { return inner_->packed_bytes(); }
  std::string kernel() const override { return inner_->kernel() + ":widened"; }

 private:
  struct Copy {
    int64_t count = 0;  // elements; 0: none is needed
    size_t offset = 0;  // into scratch
  };

  static size_t cache_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

  Copy copy_of(const Tensor* tensor) {
    if (tensor == nullptr || tensor->dtype != DType::bf16) return {};
    const Copy copy{element_count(tensor->shape), scratch_};
    scratch_ += cache_lines(static_cast<size_t>(copy.count) * sizeof(float));
    return copy;
  }

  std::unique_ptr<Operator> inner_;
  void (*convert_)(const kernels::UnaryArgs&);
  size_t scratch_;
  std::vector<Copy> inputs_, outputs_;
};

}  // namespace

bool onednn_has(dnnl::cpu_isa isa) {
  const auto effective = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (effective & static_cast<int>(isa)) == static_cast<int>(isa);
}

bool onednn_has_vnni() {
  return onednn_has(dnnl::cpu_isa::avx512_core_vnni) || onednn_has(dnnl::cpu_isa::avx2_vnni);
}

bool must_widen(const OperatorRequest& request) {
  const auto narrow = [](const Tensor* t) { return t != nullptr && t->dtype == DType::bf16; };
  return (std::ranges::any_of(request.inputs, narrow) ||
          std::ranges::any_of(request.outputs, narrow)) &&
         !onednn_has(dnnl::cpu_isa::avx512_core) && !onednn_has(dnnl::cpu_isa::avx2_vnni_2);
}

std::unique_ptr<Operator> widened(const OperatorRequest& request, const Device& device,
                                  decltype(Op::make) make) {
  std::vector<Tensor> copies;
  copies.reserve(request.inputs.size() + request.outputs.size());
  const auto wide = [&copies](const Tensor* tensor) -> Tensor* {
    if (tensor == nullptr) return nullptr;
    Tensor& copy = copies.emplace_back(*tensor);
    if (copy.dtype == DType::bf16) copy.dtype = DType::f32;
    return &copy;
  };
  OperatorRequest in_f32{request.node, {}, {}};
  for (const Tensor* input : request.inputs) in_f32.inputs.push_back(wide(input));
  for (const Tensor* output : request.outputs) in_f32.outputs.push_back(wide(output));
  Device without_bf16 = device;
  without_bf16.features = without_bf16.products = DType::f32;
  without_bf16.operands = without_bf16.points = DType::f32;
  return std::make_unique<Widened>(make(in_f32, without_bf16), device, request);
}

dnnl::memory packed(const dnnl::engine& engine, const Tensor& tensor,
                    const dnnl::memory::desc& plain, const dnnl::memory::desc& wanted) {
  dnnl::memory result(wanted, engine);
  // oneDNN does not write through a source handle; its interface just lacks the const.
  dnnl::memory source(plain, engine, const_cast<std::byte*>(tensor.data.data()));
  dnnl::stream stream(engine);
  dnnl::reorder(source, result).execute(stream, source, result);
  stream.wait();
  return result;
}

dnnl::primitive_attr fused_attributes(nodes::Activation activation, bool residual,
                                      const dnnl::memory::desc& residual_desc) {
  using dnnl::algorithm;
  dnnl::post_ops post;
  if (residual) post.append_binary(algorithm::binary_add, residual_desc);
  switch (activation) {
    case nodes::Activation::none:
      break;
    case nodes::Activation::relu:
      post.append_eltwise(algorithm::eltwise_relu, 0, 0);
      break;
    case nodes::Activation::sigmoid:
      post.append_eltwise(algorithm::eltwise_logistic, 0, 0);
      break;
    case nodes::Activation::silu:
      post.append_eltwise(algorithm::eltwise_swish, 1, 0);
      break;
    case nodes::Activation::gelu:
      post.append_eltwise(algorithm::eltwise_gelu_erf, 0, 0);
      break;
    case nodes::Activation::tanh:
      post.append_eltwise(algorithm::eltwise_tanh, 0, 0);
      break;
  }
  dnnl::primitive_attr attr;
  attr.set_post_ops(post);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

bool is_int8(const OperatorRequest& request) { return request.inputs[0]->dtype == DType::u8; }

void set_levels(dnnl::primitive_attr* attr, const OperatorRequest& request, int rows) {
  attr->set_scales_mask(DNNL_ARG_SRC, 0);
  attr->set_scales_mask(DNNL_ARG_WEIGHTS, rows);
  // A zero point costs time where there is none.
  if (request.inputs[0]->levels.zero != 0) attr->set_zero_points_mask(DNNL_ARG_SRC, 0);
  if (request.outputs[0]->dtype != DType::u8) return;
  attr->set_scales_mask(DNNL_ARG_DST, 0);
  if (request.outputs[0]->levels.zero != 0) attr->set_zero_points_mask(DNNL_ARG_DST, 0);
}

std::vector<Argument> int8_arguments(const Device& device, const OperatorRequest& request,
                                     const dnnl::memory::desc& plain,
                                     const dnnl::memory::desc& wanted) {
  using dnnl::memory;
  QuantisedWeight weight = quantised_weight(request);
  memory packed_weight(wanted, device.engine);
  memory source(plain, device.engine, weight.values.data());
  dnnl::stream stream(device.engine);
  dnnl::reorder(source, packed_weight).execute(stream, source, packed_weight);
  stream.wait();

  const auto f32 = memory::data_type::f32, s32 = memory::data_type::s32;
  std::vector<Argument> arguments = {
      {DNNL_ARG_WEIGHTS, packed_weight},
      {DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, vector_of(device.engine, f32, weight.scales)}};
  const auto levels_of = [&](int argument, const Tensor& tensor) {
    if (tensor.dtype != DType::u8) return;
    const auto [scale, zero] = tensor.levels;
    arguments.push_back({DNNL_ARG_ATTR_SCALES | argument,
                         vector_of(device.engine, f32, std::vector<float>{scale})});
    if (zero == 0) return;
    arguments.push_back({DNNL_ARG_ATTR_ZERO_POINTS | argument,
                         vector_of(device.engine, s32, std::vector<int32_t>{zero})});
  };
  levels_of(DNNL_ARG_SRC, *request.inputs[0]);
  levels_of(DNNL_ARG_DST, *request.outputs[0]);
  return arguments;
}

OnednnOperator::OnednnOperator(dnnl::primitive primitive, const dnnl::primitive_desc_base& desc,
                               dnnl::engine engine, std::vector<Argument> constants,
                               std::vector<Slot> slots, double flops)
    : primitive_(std::move(primitive)),
      engine_(std::move(engine)),
      scratch_(desc.scratchpad_desc()),
      constants_(std::move(constants)),
      slots_(std::move(slots)),
      flops_(flops),
      kernel_(std::string("onednn:") + desc.impl_info_str()) {}

size_t OnednnOperator::packed_bytes() const {
  size_t bytes = 0;
  for (const Argument& argument : constants_) bytes += argument.memory.get_desc().get_size();
  return bytes;
}

std::function<void()> OnednnOperator::bind(const Binding& binding) const {
  struct Call {
    dnnl::primitive primitive;
    dnnl::stream stream;
    std::vector<dnnl::memory> memories;  // keep the handles below alive
    std::vector<dnnl_exec_arg_t> args;
    void add(int index, const dnnl::memory& memory) {
      memories.push_back(memory);
      args.push_back({index, memory.get()});
    }
  };
  auto call = std::make_shared<Call>(Call{primitive_, dnnl::stream(engine_), {}, {}});
  for (const Argument& argument : constants_) call->add(argument.index, argument.memory);
  for (const Slot& slot : slots_) {
    const auto& side = slot.kind == Slot::input ? binding.inputs : binding.outputs;
    call->add(slot.index, dnnl::memory(slot.desc, engine_, side[slot.position]));
  }
  if (scratch_.get_size() > 0) {
    call->add(DNNL_ARG_SCRATCHPAD, dnnl::memory(scratch_, engine_, binding.scratch));
  }
  return [call] {
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(call->primitive.get(), call->stream.get(),
                               static_cast<int>(call->args.size()), call->args.data()),
        "oneDNN could not run the primitive");
  };
}

}  // namespace adfast::cpu
