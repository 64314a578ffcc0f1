// What convolutions and linears by our own kernels share.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// What our kernels can apply before they write.
inline std::optional<kernels::Unary> own_activation(nodes::Activation activation) {
  switch (activation) {
    case nodes::Activation::none:
      return kernels::Unary::identity;
    case nodes::Activation::relu:
      return kernels::Unary::relu;
    case nodes::Activation::silu:
      return kernels::Unary::silu;
    case nodes::Activation::sigmoid:
      return kernels::Unary::sigmoid;
    default:
      return std::nullopt;
  }
}

// The same of linears, which take any.
inline kernels::Unary linear_activation(nodes::Activation activation) {
  switch (activation) {
    case nodes::Activation::gelu:
      return kernels::Unary::gelu;
    case nodes::Activation::tanh:
      return kernels::Unary::tanh;
    default:
      return *own_activation(activation);
  }
}

// What our kernels are told of a linear, without addresses; all rows, no panels.
inline kernels::LinearArgs linear_args(const OperatorRequest& request,
                                       const nodes::Linear& linear) {
  const Tensor& y = *request.outputs[0];
  kernels::LinearArgs args{};
  args.x_dtype = kernel_type(request.inputs[0]->dtype);
  args.rows = args.row_end = linear.rows;
  args.depth = linear.depth;
  args.width = linear.width;
  args.activation = linear_activation(linear.activation);
  args.y_dtype = kernel_type(y.dtype);
  args.y_levels = kernel_levels(y.levels);
  if (linear.residual != nullptr) args.residual_dtype = kernel_type(linear.residual->dtype);
  return args;
}

// Whether a convolution is in floats and ours to compute: oneDNN has vectors where our scalar
// kernels have none, and a tactic may ask for it.
inline bool own_kernel(const OperatorRequest& request, const Device& device) {
  return request.inputs[0]->dtype == device.features &&
         request.outputs[0]->dtype == device.features &&
         device.kernels->isa != kernels::Isa::scalar && device.tactic(request.node) != "direct";
}

inline int64_t second_level_cache() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 1 << 20;
}

// Weights that a frame walks through from end to end, on huge pages where the system has them; what
// is left over at the end lies on small ones.
class Packed {
 public:
  explicit Packed(size_t bytes) : bytes_(bytes) {
    constexpr size_t huge = size_t{2} << 20;
    void* data = nullptr;
    if (posix_memalign(&data, bytes_ >= huge ? huge : 64, std::max<size_t>(bytes_, 64)) != 0) {
      throw std::bad_alloc();
    }
    data_.reset(data);
    // A wish; no matter if refused.
    if (bytes_ >= huge) madvise(data, bytes_ / huge * huge, MADV_HUGEPAGE);
  }
  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

// A convolution with a packed weight and perhaps a bias, which it owns.
class OwnConvolution final : public Operator {
 public:
  struct Call {
    const void *x, *weight;
    const float* bias;  // or null
    void* y;
  };
  using Bind = std::function<std::function<void()>(const Call&)>;

  OwnConvolution(const std::string& name, const Device& device,
                 const nodes::Convolution& convolution, std::vector<std::byte> weight, Bind bind)
      : kernel_("adfast:" + name + ":" + device.kernels->name),
        flops_(convolution.flops),
        weight_(std::move(weight)),
        bias_(convolution.bias == nullptr ? std::vector<float>() : floats(*convolution.bias)),
        bind_(std::move(bind)) {}

  std::function<void()> bind(const Binding& binding) const override {
    return bind_({binding.inputs[0], weight_.data(), bias_.empty() ? nullptr : bias_.data(),
                  binding.outputs[0]});
  }
  size_t scratch_bytes() const override { return 0; }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override { return weight_.size() + bias_.size() * sizeof(float); }
  std::string kernel() const override { return kernel_; }

 private:
  std::string kernel_;
  double flops_;
  std::vector<std::byte> weight_;
  std::vector<float> bias_;
  Bind bind_;
};

}  // namespace adfast::cpu
