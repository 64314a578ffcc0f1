#include "runtime/pixels.h"

#include <cstdlib>
#include <cstring>

namespace adfast {

namespace {

// Row y, mirrored into the frame about its first or last row.
const uint8_t* mirrored_row(const FrameView& frame, int64_t y) {
  if (y < 0) y = frame.height > 1 ? 1 : 0;
  if (y >= frame.height) y = frame.height > 1 ? frame.height - 2 : 0;
  return frame.data + y * frame.row_stride;
}

// Whether the first pixel of the first row is green, and whether that row holds red.
struct Phase {
  bool green_first, red_row;
};

Phase phase_of(Bayer bayer) {
  switch (bayer) {
    case Bayer::rg:
      return {false, true};
    case Bayer::gr:
      return {true, true};
    case Bayer::gb:
      return {true, false};
    default:
      return {false, false};
  }
}

Bayer bayer_of(Phase phase) {
  if (phase.red_row) return phase.green_first ? Bayer::gr : Bayer::rg;
  return phase.green_first ? Bayer::gb : Bayer::bg;
}

Bayer shifted(Bayer bayer, int64_t x, int64_t y) {
  if (bayer == Bayer::none) return bayer;
  Phase phase = phase_of(bayer);
  if (y % 2 != 0) phase = {!phase.green_first, !phase.red_row};
  if (x % 2 != 0) phase.green_first = !phase.green_first;
  return bayer_of(phase);
}

uint8_t mean(int a, int b) { return static_cast<uint8_t>((a + b + 1) >> 1); }
uint8_t mean(int a, int b, int c, int d) { return static_cast<uint8_t>((a + b + c + d + 2) >> 2); }

}  // namespace

bool readable(const FrameView& frame) {
  if (frame.on_device) return true;
  if (frame.format.bayer != Bayer::none) return false;
  if (frame.format.bytes() == 1) return true;
  const auto address = reinterpret_cast<uintptr_t>(frame.data);
  const bool aligned = address % 2 == 0 && frame.row_stride % 2 == 0;
  return aligned && std::abs(frame.pixel_stride) == 2;
}

void demosaic_row(const FrameView& frame, int64_t y, uint8_t* red, uint8_t* green, uint8_t* blue) {
  const Phase phase = phase_of(shifted(frame.format.bayer, 0, y));
  const uint8_t *up = mirrored_row(frame, y - 1), *row = mirrored_row(frame, y),
                *down = mirrored_row(frame, y + 1);
  uint8_t* own = phase.red_row ? red : blue;    // of this row
  uint8_t* other = phase.red_row ? blue : red;  // of its neighbours
  const ptrdiff_t step = frame.pixel_stride;
  const int64_t last = frame.width - 1;
  const auto pixel = [&](int64_t x, ptrdiff_t left, ptrdiff_t right, bool is_green) {
    const ptrdiff_t at = x * step;
    if (is_green) {
      own[x] = mean(row[at + left], row[at + right]);
      green[x] = row[at];
      other[x] = mean(up[at], down[at]);
    } else {
      own[x] = row[at];
      green[x] = mean(row[at + left], row[at + right], up[at], down[at]);
      other[x] = mean(up[at + left], up[at + right], down[at + left], down[at + right]);
    }
  };
  const auto green_at = [&](int64_t x) { return (x % 2 == 0) == phase.green_first; };
  const ptrdiff_t inward = last > 0 ? step : 0;
  pixel(0, inward, inward, green_at(0));
  if (last == 0) return;
  int64_t x = 1;
  for (; x + 1 < last; x += 2) {
    pixel(x, -step, step, !phase.green_first);
    pixel(x + 1, -step, step, phase.green_first);
  }
  if (x < last) pixel(x, -step, step, green_at(x));
  pixel(last, -step, -step, green_at(last));
}

int64_t packed_row_bytes(const FrameView& frame) {
  const int channels = frame.format.bayer == Bayer::none ? frame.format.channels() : 3;
  return frame.width * channels * frame.format.bytes();
}

void pack_row(const FrameView& frame, int64_t y, uint8_t* out, std::vector<uint8_t>* scratch) {
  const int64_t width = frame.width;
  if (frame.format.bayer != Bayer::none) {
    scratch->resize(static_cast<size_t>(3 * width));
    uint8_t* planes = scratch->data();
    demosaic_row(frame, y, planes, planes + width, planes + 2 * width);
    for (int64_t x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) *out++ = planes[c * width + x];
    }
    return;
  }
  const int channels = frame.format.channels(), bytes = frame.format.bytes();
  const uint8_t* in = frame.data + y * frame.row_stride;
  if (frame.pixel_stride == channels * bytes && (channels == 1 || frame.channel_stride == bytes)) {
    std::memcpy(out, in, static_cast<size_t>(width * channels * bytes));
    return;
  }
  for (int64_t x = 0; x < width; ++x) {
    for (int c = 0; c < channels; ++c) {
      const uint8_t* value = in + x * frame.pixel_stride + c * frame.channel_stride;
      for (int b = 0; b < bytes; ++b) *out++ = value[b];
    }
  }
}

FrameView made_readable(const FrameView& frame, std::vector<uint8_t>* buffer) {
  if (readable(frame)) return frame;
  FrameView result = frame;
  const int64_t row = packed_row_bytes(frame);
  buffer->resize(static_cast<size_t>(row * frame.height));
  result.data = buffer->data();
  if (frame.format.bayer != Bayer::none) {
    const int64_t plane = frame.width * frame.height;
    uint8_t* out = buffer->data();
    for (int64_t y = 0; y < frame.height; ++y, out += frame.width) {
      demosaic_row(frame, y, out, out + plane, out + 2 * plane);
    }
    result.format = rgb8;
    result.row_stride = frame.width;
    result.pixel_stride = 1;
    result.channel_stride = plane;
    return result;
  }
  for (int64_t y = 0; y < frame.height; ++y) pack_row(frame, y, buffer->data() + y * row, nullptr);
  result.row_stride = row;
  result.pixel_stride = frame.format.bytes();
  return result;
}

FrameView part_of(const FrameView& frame, int64_t x, int64_t y, int64_t width, int64_t height) {
  FrameView part = frame;
  part.data += y * frame.row_stride + x * frame.pixel_stride;
  part.format.bayer = shifted(frame.format.bayer, x, y);
  part.width = width;
  part.height = height;
  return part;
}

}  // namespace adfast
