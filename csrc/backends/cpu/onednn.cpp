#include "backends/cpu/onednn.h"

namespace adfast::cpu {

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

dnnl::primitive_attr fused_attributes(const Node& node, bool residual,
                                      const dnnl::memory::desc& residual_desc) {
  using dnnl::algorithm;
  dnnl::post_ops post;
  if (residual) post.append_binary(algorithm::binary_add, residual_desc);
  const std::string& activation = node.attrs.text("activation");
  if (activation == "relu") {
    post.append_eltwise(algorithm::eltwise_relu, 0, 0);
  } else if (activation == "sigmoid") {
    post.append_eltwise(algorithm::eltwise_logistic, 0, 0);
  } else if (activation == "silu") {
    post.append_eltwise(algorithm::eltwise_swish, 1, 0);
  } else if (activation == "gelu") {
    post.append_eltwise(algorithm::eltwise_gelu_erf, 0, 0);
  } else if (activation == "tanh") {
    post.append_eltwise(algorithm::eltwise_tanh, 0, 0);
  } else {
    require(activation == "none", node,
            "activation '" + activation + "', expected none, relu, sigmoid, silu, gelu or tanh");
  }
  dnnl::primitive_attr attr;
  attr.set_post_ops(post);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
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
