// Convolutions with groups.
//
// Depthwise: a thread computes four channels of one or four output pixels next to each other; each
// input pixel of their common window is loaded once, each weight once for all of them. Otherwise a
// thread computes one channel of up to four pixels: the threads of a warp read weights that lie
// side by side, and inputs that those of the same group share.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128;

// y[at .. at + kPack) = activation(sum + bias + residual).
template <class T, int kPack>
__device__ __forceinline__ void finish(const GroupConvArgs& a, int64_t at, int channel,
                                       float (&sum)[kPack]) {
  float v[kPack];
  if (a.bias) {
    load<kPack>(a.bias + channel, v);
#pragma unroll
    for (int j = 0; j < kPack; j++) sum[j] += v[j];
  }
  if (a.residual) {
    load<kPack>(static_cast<const T*>(a.residual) + at, v);
#pragma unroll
    for (int j = 0; j < kPack; j++) sum[j] += v[j];
  }
#pragma unroll
  for (int j = 0; j < kPack; j++) sum[j] = apply(a.activation, sum[j]);
  store<kPack>(static_cast<T*>(a.y) + at, sum);
}

// kSize x kSize windows of stride kStride, not dilated, kPixels outputs a thread.
template <class T, int kPack, int kSize, int kStride, int kPixels>
__global__ void __launch_bounds__(kThreads) depthwise_kernel(GroupConvArgs a) {
  const int64_t packs = a.channels / kPack, across = (a.out_width + kPixels - 1) / kPixels;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs * across * a.out_height) return;
  const Division rest = divide(i, packs), at = divide(rest.quotient, across);
  const int channel = static_cast<int>(rest.remainder) * kPack;
  const int y = static_cast<int>(at.quotient), x = static_cast<int>(at.remainder) * kPixels;
  constexpr int kColumns = kSize + (kPixels - 1) * kStride;
  float sum[kPixels][kPack];
  for (int p = 0; p < kPixels; p++) {
    for (int j = 0; j < kPack; j++) sum[p][j] = 0;
  }
#pragma unroll
  for (int ky = 0; ky < kSize; ky++) {
    const int row = y * kStride - a.top + ky;
    if (row < 0 || row >= a.height) continue;
    const T* from = static_cast<const T*>(a.x) + int64_t{row} * a.width * a.channels + channel;
    float v[kColumns][kPack];
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
      const int column = x * kStride - a.left + c;
      if (column >= 0 && column < a.width) {
        load<kPack>(from + int64_t{column} * a.channels, v[c]);
      } else {
        for (int j = 0; j < kPack; j++) v[c][j] = 0;
      }
    }
#pragma unroll
    for (int kx = 0; kx < kSize; kx++) {
      float w[kPack];
      load<kPack>(a.weight + int64_t{ky * kSize + kx} * a.channels + channel, w);
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
#pragma unroll
        for (int j = 0; j < kPack; j++) sum[p][j] += w[j] * v[p * kStride + kx][j];
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPixels; p++) {
    if (x + p >= a.out_width) continue;
    finish<T>(a, (int64_t{y} * a.out_width + x + p) * a.channels + channel, channel, sum[p]);
  }
}

// Any window.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) depthwise_any_kernel(GroupConvArgs a) {
  const int64_t packs = a.channels / kPack;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs * a.out_width * a.out_height) return;
  const Division rest = divide(i, packs), at = divide(rest.quotient, a.out_width);
  const int channel = static_cast<int>(rest.remainder) * kPack;
  const int y = static_cast<int>(at.quotient), x = static_cast<int>(at.remainder);
  float sum[kPack] = {};
  for (int ky = 0; ky < a.kernel_height; ky++) {
    const int row = y * a.stride_y - a.top + ky * a.dilation_y;
    if (row < 0 || row >= a.height) continue;
    for (int kx = 0; kx < a.kernel_width; kx++) {
      const int column = x * a.stride_x - a.left + kx * a.dilation_x;
      if (column < 0 || column >= a.width) continue;
      float v[kPack], w[kPack];
      load<kPack>(
          static_cast<const T*>(a.x) + (int64_t{row} * a.width + column) * a.channels + channel, v);
      load<kPack>(a.weight + int64_t{ky * a.kernel_width + kx} * a.channels + channel, w);
#pragma unroll
      for (int j = 0; j < kPack; j++) sum[j] += w[j] * v[j];
    }
  }
  finish<T>(a, i * kPack, channel, sum);
}

template <class T, int kPixels>
__global__ void __launch_bounds__(kThreads) group_conv_kernel(GroupConvArgs a) {
  const int64_t across = (a.out_width + kPixels - 1) / kPixels;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= across * a.out_height * a.out_channels) return;
  const Division rest = divide(i, a.out_channels), at = divide(rest.quotient, across);
  const int channel = static_cast<int>(rest.remainder);
  const int y = static_cast<int>(at.quotient), x = static_cast<int>(at.remainder) * kPixels;
  const int inputs = a.channels / a.groups;
  const int first = channel / (a.out_channels / a.groups) * inputs;
  float sum[kPixels] = {};
  for (int ky = 0; ky < a.kernel_height; ky++) {
    const int row = y * a.stride_y - a.top + ky * a.dilation_y;
    if (row < 0 || row >= a.height) continue;
    for (int kx = 0; kx < a.kernel_width; kx++) {
      const T* from[kPixels];
      bool inside[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
        const int column = (x + p) * a.stride_x - a.left + kx * a.dilation_x;
        inside[p] = column >= 0 && column < a.width;
        from[p] = static_cast<const T*>(a.x) +
                  (int64_t{row} * a.width + (inside[p] ? column : 0)) * a.channels + first;
      }
      const float* weight =
          a.weight + int64_t{ky * a.kernel_width + kx} * inputs * a.out_channels + channel;
#pragma unroll 4
      for (int c = 0; c < inputs; c++) {
        const float w = weight[int64_t{c} * a.out_channels];
#pragma unroll
        for (int p = 0; p < kPixels; p++) {
          const float v = widen(from[p][c]);
          sum[p] += w * (inside[p] ? v : 0.0f);
        }
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPixels; p++) {
    if (x + p >= a.out_width) continue;
    float one[1] = {sum[p]};
    finish<T>(a, (int64_t{y} * a.out_width + x + p) * a.out_channels + channel, channel, one);
  }
}

template <class T, int kPack, int kSize, int kStride>
cudaError_t depthwise(const GroupConvArgs& a, cudaStream_t stream) {
  // Several pixels a thread only where the threads still fill the card.
  const int64_t packs = a.channels / kPack;
  const int64_t fours = packs * ceil_div(a.out_width, 4) * a.out_height;
  if (fours >= int64_t{kMultiprocessors} * 256) {
    return launch(depthwise_kernel<T, kPack, kSize, kStride, 4>, blocks_for(fours, kThreads),
                  kThreads, 0, stream, a);
  }
  return launch(depthwise_kernel<T, kPack, kSize, kStride, 1>,
                blocks_for(packs * a.out_width * a.out_height, kThreads), kThreads, 0, stream, a);
}

template <class T, int kPack>
cudaError_t depthwise_of(const GroupConvArgs& a, cudaStream_t stream) {
  const bool plain = a.kernel_height == a.kernel_width && a.stride_y == a.stride_x &&
                     a.dilation_y == 1 && a.dilation_x == 1;
  if (plain && a.kernel_height == 3 && a.stride_x == 1) return depthwise<T, kPack, 3, 1>(a, stream);
  if (plain && a.kernel_height == 3 && a.stride_x == 2) return depthwise<T, kPack, 3, 2>(a, stream);
  if (plain && a.kernel_height == 5 && a.stride_x == 1) return depthwise<T, kPack, 5, 1>(a, stream);
  if (plain && a.kernel_height == 5 && a.stride_x == 2) return depthwise<T, kPack, 5, 2>(a, stream);
  const int64_t count = int64_t{a.channels} / kPack * a.out_width * a.out_height;
  return launch(depthwise_any_kernel<T, kPack>, blocks_for(count, kThreads), kThreads, 0, stream,
                a);
}

}  // namespace

cudaError_t group_conv(const GroupConvArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.groups == a.channels && a.groups == a.out_channels) {
      const bool vector = a.channels % 4 == 0 && aligned(a.x) && aligned(a.weight) &&
                          aligned(a.bias) && aligned(a.residual) && aligned(a.y);
      if (vector) return depthwise_of<T, 4>(a, stream);
      const int64_t count = int64_t{a.channels} * a.out_width * a.out_height;
      return launch(depthwise_any_kernel<T, 1>, blocks_for(count, kThreads), kThreads, 0, stream,
                    a);
    }
    const int64_t fours = ceil_div(a.out_width, 4) * a.out_height * a.out_channels;
    if (fours >= int64_t{kMultiprocessors} * 256) {
      return launch(group_conv_kernel<T, 4>, blocks_for(fours, kThreads), kThreads, 0, stream, a);
    }
    return launch(group_conv_kernel<T, 1>,
                  blocks_for(int64_t{a.out_width} * a.out_height * a.out_channels, kThreads),
                  kThreads, 0, stream, a);
  });
}

}  // namespace adfast::kernels::cuda
