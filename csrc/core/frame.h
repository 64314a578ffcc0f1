// A borrowed view of one uint8 image with any strides, in host memory or on a device.
#pragma once
#include <cstddef>
#include <cstdint>

namespace adfast {

enum class Color { rgb, bgr, grey };

struct FrameView {
  const uint8_t* data = nullptr;
  int64_t height = 0;
  int64_t width = 0;
  ptrdiff_t row_stride = 0;      // bytes from a row to the next, may be negative
  ptrdiff_t pixel_stride = 0;    // bytes from a pixel to its right neighbour, may be negative
  ptrdiff_t channel_stride = 0;  // bytes from a channel to the next; ignored for grey
  Color color = Color::rgb;
  // The pixels lie on the engine's device, in rows without gaps; `stream` is that whose work they
  // are, in the terms of __cuda_array_interface__ (0: ready).
  bool on_device = false;
  uint64_t stream = 0;
};

// Bounds that keep every index of the kernels within 32 bits.
inline constexpr int64_t max_frame_side = 32768;

}  // namespace adfast
