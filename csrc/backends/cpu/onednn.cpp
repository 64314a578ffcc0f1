#include "backends/cpu/onednn.h"

#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

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

// Into the layout of `result`.
void pack(dnnl::memory source, dnnl::memory result) {
  const dnnl::memory::desc plain = source.get_desc(), wanted = result.get_desc();
  dnnl::stream stream(result.get_engine());
  if (caches_are_hidden() && wanted.get_padded_dims() != wanted.get_dims()) {
    if (wanted.get_data_type() == dnnl::memory::data_type::s8) {
      // Some of these layouts hold sums for zero points too, or scaled weights.
      throw Error(ErrorKind::plan,
                  "oneDNN cannot pack int8 weights here, as this machine's processor does not tell "
                  "its caches; let the virtual machine pass them on (topoext), or load the plan "
                  "with precision f32 or bf16");
    }
    // Only the type is changed on the way: nothing is padded.
    const dnnl::memory::desc cast(plain.get_dims(), wanted.get_data_type(), plain.get_strides());
    dnnl::memory values(cast, result.get_engine());
    dnnl::reorder(source, values).execute(stream, source, values);
    stream.wait();
    return pack_by_strides(values, result);
  }
  dnnl::reorder(source, result).execute(stream, source, result);
  stream.wait();
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

// oneDNN asks AMD's processors for their caches by a leaf of CPUID that a virtual machine may leave
// empty, and takes that for a first level of one byte and no second. Its generated reorders (3.2,
// jit_uni_reorder.cpp, prb_block_for_cache) then put their loops in an order in which the zeros
// that pad a layout fall upon weights, and it divides by zero where it plans products in bf16.
bool caches_are_hidden() {
#if defined(__x86_64__)
  static const bool hidden = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __cpuid(0, a, b, c, d);
    if (b != signature_AMD_ebx || c != signature_AMD_ecx || d != signature_AMD_edx) return false;
    __cpuid_count(0x8000001d, 0, a, b, c, d);
    const uint64_t line = (b & 0xfff) + 1, partitions = (b >> 12 & 0x3ff) + 1, ways = (b >> 22) + 1;
    return line * partitions * ways * (uint64_t{c} + 1) < 16 << 10;
  }();
  return hidden;
#else
  return false;
#endif
}

bool must_widen(const OperatorRequest& request) {
  const auto narrow = [](const Tensor* t) { return t != nullptr && t->dtype == DType::bf16; };
  return (std::ranges::any_of(request.inputs, narrow) ||
          std::ranges::any_of(request.outputs, narrow)) &&
         (caches_are_hidden() ||
          (!onednn_has(dnnl::cpu_isa::avx512_core) && !onednn_has(dnnl::cpu_isa::avx2_vnni_2)));
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
  pack(dnnl::memory(plain, engine, const_cast<std::byte*>(tensor.data.data())), result);
  return result;
}

void pack_by_strides(const dnnl::memory& source, const dnnl::memory& result) {
  const dnnl::memory::desc plain = source.get_desc(), wanted = result.get_desc();
  const auto dims = wanted.get_dims(), from = plain.get_strides(), outer = wanted.get_strides();
  const auto blocks = wanted.get_inner_blks(), of = wanted.get_inner_idxs();
  const size_t size = dnnl::memory::data_type_size(wanted.get_data_type());
  const char* read = static_cast<const char*>(source.get_data_handle());
  char* write = static_cast<char*>(result.get_data_handle());
  std::memset(write, 0, wanted.get_size());
  std::vector<int64_t> index(dims.size(), 0);
  for (bool more = true; more;) {
    int64_t a = 0, b = 0, block = 1;
    std::vector<int64_t> rest = index;
    for (size_t i = blocks.size(); i-- > 0;) {
      int64_t& position = rest[static_cast<size_t>(of[i])];
      b += position % blocks[i] * block;
      position /= blocks[i];
      block *= blocks[i];
    }
    for (size_t i = 0; i < dims.size(); i++) {
      a += index[i] * from[i];
      b += rest[i] * outer[i];
    }
    std::memcpy(write + b * static_cast<int64_t>(size), read + a * static_cast<int64_t>(size),
                size);
    more = false;
    for (size_t i = dims.size(); i-- > 0 && !more;) {
      more = ++index[i] < dims[i];
      if (!more) index[i] = 0;
    }
  }
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
  const memory packed_weight(wanted, device.engine);
  pack(memory(plain, device.engine, weight.values.data()), packed_weight);

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
