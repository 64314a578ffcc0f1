// A borrowed view of one image with any strides, in host memory or on a device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace adfast {

enum class Color { rgb, bgr, grey };

// The colours of the first row's first two pixels; `none`: every pixel has all its channels.
enum class Bayer { none, rg, gr, gb, bg };

// A pixel format of GenICam's Pixel Format Naming Convention. Values span 0 to 2^bits - 1 whatever
// a frame holds; those of more than 8 bits are uint16 in the machine's byte order.
struct PixelFormat {
  const char* name = "";
  uint32_t code = 0;  // PFNC's
  Color color = Color::rgb;
  int bits = 8;
  Bayer bayer = Bayer::none;

  // As they lie in memory: a mosaic has one.
  int channels() const { return color == Color::grey || bayer != Bayer::none ? 1 : 3; }
  int bytes() const { return bits > 8 ? 2 : 1; }  // of one channel
  // What values are multiplied by to span 0 to 255.
  float to_255() const { return 255.0f / static_cast<float>((1 << bits) - 1); }
};

inline constexpr PixelFormat mono8 = {"Mono8", 0x01080001, Color::grey};
inline constexpr PixelFormat rgb8 = {"RGB8", 0x02180014, Color::rgb};
inline constexpr PixelFormat bgr8 = {"BGR8", 0x02180015, Color::bgr};
inline constexpr PixelFormat pixel_formats[] = {
    mono8,
    {"Mono10", 0x01100003, Color::grey, 10},
    {"Mono12", 0x01100005, Color::grey, 12},
    {"Mono16", 0x01100007, Color::grey, 16},
    {"BayerGR8", 0x01080008, Color::rgb, 8, Bayer::gr},
    {"BayerRG8", 0x01080009, Color::rgb, 8, Bayer::rg},
    {"BayerGB8", 0x0108000A, Color::rgb, 8, Bayer::gb},
    {"BayerBG8", 0x0108000B, Color::rgb, 8, Bayer::bg},
    rgb8,
    bgr8,
};

// Null: not one of them.
inline const PixelFormat* find_format(uint32_t code) {
  for (const PixelFormat& format : pixel_formats) {
    if (format.code == code) return &format;
  }
  return nullptr;
}
inline const PixelFormat* find_format(std::string_view name) {
  for (const PixelFormat& format : pixel_formats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}
inline std::string format_names() {
  std::string names;
  for (const PixelFormat& format : pixel_formats) {
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  return names;
}

struct FrameView {
  const uint8_t* data = nullptr;
  PixelFormat format = rgb8;
  int64_t height = 0;
  int64_t width = 0;
  ptrdiff_t row_stride = 0;      // bytes from a row to the next, may be negative
  ptrdiff_t pixel_stride = 0;    // bytes from a pixel to its right neighbour, may be negative
  ptrdiff_t channel_stride = 0;  // bytes from a channel to the next; ignored where there is one
  // The pixels lie on the engine's device, in rows without gaps; `stream` is that whose work they
  // are, in the terms of __cuda_array_interface__ (0: ready).
  bool on_device = false;
  uint64_t stream = 0;
};

// Bounds that keep every index of the kernels within 32 bits.
inline constexpr int64_t max_frame_side = 32768;

}  // namespace adfast
