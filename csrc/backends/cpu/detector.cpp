// The detectors' fused pieces: the frame's way in, attention over pixels and tokens, score maps.
#include <omp.h>

#include <algorithm>
#include <array>

#include "backends/cpu/backend.h"
#include "runtime/resample.h"

namespace adfast::cpu {
namespace {

using kernels::DType;

float real(const Node& node, std::string_view key) {
  return static_cast<float>(node.attrs.real(key));
}

Shape feature_map(const OperatorRequest& request, size_t input) {
  const Tensor& x = *request.inputs[input];
  require(x.shape.size() == 4 && x.shape[0] == 1, request.node,
          "input " + std::to_string(input) + ": expected [1,C,H,W], got " + to_string(x.shape));
  return x.shape;
}

std::unique_ptr<Operator> make_frame(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const auto crop = node.attrs.integers("crop", 2, 1, max_frame_side);
  require_result(request, 0, {1, 3, crop[0], crop[1]});
  const auto scale = node.attrs.reals("scale", 3), bias = node.attrs.reals("bias", 3);
  kernels::FrameArgs args{};
  for (int c = 0; c < 3; ++c) {
    args.scale[c] = static_cast<float>(scale[c]);
    args.bias[c] = static_cast<float>(bias[c]);
  }
  args.dtype = kernel_type(request.outputs[0]->dtype);
  args.row_end = static_cast<int32_t>(crop[0]);
  const auto run = device.kernels->frame_to_tensor;
  return kernel_operator(device, 0, 0, [run, args](const Binding& binding) {
    kernels::FrameArgs bound = args;
    bound.dst = binding.outputs[0];
    return [run, bound, input = binding.frame]() mutable {
      const FrameView& frame = input->view();
      bound.src = frame.data;
      bound.row_stride = frame.row_stride;
      bound.pixel_stride = frame.pixel_stride;
      const bool grey = frame.color == Color::grey;
      const bool bgr = frame.color == Color::bgr;
      for (int c = 0; c < 3; ++c) {
        bound.channel_offset[c] = grey ? 0 : (bgr ? 2 - c : c) * frame.channel_stride;
      }
      bound.src_height = static_cast<int32_t>(frame.height);
      bound.src_width = static_cast<int32_t>(frame.width);
      const auto axis = [](const ResampleWeights& w) {
        return kernels::ResampleAxis{static_cast<int32_t>(w.first.size()), w.taps, w.first.data(),
                                     w.weight.data()};
      };
      bound.y = axis(input->rows());
      bound.x = axis(input->columns());
      bound.scratch = input->scratch();
      run(bound);
    };
  });
}

std::unique_ptr<Operator> make_token_attention(const OperatorRequest& request,
                                               const Device& device) {
  const Shape x = feature_map(request, 0);
  const Tensor& weight = constant(request, 1);
  require(weight.shape.size() == 2 && weight.shape[1] == x[1], request.node,
          "weight: expected [groups," + std::to_string(x[1]) + "], got " + to_string(weight.shape));
  const int64_t groups = weight.shape[0];
  require_result(request, 0, {1, groups, x[1]});
  std::vector<float> bias;
  if (input_or_null(request, 2) != nullptr) {
    require_shape(request, 2, {groups});
    bias = floats(constant(request, 2));
  }
  kernels::TokenAttentionArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = x[2] * x[3];
  args.channels = x[1];
  args.groups = groups;
  args.scale = real(request.node, "scale");
  const auto run = device.kernels->token_attention;
  return kernel_operator(device, 4.0 * args.pixels * args.channels * groups,
                         kernels::token_attention_scratch(args.channels, groups) * sizeof(float),
                         [run, args, weight = floats(weight), bias](const Binding& binding) {
                           kernels::TokenAttentionArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.weight = weight.data();
                           bound.bias = bias.empty() ? nullptr : bias.data();
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return [run, bound] { run(bound); };
                         });
}

kernels::ProjectorAttentionArgs projector_args(const OperatorRequest& request) {
  const Shape x = feature_map(request, 0);
  require_shape(request, 1, x);
  const Shape& key = request.inputs[2]->shape;
  require(key.size() == 3 && key[0] == 1 && key[2] == x[1], request.node,
          "key: expected [1,tokens," + std::to_string(x[1]) + "], got " + to_string(key));
  if (input_or_null(request, 3) != nullptr) require_shape(request, 3, {1, key[1], 1});
  require_shape(request, 4, key);
  for (size_t i = 2; i < 5; ++i) {
    const Tensor* tensor = request.inputs[i];
    require(tensor == nullptr || !tensor->constant, request.node,
            "key and value must be computed, not constant");
  }
  kernels::ProjectorAttentionArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = x[2] * x[3];
  args.channels = x[1];
  args.tokens = key[1];
  args.scale = real(request.node, "scale");
  return args;
}

kernels::ProjectorAttentionArgs bind_projector(kernels::ProjectorAttentionArgs args,
                                               const Binding& binding) {
  args.x = binding.inputs[0];
  args.residual = binding.inputs[1];
  args.key = static_cast<const float*>(binding.inputs[2]);
  args.key_bias = static_cast<const float*>(binding.inputs[3]);
  args.value = static_cast<const float*>(binding.inputs[4]);
  args.scratch = static_cast<float*>(binding.scratch);
  return args;
}

size_t projector_scratch(const kernels::ProjectorAttentionArgs& args) {
  return kernels::projector_attention_scratch(args.channels, args.tokens) * sizeof(float);
}

std::unique_ptr<Operator> make_projector_attention(const OperatorRequest& request,
                                                   const Device& device) {
  const auto args = projector_args(request);
  require_result(request, 0, request.inputs[0]->shape);
  const auto run = device.kernels->projector_attention;
  return kernel_operator(device, 4.0 * args.pixels * args.channels * args.tokens,
                         projector_scratch(args), [run, args](const Binding& binding) {
                           auto bound = bind_projector(args, binding);
                           bound.out = binding.outputs[0];
                           return [run, bound] { run(bound); };
                         });
}

void require_scores(const OperatorRequest& request, const Shape& features) {
  require_result(request, 0, {1, 1, features[2], features[3]});
  require_result(request, 1, {1});
  require_result(request, 2, {1});
}

std::unique_ptr<Operator> make_projector_score_map(const OperatorRequest& request,
                                                   const Device& device) {
  kernels::ProjectorScoreMapArgs args{};
  args.projector = projector_args(request);
  require_scores(request, request.inputs[0]->shape);
  const auto& projector = args.projector;
  const auto run = device.kernels->projector_score_map;
  return kernel_operator(device,
                         (4.0 * projector.tokens + 8) * projector.pixels * projector.channels,
                         projector_scratch(projector), [run, args](const Binding& binding) {
                           kernels::ProjectorScoreMapArgs bound = args;
                           bound.projector = bind_projector(args.projector, binding);
                           bound.map = static_cast<float*>(binding.outputs[0]);
                           bound.mse = static_cast<float*>(binding.outputs[1]);
                           bound.cos = static_cast<float*>(binding.outputs[2]);
                           return [run, bound] { run(bound); };
                         });
}

std::unique_ptr<Operator> make_score_map(const OperatorRequest& request, const Device& device) {
  const Shape a = feature_map(request, 0);
  require_shape(request, 1, a);
  require_scores(request, a);
  kernels::ScoreMapArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = a[2] * a[3];
  args.channels = a[1];
  const auto run = device.kernels->score_map;
  return kernel_operator(device, 8.0 * args.pixels * args.channels, 0,
                         [run, args](const Binding& binding) {
                           kernels::ScoreMapArgs bound = args;
                           bound.a = binding.inputs[0];
                           bound.b = binding.inputs[1];
                           bound.map = static_cast<float*>(binding.outputs[0]);
                           bound.mse = static_cast<float*>(binding.outputs[1]);
                           bound.cos = static_cast<float*>(binding.outputs[2]);
                           return [run, bound] { run(bound); };
                         });
}

std::unique_ptr<Operator> make_fuse_maps(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  kernels::FuseMapsArgs args{};
  for (int layer = 0; layer < 3; ++layer) {
    const Shape map = feature_map(request, 3 * layer);
    require_shape(request, 3 * layer, {1, 1, map[2], map[3]});
    require_shape(request, 3 * layer + 1, {1});
    require_shape(request, 3 * layer + 2, {1});
    args.map_height[layer] = static_cast<int32_t>(map[2]);
    args.map_width[layer] = static_cast<int32_t>(map[3]);
  }
  require_shape(request, 9, {3});
  const int64_t mode = node.attrs.integer("mode");
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(mode >= 1 && mode <= 6, node, "mode is " + std::to_string(mode) + ", expected 1 to 6");
  require_result(request, 0, {1, 1, height, width});
  require(height <= max_frame_side && width <= max_frame_side, node, "the map is too large");
  args.mode = static_cast<int32_t>(mode);
  args.height = static_cast<int32_t>(height);
  args.width = static_cast<int32_t>(width);
  const auto run = device.kernels->fuse_maps;
  return kernel_operator(
      device, 30.0 * height * width, 0,
      [run, args, lambda = floats(constant(request, 9))](const Binding& binding) {
        kernels::FuseMapsArgs bound = args;
        for (int layer = 0; layer < 3; ++layer) {
          const auto input = [&](int i) {
            return static_cast<const float*>(binding.inputs[3 * layer + i]);
          };
          bound.map[layer] = input(0);
          bound.mse[layer] = input(1);
          bound.cos[layer] = input(2);
        }
        bound.lambda = lambda.data();
        bound.out = static_cast<float*>(binding.outputs[0]);
        return [run, bound] { run(bound); };
      });
}

std::unique_ptr<Operator> make_gaussian_blur(const OperatorRequest& request, const Device& device) {
  const Shape x = feature_map(request, 0);
  require_shape(request, 0, {1, 1, x[2], x[3]});
  require_result(request, 0, x);
  const Tensor& kernel = constant(request, 1);
  require(kernel.shape.size() == 1 && kernel.shape[0] % 2 == 1, request.node,
          "kernel: expected an odd number of taps, got " + to_string(kernel.shape));
  const int64_t taps = kernel.shape[0];
  require(taps / 2 < std::min(x[2], x[3]) && x[2] <= max_frame_side && x[3] <= max_frame_side,
          request.node,
          std::to_string(taps) + " taps do not fit a map of " + to_string(x) +
              ": the border is mirrored once");
  kernels::GaussianBlurArgs args{};
  args.height = static_cast<int32_t>(x[2]);
  args.width = static_cast<int32_t>(x[3]);
  args.taps = static_cast<int32_t>(taps);
  const auto run = device.kernels->gaussian_blur;
  return kernel_operator(
      device, 4.0 * args.height * args.width * args.taps,
      kernels::gaussian_blur_scratch(args.height, args.width, args.taps) * sizeof(float),
      [run, args, kernel = floats(kernel)](const Binding& binding) {
        kernels::GaussianBlurArgs bound = args;
        bound.src = static_cast<const float*>(binding.inputs[0]);
        bound.kernel = kernel.data();
        bound.dst = static_cast<float*>(binding.outputs[0]);
        bound.scratch = static_cast<float*>(binding.scratch);
        return [run, bound] { run(bound); };
      });
}

std::unique_ptr<Operator> make_gms_map(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape x = feature_map(request, 0);
  require_shape(request, 1, x);
  for (size_t i = 0; i < 2; ++i) {
    require(!request.inputs[i]->constant, node, "an image is constant, expected computed ones");
  }
  require_result(request, 0, {1, 1, x[2], x[3]});
  kernels::GmsMapArgs args{};
  args.height = x[2];
  args.width = x[3];
  args.channels = x[1];
  args.c = real(node, "c");
  require(args.c > 0, node, "c is " + std::to_string(args.c) + ", expected a positive number");
  const auto run = device.kernels->gms_map;
  return kernel_operator(device, 30.0 * element_count(x),
                         kernels::gms_map_scratch(x[3], x[1]) * sizeof(float),
                         [run, args](const Binding& binding) {
                           kernels::GmsMapArgs bound = args;
                           bound.a = static_cast<const float*>(binding.inputs[0]);
                           bound.b = static_cast<const float*>(binding.inputs[1]);
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return [run, bound] { run(bound); };
                         });
}

std::unique_ptr<Operator> make_calibrate_map(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape x = feature_map(request, 0);
  require_shape(request, 0, {1, 1, x[2], x[3]});
  require_shape(request, 1, x);
  require_result(request, 0, x);
  const std::string& mode = node.attrs.text("mode");
  require(mode == "square" || mode == "absolute", node,
          "mode is '" + mode + "', expected 'square' or 'absolute'");
  const kernels::CalibrateMapArgs args{nullptr, nullptr, element_count(x), mode == "square",
                                       nullptr};
  const auto run = device.kernels->calibrate_map;
  return kernel_operator(device, 2.0 * element_count(x), 0,
                         [run, args, mean = floats(constant(request, 1))](const Binding& binding) {
                           kernels::CalibrateMapArgs bound = args;
                           bound.x = static_cast<const float*>(binding.inputs[0]);
                           bound.mean = mean.data();
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           return [run, bound] { run(bound); };
                         });
}

// A few tokens are done sooner than threads are woken.
constexpr double attention_worth_waking = 1 << 20;

// Each thread takes its share of every head's queries, or whole heads where they divide evenly:
// their keys are then packed once.
void run_attention(void (*run)(const kernels::AttentionArgs&), const kernels::AttentionArgs& args,
                   size_t room, int threads) {
  const int64_t parts = std::min(threads, omp_get_max_threads());
  const bool whole = args.heads % parts == 0;
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    kernels::AttentionArgs mine = args;
    mine.scratch += part * room;
    mine.head_begin = whole ? args.heads * part / parts : 0;
    mine.head_end = whole ? args.heads * (part + 1) / parts : args.heads;
    mine.query_begin = whole ? 0 : args.queries * part / parts;
    mine.query_end = whole ? args.queries : args.queries * (part + 1) / parts;
    const uint32_t control = kernels::flush_denormals();
    run(mine);
    kernels::restore_denormals(control);
  }
}

// Each thread takes its share of all windows' heads.
void run_windows(void (*run)(const kernels::AttentionArgs&), const kernels::AttentionArgs& args,
                 int64_t windows, size_t room, int threads) {
  const int64_t parts = std::min(threads, omp_get_max_threads());
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    const uint32_t control = kernels::flush_denormals();
    kernels::AttentionArgs mine = args;
    mine.scratch += part * room;
    const int64_t end = windows * args.heads * (part + 1) / parts;
    for (int64_t i = windows * args.heads * part / parts; i < end;) {
      const int64_t window = i / args.heads;
      mine.q = args.q + window * args.queries * args.dim;
      mine.k = args.k + window * args.keys * args.dim;
      mine.v = args.v + window * args.keys * args.value_dim;
      mine.out = args.out + window * args.queries * args.value_dim;
      mine.head_begin = i % args.heads;
      mine.head_end = std::min(args.heads, mine.head_begin + end - i);
      i += mine.head_end - mine.head_begin;
      run(mine);
    }
    kernels::restore_denormals(control);
  }
}

std::unique_ptr<Operator> make_attention(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape& q = request.inputs[0]->shape;
  const Shape& k = request.inputs[1]->shape;
  const Shape& v = request.inputs[2]->shape;
  const int64_t heads = node.attrs.integer("heads");
  const bool fits = q.size() == 3 && k.size() == 3 && v.size() == 3 && q[0] == k[0] &&
                    q[0] == v[0] && q[2] == k[2] && k[1] == v[1] && heads >= 1 &&
                    q[2] % heads == 0 && v[2] % heads == 0;
  require(fits, node,
          "expected q [W,tq,d], k [W,tk,d], v [W,tk,dv], widths divisible by heads = " +
              std::to_string(heads) + ", got " + to_string(q) + ", " + to_string(k) + ", " +
              to_string(v));
  require_result(request, 0, {q[0], q[1], v[2]});
  // Constant ones: a learned query.
  std::array<std::vector<float>, 3> constants;
  for (size_t i = 0; i < 3; ++i) {
    if (request.inputs[i]->constant) constants[i] = floats(*request.inputs[i]);
  }
  kernels::AttentionArgs args{};
  args.queries = q[1];
  args.keys = k[1];
  args.dim = q[2];
  args.value_dim = v[2];
  args.heads = heads;
  args.scale = real(node, "scale");
  const size_t room =
      (kernels::attention_scratch(args.keys, args.dim / heads, args.value_dim / heads) + 15) / 16 *
      16;
  args.head_end = heads;
  args.query_end = args.queries;
  const double flops = 2.0 * q[0] * q[1] * k[1] * (q[2] + v[2]);
  const int threads = flops < 2 * attention_worth_waking ? 1 : omp_get_max_threads();
  const auto run = device.kernels->attention;
  return kernel_operator(
      device, flops, threads * room * sizeof(float),
      [run, args, constants, room, threads, windows = q[0]](const Binding& binding) {
        const auto operand = [&](size_t i) {
          return constants[i].empty() ? static_cast<const float*>(binding.inputs[i])
                                      : constants[i].data();
        };
        kernels::AttentionArgs bound = args;
        bound.q = operand(0);
        bound.k = operand(1);
        bound.v = operand(2);
        bound.out = static_cast<float*>(binding.outputs[0]);
        bound.scratch = static_cast<float*>(binding.scratch);
        return [run, bound, room, threads, windows] {
          if (windows == 1) return run_attention(run, bound, room, threads);
          run_windows(run, bound, windows, room, threads);
        };
      });
}

}  // namespace

std::vector<Op> detector_ops() {
  using enum OperandType;
  return {
      // An image that more than convolutions read, as a difference of images does, keeps its
      // digits.
      {"frame", 0, 0, 1, {}, Op::Result::as_read, make_frame},
      {"token_attention", 2, 3, 1, {any}, Op::Result::f32, make_token_attention},
      {"projector_attention",
       5,
       5,
       1,
       {features, features, f32},
       Op::Result::features,
       make_projector_attention,
       3},
      {"projector_score_map",
       5,
       5,
       3,
       {features, features, f32},
       Op::Result::f32,
       make_projector_score_map,
       3},
      {"score_map", 2, 2, 3, {features}, Op::Result::f32, make_score_map},
      {"fuse_maps", 10, 10, 1, {f32}, Op::Result::f32, make_fuse_maps},
      {"gaussian_blur", 2, 2, 1, {f32}, Op::Result::f32, make_gaussian_blur},
      {"gms_map", 2, 2, 1, {f32}, Op::Result::f32, make_gms_map},
      {"calibrate_map", 2, 2, 1, {f32}, Op::Result::f32, make_calibrate_map},
      {"attention", 3, 3, 1, {f32}, Op::Result::f32, make_attention},
  };
}

}  // namespace adfast::cpu
