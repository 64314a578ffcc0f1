// The detectors' fused pieces: the frame's way in, attention over pixels and tokens, score maps.
#include <omp.h>

#include <algorithm>
#include <array>

#include "backends/cpu/backend.h"
#include "runtime/resample.h"

namespace adfast::cpu {
namespace {

using kernels::DType;

std::unique_ptr<Operator> make_frame(const OperatorRequest& request, const Device& device) {
  const nodes::Frame frame = nodes::frame(request);
  kernels::FrameArgs args{};
  std::copy(frame.scale.begin(), frame.scale.end(), args.scale);
  std::copy(frame.bias.begin(), frame.bias.end(), args.bias);
  args.dtype = kernel_type(request.outputs[0]->dtype);
  args.row_end = static_cast<int32_t>(frame.height);
  const auto run = device.kernels->frame_to_tensor;
  return kernel_operator(device, 0, 0, [run, args](const Binding& binding) {
    kernels::FrameArgs bound = args;
    bound.dst = binding.outputs[0];
    return [run, args, bound, input = binding.frame]() mutable {
      const FrameView& frame = input->view();
      bound.src = frame.data;
      bound.row_stride = frame.row_stride;
      bound.pixel_stride = frame.pixel_stride;
      bound.value_bytes = frame.format.bytes();
      for (int c = 0; c < 3; ++c) bound.scale[c] = args.scale[c] * frame.format.to_255();
      const bool grey = frame.format.channels() == 1;
      const bool bgr = frame.format.color == Color::bgr;
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
  const nodes::TokenAttention node = nodes::token_attention(request);
  std::vector<float> bias;
  if (node.bias != nullptr) bias = floats(*node.bias);
  kernels::TokenAttentionArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
  args.groups = node.groups;
  args.scale = node.scale;
  const auto run = device.kernels->token_attention;
  return kernel_operator(
      device, 4.0 * args.pixels * args.channels * args.groups,
      kernels::token_attention_scratch(args.channels, args.groups) * sizeof(float),
      [run, args, weight = floats(*node.weight), bias](const Binding& binding) {
        kernels::TokenAttentionArgs bound = args;
        bound.x = binding.inputs[0];
        bound.weight = weight.data();
        bound.bias = bias.empty() ? nullptr : bias.data();
        bound.out = static_cast<float*>(binding.outputs[0]);
        bound.scratch = static_cast<float*>(binding.scratch);
        return [run, bound] { run(bound); };
      });
}

kernels::ProjectorAttentionArgs projector_args(const OperatorRequest& request,
                                               const nodes::Projector& node) {
  kernels::ProjectorAttentionArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
  args.tokens = node.tokens;
  args.scale = node.scale;
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
  const auto args = projector_args(request, nodes::projector_attention(request));
  const auto run = device.kernels->projector_attention;
  return kernel_operator(device, 4.0 * args.pixels * args.channels * args.tokens,
                         projector_scratch(args), [run, args](const Binding& binding) {
                           auto bound = bind_projector(args, binding);
                           bound.out = binding.outputs[0];
                           return [run, bound] { run(bound); };
                         });
}

std::unique_ptr<Operator> make_projector_score_map(const OperatorRequest& request,
                                                   const Device& device) {
  kernels::ProjectorScoreMapArgs args{};
  args.projector = projector_args(request, nodes::projector_score_map(request));
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
  const nodes::Features node = nodes::score_map(request);
  kernels::ScoreMapArgs args{};
  args.dtype = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
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
  const nodes::FuseMaps node = nodes::fuse_maps(request);
  kernels::FuseMapsArgs args{};
  std::copy(node.map_height.begin(), node.map_height.end(), args.map_height);
  std::copy(node.map_width.begin(), node.map_width.end(), args.map_width);
  args.mode = node.mode;
  args.height = node.height;
  args.width = node.width;
  const auto run = device.kernels->fuse_maps;
  return kernel_operator(device, 30.0 * node.height * node.width, 0,
                         [run, args, lambda = floats(*node.lambda)](const Binding& binding) {
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
  const nodes::GaussianBlur node = nodes::gaussian_blur(request);
  kernels::GaussianBlurArgs args{};
  args.height = node.height;
  args.width = node.width;
  args.taps = node.taps;
  const auto run = device.kernels->gaussian_blur;
  return kernel_operator(
      device, 4.0 * args.height * args.width * args.taps,
      kernels::gaussian_blur_scratch(args.height, args.width, args.taps) * sizeof(float),
      [run, args, kernel = floats(*node.kernel)](const Binding& binding) {
        kernels::GaussianBlurArgs bound = args;
        bound.src = static_cast<const float*>(binding.inputs[0]);
        bound.kernel = kernel.data();
        bound.dst = static_cast<float*>(binding.outputs[0]);
        bound.scratch = static_cast<float*>(binding.scratch);
        return [run, bound] { run(bound); };
      });
}

std::unique_ptr<Operator> make_gms_map(const OperatorRequest& request, const Device& device) {
  const nodes::GmsMap node = nodes::gms_map(request);
  kernels::GmsMapArgs args{};
  args.height = node.height;
  args.width = node.width;
  args.channels = node.channels;
  args.c = node.c;
  const auto run = device.kernels->gms_map;
  return kernel_operator(device, 30.0 * node.height * node.width * node.channels,
                         kernels::gms_map_scratch(node.width, node.channels) * sizeof(float),
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
  const nodes::CalibrateMap node = nodes::calibrate_map(request);
  const kernels::CalibrateMapArgs args{nullptr, nullptr, node.count, node.square, nullptr};
  const auto run = device.kernels->calibrate_map;
  return kernel_operator(device, 2.0 * node.count, 0,
                         [run, args, mean = floats(*node.mean)](const Binding& binding) {
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
  const nodes::Attention node = nodes::attention(request);
  // Constant ones: a learned query.
  std::array<std::vector<float>, 3> constants;
  for (size_t i = 0; i < 3; ++i) {
    if (request.inputs[i]->constant) constants[i] = floats(*request.inputs[i]);
  }
  kernels::AttentionArgs args{};
  args.queries = node.queries;
  args.keys = node.keys;
  args.dim = node.dim;
  args.value_dim = node.value_dim;
  args.heads = node.heads;
  args.scale = node.scale;
  args.operands = kernel_type(device.operands);
  const size_t room =
      (kernels::attention_scratch(args.keys, args.dim / args.heads, args.value_dim / args.heads) +
       15) /
      16 * 16;
  args.head_end = args.heads;
  args.query_end = args.queries;
  const int threads = node.flops < 2 * attention_worth_waking ? 1 : omp_get_max_threads();
  const auto run = device.kernels->attention;
  return kernel_operator(
      device, node.flops, threads * room * sizeof(float),
      [run, args, constants, room, threads, windows = node.windows](const Binding& binding) {
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
      {{"frame", 0, 0, 1, {}, ResultType::as_read}, make_frame},
      {{"token_attention", 2, 3, 1, {any}, ResultType::f32}, make_token_attention},
      {{"projector_attention", 5, 5, 1, {features, features, f32}, ResultType::features, 3},
       make_projector_attention},
      {{"projector_score_map", 5, 5, 3, {features, features, f32}, ResultType::f32, 3},
       make_projector_score_map},
      {{"score_map", 2, 2, 3, {features}, ResultType::f32}, make_score_map},
      {{"fuse_maps", 10, 10, 1, {f32}, ResultType::f32}, make_fuse_maps},
      {{"gaussian_blur", 2, 2, 1, {f32}, ResultType::f32}, make_gaussian_blur},
      {{"gms_map", 2, 2, 1, {f32}, ResultType::f32}, make_gms_map},
      {{"calibrate_map", 2, 2, 1, {f32}, ResultType::f32}, make_calibrate_map},
      {{"attention", 3, 3, 1, {f32}, ResultType::f32}, make_attention},
  };
}

}  // namespace adfast::cpu
