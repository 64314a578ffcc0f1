// Bilinear resizing of f32 maps: a thread for each output, or for four channels of it.
#include "resample.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128;

template <int kPack>
__global__ void __launch_bounds__(kThreads) resize_kernel(ResizeBilinearArgs a) {
  const int64_t packs = a.channels / kPack, count = packs * a.dst_height * a.dst_width;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const Division pixel = divide(i, packs), at = divide(pixel.quotient, a.dst_width);
    const Place row = place(static_cast<int>(at.quotient), a.height, a.dst_height, a.align_corners);
    const Place column =
        place(static_cast<int>(at.remainder), a.width, a.dst_width, a.align_corners);
    const float* top = a.src + int64_t{row.first} * a.width * a.channels;
    const float* bottom = a.src + int64_t{row.next} * a.width * a.channels;
    const int64_t channel = pixel.remainder * kPack;
    const int64_t left = int64_t{column.first} * a.channels + channel;
    const int64_t right = int64_t{column.next} * a.channels + channel;
    float a0[kPack], a1[kPack], b0[kPack], b1[kPack];
    load<kPack>(top + left, a0);
    load<kPack>(top + right, a1);
    load<kPack>(bottom + left, b0);
    load<kPack>(bottom + right, b1);
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      a0[j] = between(between(a0[j], a1[j], column.fraction),
                      between(b0[j], b1[j], column.fraction), row.fraction);
    }
    store<kPack>(a.dst + at.quotient * a.dst_row_stride + at.remainder * a.channels + channel, a0);
  }
}

}  // namespace

cudaError_t resize_bilinear(const ResizeBilinearArgs& a, cudaStream_t stream) {
  const bool vector =
      a.channels % 4 == 0 && a.dst_row_stride % 4 == 0 && aligned(a.src) && aligned(a.dst);
  const int64_t count = int64_t{a.channels} / (vector ? 4 : 1) * a.dst_height * a.dst_width;
  return launch(vector ? resize_kernel<4> : resize_kernel<1>, blocks_for(count, kThreads), kThreads,
                0, stream, a);
}

}  // namespace adfast::kernels::cuda
