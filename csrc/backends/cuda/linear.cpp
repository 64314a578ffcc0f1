// Products with constant weights by cuBLASLt, the epilogue fused where the library can; a few
// rows by our kernel, and small ones whose epilogue the library cannot fuse by Triton's
// (fused_conv.cpp).
//
// Rows of ours are columns of cuBLASLt's: y^T = op(weight) x^T, with op the transposition, since a
// row-major [width][depth] is a column-major depth x width.
#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

cublas::DataType cublas_type(DType type) {
  return type == DType::f32   ? cublas::type_f32
         : type == DType::f16 ? cublas::type_f16
                              : cublas::type_bf16;
}

// One product: its descriptors, and the algorithm that the library's own estimate prefers, so that
// every load of a plan computes the same bits.
class Matmul {
 public:
  Matmul(const Device& device, const Node& node, DType x, DType y, int64_t rows, int64_t depth,
         int64_t width, bool residual, cublas::Epilogue epilogue, const void* bias)
      : device_(device), beta_(residual ? 1.0f : 0.0f) {
    const CublasLt& lt = device.cublas;
    check_cublas(lt.MatmulDescCreate(&product_, cublas::compute_f32, cublas::type_f32),
                 "describing a product");
    guards_.emplace_back([&lt, this] { lt.MatmulDescDestroy(product_); });
    const int32_t transposed = cublas::op_t;
    set(cublas::attribute_transa, &transposed, sizeof(transposed));
    const int32_t chosen = epilogue;
    set(cublas::attribute_epilogue, &chosen, sizeof(chosen));
    if (bias != nullptr) set(cublas::attribute_bias_pointer, &bias, sizeof(bias));
    layout(&weight_, x, depth, width);
    layout(&x_, x, depth, rows);
    layout(&y_, y, width, rows);

    cublas::Preference preference = nullptr;
    check_cublas(lt.MatmulPreferenceCreate(&preference), "making a preference");
    const Deferred free_preference([&] { lt.MatmulPreferenceDestroy(preference); });
    const uint64_t bytes = device.workspace_bytes();
    check_cublas(lt.MatmulPreferenceSetAttribute(preference, cublas::max_workspace_bytes, &bytes,
                                                 sizeof(bytes)),
                 "setting a preference");
    int found = 0;
    const cublas::Status status =
        lt.MatmulAlgoGetHeuristic(device.lane->cublas_handle, product_, weight_, x_, y_, y_,
                                  preference, 1, &algorithm_, &found);
    nodes::require(status == 0 && found == 1, node,
                   "cuBLASLt has no algorithm for " + std::to_string(rows) + "x" +
                       std::to_string(depth) + " times " + std::to_string(depth) + "x" +
                       std::to_string(width) + " (status " + std::to_string(status) + ")");
  }
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  void run(const Lane& lane, const void* weight, const void* x, const void* residual,
           void* y) const {
    const float alpha = 1;
    check_cublas(
        device_.cublas.Matmul(lane.cublas_handle, product_, &alpha, weight, weight_, x, x_, &beta_,
                              residual == nullptr ? y : residual, y_, y, y_, &algorithm_.algorithm,
                              lane.workspace.data(), algorithm_.workspace_bytes, lane.stream),
        "a product");
  }

 private:
  void set(cublas::MatmulAttribute attribute, const void* value, size_t bytes) {
    check_cublas(device_.cublas.MatmulDescSetAttribute(product_, attribute, value, bytes),
                 "describing a product");
  }
  void layout(cublas::Layout* layout, DType type, int64_t rows, int64_t columns) {
    check_cublas(
        device_.cublas.MatrixLayoutCreate(layout, cublas_type(type), static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), rows),
        "describing a matrix");
    guards_.emplace_back([this, layout] { device_.cublas.MatrixLayoutDestroy(*layout); });
  }

  const Device& device_;
  float beta_;
  cublas::MatmulDescriptor product_ = nullptr;
  cublas::Layout weight_ = nullptr, x_ = nullptr, y_ = nullptr;
  cublas::HeuristicResult algorithm_{};
  std::vector<Deferred> guards_;
};

class ProductOperator final : public Operator {
 public:
  ProductOperator(const OperatorRequest& request, Device& device, const Product& product)
      : device_(device), flops_(2.0 * product.rows * product.depth * product.width) {
    using nodes::Activation;
    const DType x = request.inputs[0]->dtype, y = request.outputs[0]->dtype;
    weight_ = uploaded_as(product.weight, x);
    has_residual_ = product.residual != nullptr;
    // The library gives results of its operands' type, or of f32.
    const DType made = x == DType::f32 ? DType::f32 : y;
    if (made != y) scratch_ = static_cast<size_t>(product.rows * product.width) * sizeof(float);
    const bool add = has_residual_ && product.residual->dtype == y;
    const bool simple =
        product.activation == Activation::none || product.activation == Activation::relu;
    fused_ = simple && made == y && (!has_residual_ || add);
    cublas::Epilogue epilogue = cublas::epilogue_default;
    if (fused_) {
      const bool relu = product.activation == Activation::relu;
      epilogue = product.bias == nullptr
                     ? (relu ? cublas::epilogue_relu : cublas::epilogue_default)
                     : (relu ? cublas::epilogue_relu_bias : cublas::epilogue_bias);
    }
    if (product.bias != nullptr) {
      // The library reads a bias of the result's type; our kernel one of f32.
      bias_ = uploaded_as(nodes::floats(*product.bias), fused_ ? y : DType::f32);
    }
    matmul_ = std::make_unique<Matmul>(device, request.node, x, made, product.rows, product.depth,
                                       product.width, fused_ && add, epilogue,
                                       fused_ ? bias_.data() : nullptr);
    if (fused_) return;
    rest_.x_type = kernel_type(made);
    rest_.out_type = kernel_type(y);
    rest_.bias = bias_.as<const float>();
    rest_.residual_type = kernel_type(has_residual_ ? product.residual->dtype : y);
    rest_.activation = kernel_activation(product.activation);
    rest_.rows = product.rows;
    rest_.width = product.width;
  }

  std::function<void()> bind(const Binding& binding) const override {
    const void* x = binding.inputs[0];
    const void* residual = has_residual_ ? binding.inputs[3] : nullptr;
    void* y = binding.outputs[0];
    const Lane& lane = *device_.lane;
    if (fused_) {
      return [this, &lane, x, residual, y] { matmul_->run(lane, weight_.data(), x, residual, y); };
    }
    void* product = scratch_ > 0 ? binding.scratch : y;
    auto rest = rest_;
    rest.x = product;
    rest.out = y;
    rest.residual = residual;
    return [this, &lane, x, product, rest] {
      matmul_->run(lane, weight_.data(), x, nullptr, product);
      check(kernels::cuda::epilogue(rest, lane.stream), "epilogue");
    };
  }
  size_t scratch_bytes() const override { return scratch_; }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override { return weight_.bytes(); }
  std::string kernel() const override { return fused_ ? "cublaslt" : "cublaslt+adfast:cuda"; }

 private:
  const Device& device_;
  double flops_;
  size_t scratch_ = 0;
  Buffer weight_, bias_;
  bool has_residual_ = false, fused_ = false;
  std::unique_ptr<Matmul> matmul_;
  kernels::cuda::EpilogueArgs rest_{};
};

std::unique_ptr<Operator> make_linear(const OperatorRequest& request, Device& device) {
  const nodes::Linear node = nodes::linear(request);
  return make_product(request, device,
                      {node.rows, node.depth, node.width, nodes::floats(*node.weight), node.bias,
                       node.residual, node.activation});
}

// Few rows, which leave a library's tiles empty and most multiprocessors without one; in f32 the
// tokens of GTrans, 8 or 24.
bool thin(const OperatorRequest& request, const Product& product) {
  constexpr int64_t few = 32;
  const DType x = request.inputs[0]->dtype;
  return (product.rows == 1 || (x == DType::f32 && product.rows <= few)) &&
         (product.residual == nullptr || product.residual->dtype == request.outputs[0]->dtype);
}

std::unique_ptr<Operator> make_thin_product(const OperatorRequest& request, Device& device,
                                            const Product& product) {
  kernels::cuda::ThinProductArgs args{};
  args.type = kernel_type(request.inputs[0]->dtype);
  args.out_type = kernel_type(request.outputs[0]->dtype);
  args.activation = kernel_activation(product.activation);
  args.rows = product.rows;
  args.depth = product.depth;
  args.width = product.width;
  return kernel_operator(
      2.0 * static_cast<double>(args.rows * args.depth * args.width), 0,
      [args, weight = shared(uploaded_as(product.weight, request.inputs[0]->dtype)),
       bias = shared_floats(product.bias), residual = product.residual != nullptr,
       &device](const Binding& binding) {
        kernels::cuda::ThinProductArgs bound = args;
        bound.x = binding.inputs[0];
        bound.weight = weight->data();
        bound.bias = floats_of(bias);
        bound.residual = residual ? binding.inputs[3] : nullptr;
        bound.out = binding.outputs[0];
        return launch(kernels::cuda::thin_product, bound, device, "thin_product");
      });
}

// What the library leaves to a second kernel, or rows that it cannot read in whole words. Large
// products it computes at twice the speed, which a second kernel does not cost.
bool better_fused(const Product& product) {
  using nodes::Activation;
  constexpr double large = 1e9;
  const bool second =
      product.activation != Activation::none && product.activation != Activation::relu;
  return (second || product.width % 8 != 0) &&
         2.0 * static_cast<double>(product.rows * product.depth * product.width) < large;
}

}  // namespace

std::unique_ptr<Operator> make_product(const OperatorRequest& request, Device& device,
                                       const Product& product) {
  if (thin(request, product)) return make_thin_product(request, device, product);
  const ConvSizes sizes{{product.rows, 1}, {product.rows, 1}, {1, 1}, {1, 1}, {0, 0}, {1, 1},
                        product.depth,     product.width};
  if (better_fused(product)) {
    if (const auto tile = conv_tile(request, device, sizes, product.activation)) {
      return make_fused_conv(device, sizes, *tile, product.weight, product.bias,
                             product.residual != nullptr, product.activation);
    }
  }
  return std::make_unique<ProductOperator>(request, device, product);
}

std::vector<Op> linear_ops() {
  return {{{"linear", 2, 4, 1, {OperandType::f32}, ResultType::as_read, -1, true}, make_linear}};
}

}  // namespace adfast::cuda
