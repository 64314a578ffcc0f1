// Convolutions, channels-last, with bias, residual and activation fused. 1x1 ones are products
// (linear.cpp). Others go to Triton's kernels (fused_conv.cpp) or, in f32 and where those do not
// serve, to cuDNN or, where better_unfolded says so, to products of their windows unfolded into
// rows; grouped ones to our kernel. Pooling by our kernels.
#include <algorithm>
#include <array>
#include <utility>

#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

cudnn::DataType cudnn_type(DType type) {
  return type == DType::f32   ? cudnn::type_f32
         : type == DType::f16 ? cudnn::type_f16
                              : cudnn::type_bf16;
}

// [out][in][kh][kw] as rows [out][kh][kw][in], each tap `channels` and each row `depth` wide, zeros
// beyond what there is.
std::vector<float> rows_of(const Tensor& weight, int64_t channels, int64_t depth) {
  const std::vector<float> values = nodes::floats(weight);
  const Shape& shape = weight.shape;
  const int64_t taps = shape[2] * shape[3];
  std::vector<float> rows(static_cast<size_t>(shape[0] * depth));
  size_t from = 0;
  for (int64_t o = 0; o < shape[0]; ++o) {
    for (int64_t i = 0; i < shape[1]; ++i) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        rows[static_cast<size_t>(o * depth + tap * channels + i)] = values[from++];
      }
    }
  }
  return rows;
}

// [out][in][kh][kw] as [kh][kw][in][out].
std::vector<float> taps_of(const Tensor& weight) {
  const std::vector<float> values = nodes::floats(weight);
  const Shape& shape = weight.shape;
  const int64_t taps = shape[2] * shape[3];
  std::vector<float> result(values.size());
  size_t from = 0;
  for (int64_t o = 0; o < shape[0]; ++o) {
    for (int64_t i = 0; i < shape[1]; ++i) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        result[static_cast<size_t>((tap * shape[1] + i) * shape[0] + o)] = values[from++];
      }
    }
  }
  return result;
}

class CudnnConvolution final : public Operator {
 public:
  CudnnConvolution(const OperatorRequest& request, Device& device, const nodes::Convolution& node)
      : device_(device), flops_(node.flops), has_residual_(node.residual != nullptr) {
    using nodes::Activation;
    const DType type = device.features;
    const Shape& shape = node.weight->shape;
    const int64_t depth = shape[1] * shape[2] * shape[3];
    weight_ = uploaded_as(rows_of(*node.weight, shape[1], depth), type);
    const std::vector<float> bias =
        node.bias == nullptr ? std::vector<float>(node.y[1]) : nodes::floats(*node.bias);
    bias_ = uploaded_as(bias, type);
    exact_bias_ = uploaded(std::span<const float>(bias));

    const Cudnn& dnn = device.cudnn;
    tensor(&x_, node.x);
    tensor(&y_, node.y);
    tensor(&bias_desc_, {1, node.y[1], 1, 1});
    require(dnn.CreateFilterDescriptor(&filter_), "describing a filter");
    guards_.emplace_back([this] { device_.cudnn.DestroyFilterDescriptor(filter_); });
    require(dnn.SetFilter4dDescriptor(filter_, cudnn_type(type), cudnn::nhwc, number(shape[0]),
                                      number(shape[1]), number(shape[2]), number(shape[3])),
            "describing a filter");
    require(dnn.CreateConvolutionDescriptor(&convolution_), "describing a convolution");
    guards_.emplace_back([this] { device_.cudnn.DestroyConvolutionDescriptor(convolution_); });
    const nodes::Window& w = node.window;
    require(dnn.SetConvolution2dDescriptor(convolution_, number(w.begin[0]), number(w.begin[1]),
                                           number(w.strides[0]), number(w.strides[1]),
                                           number(w.dilations[0]), number(w.dilations[1]),
                                           cudnn::cross_correlation, cudnn::type_f32),
            "describing a convolution");
    // In f32, products of f32: the default would round operands to TF32's ten bits.
    require(dnn.SetConvolutionMathType(
                convolution_, type == DType::f32 ? cudnn::fma_math : cudnn::tensor_op_math),
            "choosing the arithmetic");
    const bool relu = node.activation == Activation::relu;
    require(dnn.CreateActivationDescriptor(&activation_), "describing an activation");
    guards_.emplace_back([this] { device_.cudnn.DestroyActivationDescriptor(activation_); });
    require(dnn.SetActivationDescriptor(activation_,
                                        relu ? cudnn::activation_relu : cudnn::activation_identity,
                                        cudnn::propagate_nan, 0),
            "describing an activation");
    size_t bytes = 0;
    const cudnn::Status status = dnn.GetConvolutionForwardWorkspaceSize(
        device.lane->cudnn_handle, x_, filter_, convolution_, y_, algorithm_, &bytes);
    nodes::require(status == 0, request.node,
                   std::string("cuDNN cannot run it: ") + dnn.GetErrorString(status));
    device.reserve_workspace(bytes);

    rest_.x_type = rest_.out_type = rest_.residual_type = kernel_type(type);
    rest_.activation = kernel_activation(node.activation);
    rest_.rows = node.y[2] * node.y[3];
    rest_.width = node.y[1];
    // What the library fuses leaves at most an activation of another kind to our kernel.
    activates_ = relu || node.activation == Activation::none;
  }

  std::function<void()> bind(const Binding& binding) const override {
    const void* x = binding.inputs[0];
    const void* residual = has_residual_ ? binding.inputs[3] : nullptr;
    void* y = binding.outputs[0];
    auto rest = rest_;
    rest.x = rest.out = y;
    const Lane& lane = *device_.lane;
    // Which combinations of types and sizes the fused call takes is known to the library alone:
    // it is tried once, on whatever lies in the memory now.
    if (fused(lane, x, residual, y) == 0) {
      if (activates_)
        return [this, &lane, x, residual, y] { require(fused(lane, x, residual, y), what); };
      return [this, &lane, x, residual, y, rest] {
        require(fused(lane, x, residual, y), what);
        check(kernels::epilogue(rest, lane.stream), "epilogue");
      };
    }
    rest.bias = exact_bias_.as<const float>();
    rest.residual = residual;
    return [this, &lane, x, y, rest] {
      require(plain(lane, x, y), what);
      check(kernels::epilogue(rest, lane.stream), "epilogue");
    };
  }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override { return weight_.bytes(); }
  std::string kernel() const override { return activates_ ? "cudnn" : "cudnn+adfast:cuda"; }

 private:
  static constexpr const char* what = "a convolution";

  static int number(int64_t value) { return static_cast<int>(value); }
  void require(cudnn::Status status, const char* doing) const {
    check_cudnn(device_.cudnn, status, doing);
  }
  void tensor(cudnn::TensorDescriptor* descriptor, const Shape& shape) {
    require(device_.cudnn.CreateTensorDescriptor(descriptor), "describing a tensor");
    guards_.emplace_back(
        [this, descriptor] { device_.cudnn.DestroyTensorDescriptor(*descriptor); });
    const int c = number(shape[1]), h = number(shape[2]), w = number(shape[3]);
    require(device_.cudnn.SetTensor4dDescriptorEx(*descriptor, cudnn_type(device_.features), 1, c,
                                                  h, w, c * h * w, 1, c * w, c),
            "describing a tensor");
  }
  cudnn::Status fused(const Lane& lane, const void* x, const void* residual, void* y) const {
    const float one = 1, add = residual == nullptr ? 0.0f : 1.0f;
    return device_.cudnn.ConvolutionBiasActivationForward(
        lane.cudnn_handle, &one, x_, x, filter_, weight_.data(), convolution_, algorithm_,
        lane.workspace.data(), lane.workspace.bytes(), &add, y_, residual == nullptr ? y : residual,
        bias_desc_, bias_.data(), activation_, y_, y);
  }
  cudnn::Status plain(const Lane& lane, const void* x, void* y) const {
    const float one = 1, zero = 0;
    return device_.cudnn.ConvolutionForward(lane.cudnn_handle, &one, x_, x, filter_, weight_.data(),
                                            convolution_, algorithm_, lane.workspace.data(),
                                            lane.workspace.bytes(), &zero, y_, y);
  }

  const Device& device_;
  double flops_;
  bool has_residual_, activates_ = false;
  Buffer weight_, bias_, exact_bias_;
  cudnn::TensorDescriptor x_ = nullptr, y_ = nullptr, bias_desc_ = nullptr;
  cudnn::FilterDescriptor filter_ = nullptr;
  cudnn::ConvolutionDescriptor convolution_ = nullptr;
  cudnn::ActivationDescriptor activation_ = nullptr;
  cudnn::Algorithm algorithm_ = cudnn::implicit_precomp_gemm;
  kernels::EpilogueArgs rest_{};
  std::vector<Deferred> guards_;
};

std::unique_ptr<Operator> make_group_conv(const Device& device, const nodes::Convolution& node) {
  const nodes::Window& w = node.window;
  kernels::GroupConvArgs args{};
  args.type = kernel_type(device.features);
  args.height = static_cast<int32_t>(node.x[2]);
  args.width = static_cast<int32_t>(node.x[3]);
  args.channels = static_cast<int32_t>(node.x[1]);
  args.out_height = static_cast<int32_t>(node.y[2]);
  args.out_width = static_cast<int32_t>(node.y[3]);
  args.out_channels = static_cast<int32_t>(node.y[1]);
  args.groups = static_cast<int32_t>(node.groups);
  args.kernel_height = static_cast<int32_t>(w.kernel[0]);
  args.kernel_width = static_cast<int32_t>(w.kernel[1]);
  args.stride_y = static_cast<int32_t>(w.strides[0]);
  args.stride_x = static_cast<int32_t>(w.strides[1]);
  args.top = static_cast<int32_t>(w.begin[0]);
  args.left = static_cast<int32_t>(w.begin[1]);
  args.dilation_y = static_cast<int32_t>(w.dilations[0]);
  args.dilation_x = static_cast<int32_t>(w.dilations[1]);
  args.activation = kernel_activation(node.activation);
  const std::vector<float> weight = taps_of(*node.weight);
  return kernel_operator(node.flops, 0,
                         [args, weight = shared(uploaded(std::span<const float>(weight))),
                          bias = shared_floats(node.bias), residual = node.residual != nullptr,
                          &device](const Binding& binding) {
                           kernels::GroupConvArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.weight = floats_of(weight);
                           bound.bias = floats_of(bias);
                           bound.residual = residual ? binding.inputs[3] : nullptr;
                           bound.y = binding.outputs[0];
                           return launch(kernels::group_conv, bound, device, "group_conv");
                         });
}

// The map rewritten into rows in scratch memory, which another operator then reads in its place.
class Rewritten final : public Operator {
 public:
  Rewritten(const Device& device, const kernels::UnfoldArgs& unfold, std::unique_ptr<Operator> then,
            double flops)
      : device_(device),
        unfold_(unfold),
        then_(std::move(then)),
        bytes_(static_cast<size_t>((unfold.out_height * unfold.out_width * unfold.row_bytes + 255) /
                                   256 * 256)),
        flops_(flops) {}

  std::function<void()> bind(const Binding& binding) const override {
    kernels::UnfoldArgs unfold = unfold_;
    unfold.in = binding.inputs[0];
    unfold.out = binding.scratch;
    Binding rest = binding;
    rest.inputs[0] = binding.scratch;
    rest.scratch = static_cast<std::byte*>(binding.scratch) + bytes_;
    return [first = launch(kernels::unfold, unfold, device_, "unfold"), then = then_->bind(rest)] {
      first();
      then();
    };
  }
  size_t scratch_bytes() const override { return bytes_ + then_->scratch_bytes(); }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override { return then_->packed_bytes(); }
  std::string kernel() const override { return "adfast:cuda+" + then_->kernel(); }

 private:
  const Device& device_;
  kernels::UnfoldArgs unfold_;
  std::unique_ptr<Operator> then_;
  size_t bytes_;
  double flops_;
};

// The windows unfolded into rows, then one product.
std::unique_ptr<Operator> make_unfolded(const OperatorRequest& request, Device& device,
                                        const nodes::Convolution& node) {
  const nodes::Window& w = node.window;
  const auto element = static_cast<int64_t>(size_of(device.features));
  const int64_t taps = w.kernel[0] * w.kernel[1] * node.x[1];
  // Whole words of 16 bytes, which is what tensor cores read.
  const int64_t depth = (taps * element + 15) / 16 * 16 / element;
  kernels::UnfoldArgs unfold{};
  unfold.height = node.x[2];
  unfold.width = node.x[3];
  unfold.bytes = node.x[1] * element;
  unfold.kernel_height = w.kernel[0];
  unfold.kernel_width = w.kernel[1];
  unfold.stride_y = w.strides[0];
  unfold.stride_x = w.strides[1];
  unfold.top = w.begin[0];
  unfold.left = w.begin[1];
  unfold.dilation_y = w.dilations[0];
  unfold.dilation_x = w.dilations[1];
  unfold.out_height = node.y[2];
  unfold.out_width = node.y[3];
  unfold.row_bytes = depth * element;
  auto product = make_product(
      request, device,
      {node.y[2] * node.y[3], depth, node.y[1], rows_of(*node.weight, node.x[1], depth), node.bias,
       node.residual, node.activation});
  return std::make_unique<Rewritten>(device, unfold, std::move(product), node.flops);
}

// Unfolded are pixels that fill no word of 16 bytes, as those of images of three channels, margins
// that differ from side to side, which cuDNN does not take, and, in f32, small results: cuDNN's
// products without tensor cores give each multiprocessor whole tiles, and where there are fewer
// tiles than multiprocessors cuBLASLt, which also shares out the depth, is faster.
bool better_unfolded(const nodes::Convolution& node, const Device& device) {
  constexpr int64_t tile = 128;
  const auto tiles = [](int64_t count) { return (count + tile - 1) / tile; };
  const bool few = device.features == DType::f32 &&
                   tiles(node.y[2] * node.y[3]) * tiles(node.y[1]) < device.multiprocessors;
  const bool narrow = node.x[1] * static_cast<int64_t>(size_of(device.features)) % 16 != 0;
  return few || narrow || node.window.begin != node.window.end;
}

// By Triton's kernels, where they serve. Of few channels, as an image's, most would be padding:
// those windows are better unfolded.
std::unique_ptr<Operator> make_fused(const OperatorRequest& request, Device& device,
                                     const nodes::Convolution& node) {
  constexpr int64_t step = 16;
  const int64_t channels = (node.x[1] + step - 1) / step * step;
  if (node.x[1] < step) return nullptr;
  const nodes::Window& w = node.window;
  const ConvSizes sizes{{node.x[2], node.x[3]},
                        {node.y[2], node.y[3]},
                        w.kernel,
                        w.strides,
                        w.begin,
                        w.dilations,
                        channels,
                        node.y[1]};
  const auto tile = conv_tile(request, device, sizes, node.activation);
  if (!tile) return nullptr;
  const int64_t depth = w.kernel[0] * w.kernel[1] * channels;
  auto convolution = make_fused_conv(device, sizes, *tile, rows_of(*node.weight, channels, depth),
                                     node.bias, node.residual != nullptr, node.activation);
  if (channels == node.x[1]) return convolution;
  // The pixels widened to whole sixteens of channels.
  const auto element = static_cast<int64_t>(size_of(device.features));
  kernels::UnfoldArgs widen{};
  widen.height = widen.out_height = node.x[2];
  widen.width = widen.out_width = node.x[3];
  widen.bytes = node.x[1] * element;
  widen.kernel_height = widen.kernel_width = widen.stride_y = widen.stride_x = 1;
  widen.dilation_y = widen.dilation_x = 1;
  widen.row_bytes = channels * element;
  return std::make_unique<Rewritten>(device, widen, std::move(convolution), node.flops);
}

std::unique_ptr<Operator> make_conv2d(const OperatorRequest& request, Device& device) {
  const nodes::Convolution node = nodes::convolution(request);
  const nodes::Window& w = node.window;
  if (node.groups > 1) return make_group_conv(device, node);
  constexpr std::array<int64_t, 2> one = {1, 1}, none = {0, 0};
  if (w.kernel == one && w.dense() && w.begin == none && w.end == none) {
    return make_product(request, device,
                        {node.y[2] * node.y[3], node.x[1], node.y[1], nodes::floats(*node.weight),
                         node.bias, node.residual, node.activation});
  }
  if (auto fused = make_fused(request, device, node)) return fused;
  if (better_unfolded(node, device)) {
    return make_unfolded(request, device, node);
  }
  return std::make_unique<CudnnConvolution>(request, device, node);
}

// The mean over the whole map, as squeeze-and-excite blocks take it: a sum shared among blocks.
std::unique_ptr<Operator> make_global_mean(const OperatorRequest& request, Device& device,
                                           const nodes::Pool& node) {
  kernels::ReduceArgs args{};
  args.op = kernels::Reduce::mean;
  args.type = kernel_type(request.inputs[0]->dtype);
  args.rows = 1;
  args.width = node.x[2] * node.x[3];
  args.inner = node.x[1];
  args.out_type = kernel_type(request.outputs[0]->dtype);
  return kernel_operator(static_cast<double>(element_count(node.x)),
                         kernels::reduce_scratch(args.rows, args.width, args.inner),
                         [args, &device](const Binding& binding) {
                           kernels::ReduceArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = binding.outputs[0];
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return launch(kernels::reduce, bound, device, "mean");
                         });
}

std::unique_ptr<Operator> make_pool(const OperatorRequest& request, Device& device,
                                    cudaError_t (*pool)(const kernels::PoolArgs&, cudaStream_t),
                                    bool count_include_pad) {
  const nodes::Pool node = nodes::pool(request);
  const nodes::Window& w = node.window;
  kernels::PoolArgs args{};
  args.type = kernel_type(request.inputs[0]->dtype);
  args.height = static_cast<int32_t>(node.x[2]);
  args.width = static_cast<int32_t>(node.x[3]);
  args.channels = static_cast<int32_t>(node.x[1]);
  args.kernel_height = static_cast<int32_t>(w.kernel[0]);
  args.kernel_width = static_cast<int32_t>(w.kernel[1]);
  args.stride_y = static_cast<int32_t>(w.strides[0]);
  args.stride_x = static_cast<int32_t>(w.strides[1]);
  args.top = static_cast<int32_t>(w.begin[0]);
  args.left = static_cast<int32_t>(w.begin[1]);
  args.bottom = static_cast<int32_t>(w.end[0]);
  args.right = static_cast<int32_t>(w.end[1]);
  args.out_height = static_cast<int32_t>(node.y[2]);
  args.out_width = static_cast<int32_t>(node.y[3]);
  args.count_include_pad = count_include_pad;
  return kernel_operator(static_cast<double>(element_count(node.y) * w.kernel[0] * w.kernel[1]), 0,
                         [args, pool, &device](const Binding& binding) {
                           kernels::PoolArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = binding.outputs[0];
                           return launch(pool, bound, device, "pool");
                         });
}

std::unique_ptr<Operator> make_max_pool2d(const OperatorRequest& request, Device& device) {
  return make_pool(request, device, kernels::max_pool, false);
}

std::unique_ptr<Operator> make_avg_pool2d(const OperatorRequest& request, Device& device) {
  const nodes::Pool node = nodes::pool(request);
  constexpr std::array<int64_t, 2> none = {0, 0};
  const nodes::Window& w = node.window;
  const bool whole = w.kernel == std::array{node.x[2], node.x[3]};
  if (whole && w.begin == none && w.end == none) return make_global_mean(request, device, node);
  return make_pool(request, device, kernels::avg_pool,
                   request.node.attrs.integer("count_include_pad") != 0);
}

}  // namespace

std::vector<Op> convolution_ops() {
  return {
      {{"conv2d", 2, 4, 1, {OperandType::features}, ResultType::features}, make_conv2d},
      {{"max_pool2d", 1, 1, 1, {}, ResultType::as_first}, make_max_pool2d},
      {{"avg_pool2d", 1, 1, 1, {}, ResultType::as_first}, make_avg_pool2d},
  };
}

}  // namespace adfast::cuda
