// Triton's kernels on the emulated device. Convolution is stood in for by plain loops, which take
// the arguments, the grid and the shares of the depth as the kernel does
// (kernels/triton/conv2d.py); the others are absent, and every caller has another way.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/triton.h"
#include "kernels/cuda/kernels.h"
#include "values.h"

namespace adfast::cuda {
namespace {

using emulated::get;
using emulated::put;
using emulated::Type;
using kernels::cuda::Unary;

// What a kernel's function points to.
constexpr Type f16 = Type::f16, bf16 = Type::bf16;

float activated(Unary activation, float v) {
  switch (activation) {
    case Unary::relu:
      return 0.0f > v ? 0.0f : v;
    case Unary::sigmoid:
      return 1.0f / (1.0f + std::exp(-v));
    case Unary::silu:
      return std::max(-110.0f, v) / (1.0f + std::exp(-v));
    case Unary::gelu:
      return std::max(-20.0f, v) * 0.5f * std::erfc(-0.707106781f * v);
    default:
      return v;
  }
}

// The arguments of conv2d_kernel in their order.
struct Conv {
  const void *x, *weight, *bias, *residual;
  void *y, *parts;
  int32_t rows, height, width, channels, out_height, out_width, out_channels, kernel_width, taps,
      stride_y, stride_x, top, left, dilation_y, dilation_x, has_residual, activation, splits;
  Type type;
  int32_t block_k;

  // Over one share of the steps along the depth.
  float sum(int32_t row, int32_t column, int32_t share) const {
    const int32_t y = row / out_width % out_height, x_at = row % out_width;
    const int32_t chunks = (channels + block_k - 1) / block_k, steps = taps * chunks;
    const int32_t each = (steps + splits - 1) / splits;
    float total = 0;
    for (int32_t step = share * each; step < std::min(steps, (share + 1) * each); ++step) {
      const int32_t tap = step / chunks, first = step % chunks * block_k;
      const int32_t at_y = y * stride_y - top + tap / kernel_width * dilation_y;
      const int32_t at_x = x_at * stride_x - left + tap % kernel_width * dilation_x;
      if (at_y < 0 || at_y >= height || at_x < 0 || at_x >= width) continue;
      for (int32_t c = first; c < std::min(channels, first + block_k); ++c) {
        total += get(x, int64_t{at_y * width + at_x} * channels + c, type) *
                 get(weight, int64_t{column * taps + tap} * channels + c, type);
      }
    }
    return total;
  }

  cudaError_t operator()() const {
    for (int32_t share = 0; share < splits; ++share) {
      for (int32_t row = 0; row < rows; ++row) {
        for (int32_t column = 0; column < out_channels; ++column) {
          const int64_t at = int64_t{row} * out_channels + column;
          float v = sum(row, column, share);
          if (splits > 1) {
            put(parts, int64_t{share} * rows * out_channels + at, Type::f32, v);
            continue;
          }
          v += get(bias, column, Type::f32);
          if (has_residual != 0) v += get(residual, at, type);
          put(y, at, type, activated(static_cast<Unary>(activation), v));
        }
      }
    }
    return cudaSuccess;
  }
};

template <class T>
void take(const std::vector<void*>& arguments, size_t* next, T* value) {
  *value = *static_cast<T*>(arguments[(*next)++]);
}

}  // namespace

struct TritonKernels::Loaded {
  TritonKernel kernel;
};

TritonKernels::TritonKernels(int capability) : capability_(capability) {}
TritonKernels::~TritonKernels() = default;

const TritonKernel* TritonKernels::find(const std::string& name) {
  struct Tile {
    const char* name;
    int64_t m, n, k;
  };
  constexpr Tile tiles[] = {{"m128n128", 128, 128, 64},
                            {"m64n64", 64, 64, 128},
                            {"m32n64", 32, 64, 64},
                            {"m32n32", 32, 32, 64}};
  for (const Tile& tile : tiles) {
    for (const Type* type : {&f16, &bf16}) {
      std::string known = type == &f16 ? "conv2d_fp16_" : "conv2d_bf16_";
      if (name != known.append(tile.name)) continue;
      auto& loaded = loaded_[name];
      if (loaded == nullptr) {
        loaded = std::make_unique<Loaded>();
        loaded->kernel.function = type;
        loaded->kernel.constants = {{"BLOCK_M", tile.m}, {"BLOCK_N", tile.n}, {"BLOCK_K", tile.k}};
      }
      return &loaded->kernel;
    }
  }
  return nullptr;
}

cudaError_t TritonKernel::launch(dim3 grid, std::vector<void*> arguments,
                                 cudaStream_t stream) const {
  if (arguments.size() != 24) return cudaErrorInvalidValue;
  Conv conv{};
  size_t next = 0;
  for (const void** pointer : {&conv.x, &conv.weight, &conv.bias, &conv.residual}) {
    take(arguments, &next, pointer);
  }
  take(arguments, &next, &conv.y);
  take(arguments, &next, &conv.parts);
  for (int32_t* number : {&conv.rows, &conv.height, &conv.width, &conv.channels, &conv.out_height,
                          &conv.out_width, &conv.out_channels, &conv.kernel_width, &conv.taps,
                          &conv.stride_y, &conv.stride_x, &conv.top, &conv.left, &conv.dilation_y,
                          &conv.dilation_x, &conv.has_residual, &conv.activation, &conv.splits}) {
    take(arguments, &next, number);
  }
  conv.type = *static_cast<const Type*>(function);
  conv.block_k = static_cast<int32_t>(constants.at("BLOCK_K"));
  const auto tiles = [](int64_t count, int64_t size) {
    return static_cast<unsigned>((count + size - 1) / size);
  };
  // What the compiled kernel relies on.
  bool sound = conv.channels % 16 == 0;
  for (const void* pointer :
       {conv.x, conv.weight, conv.bias, conv.residual, static_cast<const void*>(conv.y),
        static_cast<const void*>(conv.parts)}) {
    sound &= pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  }
  sound &= grid.x == tiles(conv.rows, constants.at("BLOCK_M")) &&
           grid.y == tiles(conv.out_channels, constants.at("BLOCK_N")) &&
           grid.z == static_cast<unsigned>(conv.splits);
  if (!sound) return cudaErrorInvalidValue;
  return emulated_enqueue(stream, conv);
}

}  // namespace adfast::cuda
