// From features to the map: differences, gradients, blur, calibration.
#include <algorithm>

#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

std::unique_ptr<Operator> make_score_map(const OperatorRequest& request, Device& device) {
  const nodes::Features node = nodes::score_map(request);
  kernels::ScoreMapArgs args{};
  args.type = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
  return kernel_operator(8.0 * node.pixels * node.channels,
                         kernels::score_map_scratch(node.pixels, node.channels),
                         [args, &device](const Binding& binding) {
                           kernels::ScoreMapArgs bound = args;
                           bound.a = binding.inputs[0];
                           bound.b = binding.inputs[1];
                           bound.map = static_cast<float*>(binding.outputs[0]);
                           bound.mse = static_cast<float*>(binding.outputs[1]);
                           bound.cos = static_cast<float*>(binding.outputs[2]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return launch(kernels::score_map, bound, device, "score_map");
                         });
}

std::unique_ptr<Operator> make_fuse_maps(const OperatorRequest& request, Device& device) {
  const nodes::FuseMaps node = nodes::fuse_maps(request);
  kernels::FuseMapsArgs args{};
  std::copy(node.map_height.begin(), node.map_height.end(), args.map_height);
  std::copy(node.map_width.begin(), node.map_width.end(), args.map_width);
  args.mode = node.mode;
  args.height = node.height;
  args.width = node.width;
  return kernel_operator(
      30.0 * node.height * node.width, 0,
      [args, lambda = shared_floats(*node.lambda), &device](const Binding& binding) {
        kernels::FuseMapsArgs bound = args;
        for (int layer = 0; layer < 3; ++layer) {
          const auto input = [&](int i) {
            return static_cast<const float*>(binding.inputs[3 * layer + i]);
          };
          bound.map[layer] = input(0);
          bound.mse[layer] = input(1);
          bound.cos[layer] = input(2);
        }
        bound.lambda = floats_of(lambda);
        bound.out = static_cast<float*>(binding.outputs[0]);
        return launch(kernels::fuse_maps, bound, device, "fuse_maps");
      });
}

std::unique_ptr<Operator> make_gaussian_blur(const OperatorRequest& request, Device& device) {
  const nodes::GaussianBlur node = nodes::gaussian_blur(request);
  kernels::GaussianBlurArgs args{};
  args.height = node.height;
  args.width = node.width;
  args.taps = node.taps;
  const size_t pixels = static_cast<size_t>(node.height) * static_cast<size_t>(node.width);
  return kernel_operator(
      4.0 * static_cast<double>(pixels) * node.taps, pixels,
      [args, kernel = shared_floats(*node.kernel), &device](const Binding& binding) {
        kernels::GaussianBlurArgs bound = args;
        bound.src = static_cast<const float*>(binding.inputs[0]);
        bound.kernel = floats_of(kernel);
        bound.dst = static_cast<float*>(binding.outputs[0]);
        bound.scratch = static_cast<float*>(binding.scratch);
        return launch(kernels::gaussian_blur, bound, device, "gaussian_blur");
      });
}

std::unique_ptr<Operator> make_gms_map(const OperatorRequest& request, Device& device) {
  const nodes::GmsMap node = nodes::gms_map(request);
  return kernel_operator(
      30.0 * node.height * node.width * node.channels, 0, [node, &device](const Binding& binding) {
        const kernels::GmsMapArgs bound{static_cast<const float*>(binding.inputs[0]),
                                        static_cast<const float*>(binding.inputs[1]),
                                        node.height,
                                        node.width,
                                        node.channels,
                                        node.c,
                                        static_cast<float*>(binding.outputs[0])};
        return launch(kernels::gms_map, bound, device, "gms_map");
      });
}

std::unique_ptr<Operator> make_calibrate_map(const OperatorRequest& request, Device& device) {
  const nodes::CalibrateMap node = nodes::calibrate_map(request);
  return kernel_operator(2.0 * node.count, 0,
                         [count = node.count, square = node.square,
                          mean = shared_floats(*node.mean), &device](const Binding& binding) {
                           const kernels::CalibrateMapArgs bound{
                               static_cast<const float*>(binding.inputs[0]), floats_of(mean), count,
                               square, static_cast<float*>(binding.outputs[0])};
                           return launch(kernels::calibrate_map, bound, device, "calibrate_map");
                         });
}

}  // namespace

std::vector<Op> score_ops() {
  using enum OperandType;
  return {
      {{"score_map", 2, 2, 3, {features}, ResultType::f32}, make_score_map},
      {{"fuse_maps", 10, 10, 1, {f32}, ResultType::f32}, make_fuse_maps},
      {{"gaussian_blur", 2, 2, 1, {f32}, ResultType::f32}, make_gaussian_blur},
      {{"gms_map", 2, 2, 1, {f32}, ResultType::f32}, make_gms_map},
      {{"calibrate_map", 2, 2, 1, {f32}, ResultType::f32}, make_calibrate_map},
  };
}

}  // namespace adfast::cuda
