// A uint8 or uint16 frame to the network's normalised input: antialiased resampling, crop and
// normalisation.
//
// Vertically first, because there the bytes of whole rows are contiguous whatever the channel
// order; then across, one pixel's channels (or, for grey, one pixel of four rows) in a vector of
// four.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// How a source row is read. In place: `bytes` of it from src + start (planar: from every channel's
// own offset), or, where pixels are neither neighbours nor triples or quadruples, after a copy to
// R, G, B. In the rows of the vertical pass, pixel i begins at origin + i * step.
enum class Reading { colour, grey, grey16, planar, copied };

struct FrameLayout {
  Reading reading;
  ptrdiff_t start;
  int64_t bytes, origin, step;
  Order4 order;  // lanes of R, G, B
};

static inline FrameLayout frame_layout(const FrameArgs& a) {
  const ptrdiff_t* offset = a.channel_offset;
  int64_t low = smaller(offset[0], smaller(offset[1], offset[2]));
  int64_t span = larger(offset[0], larger(offset[1], offset[2])) - low;
  int64_t pixel = a.pixel_stride < 0 ? -a.pixel_stride : a.pixel_stride;
  int64_t last = a.src_width - 1;
  bool reversed = a.pixel_stride < 0;
  ptrdiff_t start = reversed ? last * a.pixel_stride : 0;  // the lowest address comes first
  if (pixel == a.value_bytes && span == 0) {
    return {a.value_bytes == 2 ? Reading::grey16 : Reading::grey,
            start + low,
            last + 1,
            reversed ? last : 0,
            reversed ? -1 : 1,
            {}};
  }
  if (pixel == 1) {
    int64_t origin = reversed ? 4 * last : 0;
    return {Reading::planar, start, last + 1, origin, 4 * a.pixel_stride, {{0, 1, 2, 2}}};
  }
  if ((pixel == 3 || pixel == 4) && span > 0 && span < pixel) {
    Order4 order;
    for (int c = 0; c < 4; c++) {
      order.lane[c] = static_cast<int32_t>(offset[c < 3 ? c : 2] - low);
    }
    int64_t bytes = pixel * last + span + 1;
    int64_t origin = reversed ? last * pixel : 0;
    return {Reading::colour, start + low, bytes, origin, a.pixel_stride, order};
  }
  return {Reading::copied, 0, 3 * (last + 1), 0, 3, {{0, 1, 2, 2}}};
}

// out[i] = sum_t weight[t] * rows[t][i], kVectors vectors at once.
template <int kVectors, class Lanes>
static inline void rows_weighted(const uint8_t* src, ptrdiff_t row_stride, const float* weight,
                                 int64_t taps, float* out, Lanes lanes) {
  Vec acc[kVectors];
  for (int k = 0; k < kVectors; k++) acc[k] = set1(0.0f);
  for (int64_t t = 0; t < taps; t++) {
    Vec w = set1(weight[t]);
    for (int k = 0; k < kVectors; k++) {
      acc[k] = fma(w, load(src + t * row_stride + k * kLanes, lanes), acc[k]);
    }
  }
  for (int k = 0; k < kVectors; k++) store(out + k * kLanes, acc[k], lanes);
}

// `rows` output rows of a colour frame, one after the other. Converting each source row once for
// all of them was tried: the bookkeeping costs what it saves.
static inline void colour_rows_down(const FrameArgs& a, const FrameLayout& layout, int64_t y,
                                    int64_t rows, float* out, int64_t row_size) {
  constexpr int kVectors = kLanes == 1 ? 16 : 4;  // one float each: left to the compiler to combine
  for (int64_t r = 0; r < rows; r++) {
    const uint8_t* src = a.src + layout.start + a.y.first[y + r] * a.row_stride;
    const float* weight = a.y.weight + (y + r) * a.y.taps;
    float* row = out + r * row_size;
    int64_t i = 0;
    for (; i + kVectors * kLanes <= layout.bytes; i += kVectors * kLanes) {
      rows_weighted<kVectors>(src + i, a.row_stride, weight, a.y.taps, row + i, All{});
    }
    over(layout.bytes - i, [&](int64_t j, auto lanes) {
      rows_weighted<1>(src + i + j, a.row_stride, weight, a.y.taps, row + i + j, lanes);
    });
  }
}

// Four output rows of a grey frame, interleaved: out[4 * i + r]. A missing row repeats the last.
template <class Value>
static inline void grey_rows_down(const FrameArgs& a, const FrameLayout& layout, int64_t y,
                                  int64_t rows, float* out) {
  over(layout.bytes, [&](int64_t i, auto lanes) {
    Vec acc[kFrameRows];
    for (int64_t r = 0; r < kFrameRows; r++) {
      int64_t row = y + smaller(r, rows - 1);
      const uint8_t* src = a.src + layout.start + a.y.first[row] * a.row_stride;
      const float* weight = a.y.weight + row * a.y.taps;
      acc[r] = set1(0.0f);
      for (int64_t t = 0; t < a.y.taps; t++) {
        const Value* values = reinterpret_cast<const Value*>(src + t * a.row_stride) + i;
        acc[r] = fma(set1(weight[t]), load(values, lanes), acc[r]);
      }
    }
    store_interleaved4(out + 4 * i, acc);
  });
}

// `rows` output rows of a planar frame, each with its pixels' channels together: out[4 * i + c].
static inline void planar_rows_down(const FrameArgs& a, const FrameLayout& layout, int64_t y,
                                    int64_t rows, float* out, int64_t row_size) {
  for (int64_t r = 0; r < rows; r++) {
    const uint8_t* src = a.src + layout.start + a.y.first[y + r] * a.row_stride;
    const float* weight = a.y.weight + (y + r) * a.y.taps;
    over(layout.bytes, [&](int64_t i, auto lanes) {
      Vec acc[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
      for (int64_t t = 0; t < a.y.taps; t++) {
        const uint8_t* p = src + t * a.row_stride + i;
        for (int c = 0; c < 3; c++) {
          acc[c] = fma(set1(weight[t]), load(p + a.channel_offset[c], lanes), acc[c]);
        }
      }
      store_interleaved4(out + r * row_size + 4 * i, acc);
    });
  }
}

// Output rows of a frame that cannot be read in place. Each source row is copied once for all of
// them; every sum runs over its taps in the same order as in `rows_weighted`, so the bits agree.
static inline void copied_rows_down(const FrameArgs& a, int64_t y, int64_t rows, float* out,
                                    int64_t row_size, uint8_t* copy) {
  int64_t bytes = 3 * static_cast<int64_t>(a.src_width);
  int64_t begin = a.y.first[y], end = begin;
  for (int64_t r = 0; r < rows; r++) {
    begin = smaller(begin, a.y.first[y + r]);
    end = larger(end, a.y.first[y + r] + a.y.taps);
    over(bytes, [&](int64_t i, auto lanes) { store(out + r * row_size + i, set1(0.0f), lanes); });
  }
  for (int64_t s = begin; s < end; s++) {
    for (int c = 0; c < 3; c++) {
      const uint8_t* pixel = a.src + s * a.row_stride + a.channel_offset[c];
      for (int64_t i = c; i < bytes; i += 3, pixel += a.pixel_stride) copy[i] = *pixel;
    }
    for (int64_t r = 0; r < rows; r++) {
      int64_t tap = s - a.y.first[y + r];
      if (tap < 0 || tap >= a.y.taps) continue;
      Vec w = set1(a.y.weight[(y + r) * a.y.taps + tap]);
      float* row = out + r * row_size;
      over(bytes, [&](int64_t i, auto lanes) {
        store(row + i, fma(w, load(copy + i, lanes), load(row + i, lanes)), lanes);
      });
    }
  }
}

// Output pixels of up to four rows in f32, before they are stored in the type asked for. Pixels are
// written as vectors of four that spill over the next pixel's first channel, which comes after.
constexpr int64_t kFrameColumns = 64;
struct FrameBlock {
  float row[kFrameRows][3 * kFrameColumns + 4];
};

template <class T>
static inline void store_block(const FrameArgs& a, const FrameBlock& block, int64_t y, int64_t rows,
                               int64_t x, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) {
    T* out = static_cast<T*>(a.dst) + ((y + r) * a.x.size + x) * 3;
    over(3 * columns,
         [&](int64_t i, auto lanes) { store(out + i, load(block.row[r] + i, lanes), lanes); });
  }
}

// `rows` <= 4 output rows of a colour frame from the rows of the vertical pass.
template <class T>
static inline void colour_rows_across(const FrameArgs& a, const FrameLayout& layout,
                                      const float* tall, int64_t row_size, int64_t y,
                                      int64_t rows) {
  float scales[4] = {a.scale[0], a.scale[1], a.scale[2], 0};
  float biases[4] = {a.bias[0], a.bias[1], a.bias[2], 0};
  Four scale = load4(scales), bias = load4(biases);
  const float zeros[4] = {};
  int64_t taps = a.x.taps;
  FrameBlock block;
  for (int64_t begin = 0; begin < a.x.size; begin += kFrameColumns) {
    int64_t columns = smaller(kFrameColumns, a.x.size - begin);
    for (int64_t x = 0; x < columns; x++) {
      const float* weight = a.x.weight + (begin + x) * taps;
      const float* p = tall + layout.origin + a.x.first[begin + x] * layout.step;
      Four acc[kFrameRows];
      for (int r = 0; r < kFrameRows; r++) acc[r] = load4(zeros);
      for (int64_t t = 0; t < taps; t++, p += layout.step) {
        for (int r = 0; r < kFrameRows; r++) {
          acc[r] = fma4(weight[t], load4(p + r * row_size), acc[r]);
        }
      }
      for (int r = 0; r < kFrameRows; r++) {
        store4(block.row[r] + 3 * x, fma4(permute4(acc[r], layout.order), scale, bias));
      }
    }
    store_block<T>(a, block, y, rows, begin, columns);
  }
}

// `rows` <= 4 output rows of a grey frame from the interleaved rows of the vertical pass.
template <class T>
static inline void grey_rows_across(const FrameArgs& a, const FrameLayout& layout,
                                    const float* interleaved, int64_t y, int64_t rows) {
  float scales[4] = {a.scale[0], a.scale[1], a.scale[2], 0};
  float biases[4] = {a.bias[0], a.bias[1], a.bias[2], 0};
  Four scale = load4(scales), bias = load4(biases);
  const float zeros[4] = {};
  int64_t taps = a.x.taps;
  FrameBlock block;
  for (int64_t begin = 0; begin < a.x.size; begin += kFrameColumns) {
    int64_t columns = smaller(kFrameColumns, a.x.size - begin);
    for (int64_t x = 0; x < columns; x++) {
      const float* weight = a.x.weight + (begin + x) * taps;
      const float* p = interleaved + 4 * (layout.origin + a.x.first[begin + x] * layout.step);
      Four acc = load4(zeros);
      for (int64_t t = 0; t < taps; t++) acc = fma4(weight[t], load4(p + 4 * t * layout.step), acc);
      float values[4];
      store4(values, acc);
      for (int64_t r = 0; r < kFrameRows; r++) {
        store4(block.row[r] + 3 * x, fma4(values[r], scale, bias));
      }
    }
    store_block<T>(a, block, y, rows, begin, columns);
  }
}

template <class T>
static void frame_of(const FrameArgs& a) {
  FrameLayout layout = frame_layout(a);
  int64_t row_size = frame_row(a.src_width);
  uint8_t* copy = reinterpret_cast<uint8_t*>(a.scratch + kFrameRows * row_size);
  // The last pixel's vector of four reads past its row. Those lanes are dropped, but not undefined.
  over(kFrameRows * row_size,
       [&](int64_t i, auto lanes) { store(a.scratch + i, set1(0.0f), lanes); });
  for (int64_t y = a.row_begin; y < a.row_end; y += kFrameRows) {
    int64_t rows = smaller(kFrameRows, a.row_end - y);
    switch (layout.reading) {
      case Reading::grey:
        grey_rows_down<uint8_t>(a, layout, y, rows, a.scratch);
        grey_rows_across<T>(a, layout, a.scratch, y, rows);
        continue;
      case Reading::grey16:
        grey_rows_down<uint16_t>(a, layout, y, rows, a.scratch);
        grey_rows_across<T>(a, layout, a.scratch, y, rows);
        continue;
      case Reading::colour:
        colour_rows_down(a, layout, y, rows, a.scratch, row_size);
        break;
      case Reading::planar:
        planar_rows_down(a, layout, y, rows, a.scratch, row_size);
        break;
      case Reading::copied:
        copied_rows_down(a, y, rows, a.scratch, row_size, copy);
        break;
    }
    colour_rows_across<T>(a, layout, a.scratch, row_size, y, rows);
  }
}

static void frame_to_tensor(const FrameArgs& a) {
  a.dtype == DType::f32 ? frame_of<float>(a) : frame_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
