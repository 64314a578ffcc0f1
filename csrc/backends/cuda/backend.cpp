#include "backends/cuda/backend.h"

#include <unordered_map>

namespace adfast::cuda {
namespace {

using Registry = std::unordered_map<std::string, Op>;

const Registry& registry() {
  static const Registry ops = [] {
    Registry all;
    for (const auto& family : {convolution_ops(), linear_ops(), attention_ops(), score_ops(),
                               elementwise_ops(), shape_ops(), engine_ops()}) {
      for (const Op& op : family) all.emplace(op.rules.name, op);
    }
    return all;
  }();
  return ops;
}

const Op& find(const Node& node) {
  const auto found = registry().find(node.op);
  if (found == registry().end()) {
    nodes::refuse(node,
                  "the CUDA backend does not know the op; upgrade adfast, or load with "
                  "device='cpu'");
  }
  return found->second;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(Device& device) : device_(device) {}

  std::string name() const override { return "cuda"; }
  std::string isa() const override { return device_.name; }
  std::string precision() const override {
    return device_.features == DType::f32 ? "f32" : device_.features == DType::f16 ? "f16" : "bf16";
  }

  std::optional<Storage> operand_storage(const OperatorRequest& request,
                                         size_t input) const override {
    return adfast::operand_storage(find(request.node).rules, types(), input,
                                   request.inputs[input]->shape);
  }

  Storage result_storage(const OperatorRequest& request, size_t output,
                         const std::optional<Storage>& wanted) const override {
    return {result_type(find(request.node).rules, types(), request.outputs[output]->shape,
                        request.inputs, wanted),
            {}};
  }

  bool moves_elements(const Node& node) const override { return find(node).rules.moves_elements; }

  std::unique_ptr<Operator> make(const OperatorRequest& request) const override {
    const Op& op = find(request.node);
    check_operands(op.rules, request);
    return op.make(request, device_);
  }

  std::unique_ptr<Operator> make_conversion(const Tensor& from, const Tensor& to) const override {
    const kernels::cuda::UnaryArgs args{kernels::cuda::Unary::identity, nullptr,
                                        kernel_type(from.dtype),        nullptr,
                                        kernel_type(to.dtype),          element_count(from.shape)};
    return kernel_operator(0, 0, [args, &device = device_](const Binding& binding) {
      kernels::cuda::UnaryArgs bound = args;
      bound.x = binding.inputs[0];
      bound.out = binding.outputs[0];
      return launch(kernels::cuda::unary, bound, device, "convert");
    });
  }

 private:
  NarrowTypes types() const { return {device_.features, device_.features}; }

  Device& device_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(Device& device) {
  return std::make_unique<CudaBackend>(device);
}

}  // namespace adfast::cuda
