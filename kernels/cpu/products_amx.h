// Products of operands in bf16 by AMX: sixteen rows with sixteen columns in one instruction, which
// takes a depth of thirty-two. Like the vector instruction it treats subnormals as zero.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Keeps the tiles of this thread set up for products: all of sixteen rows of 64 bytes.
template <>
struct Products<Bf16Operands> {
  static constexpr bool tiles = true;
  static constexpr int64_t rows = 16, panel = 16;
  static constexpr int64_t depth = 16, columns = 32;  // in words; a depth of columns is whole, too

  // A constant: GCC does not know that the instruction reads all of it.
  Products() {
    static constexpr Shapes shapes;
    _tile_loadconfig(&shapes);
  }
  ~Products() { _tile_release(); }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  static void multiply(const float* left, int64_t left_stride, Panels right, int64_t depth,
                       int64_t columns, float* out, int64_t out_stride) {
    // The compiler does not know that loading a tile reads memory, or storing one writes it.
    asm volatile("" ::: "memory");
    if (depth == 16) {
      multiply_shallow<1>(left, left_stride, right, columns, out, out_stride);
    } else if (depth == 32) {
      multiply_shallow<2>(left, left_stride, right, columns, out, out_stride);
    } else {
      multiply_deep(left, left_stride, right, depth, columns, out, out_stride);
    }
    asm volatile("" ::: "memory");
  }

 private:
  struct alignas(64) Shapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };

  // The left operand stays in tiles 4 and 5; 0 and 1 are sums by turns, so that one panel's are
  // stored while the next one's are computed.
  template <int kSteps>
  static void multiply_shallow(const float* left, int64_t left_stride, Panels right,
                               int64_t columns, float* out, int64_t out_stride) {
    const int64_t row = right.row * 4;
    out_stride *= 4;
    _tile_loadd(4, left, left_stride * 4);
    if constexpr (kSteps == 2) _tile_loadd(5, left + 16, left_stride * 4);
    const float* from = right.data;
    int64_t c = 0;
    for (; c < columns; c += 2 * panel, from += 2 * right.panel, out += 2 * panel) {
      _tile_loadd(6, from, row);
      _tile_zero(0);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kSteps == 2) {
        _tile_loadd(7, from + 4 * row, row);
        _tile_dpbf16ps(0, 5, 7);
      }
      if (c > 0) _tile_stored(1, out - panel, out_stride);
      if (c + panel == columns) break;
      const float* const next = from + right.panel;
      _tile_loadd(7, next, row);
      _tile_zero(1);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kSteps == 2) {
        _tile_loadd(6, next + 4 * row, row);
        _tile_dpbf16ps(1, 5, 6);
      }
      _tile_stored(0, out, out_stride);
    }
    if (c < columns) {
      _tile_stored(0, out, out_stride);
    } else {
      _tile_stored(1, out - panel, out_stride);
    }
  }

  static void multiply_deep(const float* left, int64_t left_stride, Panels right, int64_t depth,
                            int64_t columns, float* out, int64_t out_stride) {
    const float* from = right.data;
    for (int64_t c = 0; c < columns; c += 4 * panel, from += 4 * right.panel) {
      const int64_t panels = smaller(4, (columns - c) / panel);
      const auto run = panels == 1   ? multiply_panels<1>
                       : panels == 2 ? multiply_panels<2>
                       : panels == 3 ? multiply_panels<3>
                                     : multiply_panels<4>;
      run(left, left_stride, {from, right.row, right.panel}, depth, out + c, out_stride);
    }
  }

  // Tiles 0 to 3 are sums, 4 is the left operand, 5 to 7 the right one. An instruction has to wait
  // for the one before that adds to the same sums: of one or two panels, every other step of depth
  // has sums of its own.
  template <int kPanels>
  static void multiply_panels(const float* left, int64_t left_stride, Panels right, int64_t depth,
                              float* out, int64_t out_stride) {
    const int64_t row = right.row * 4, panel = right.panel;
    const float* from = right.data;
    const float* const end = left + depth;
    left_stride *= 4;
    _tile_zero(0);
    if constexpr (kPanels > 1) _tile_zero(1);
    if constexpr (kPanels > 2) _tile_zero(2);
    if constexpr (kPanels > 3) _tile_zero(3);
    if constexpr (kPanels <= 2) {
      _tile_zero(2);
      if constexpr (kPanels == 2) _tile_zero(3);
      for (; left + 16 < end; left += 32, from += 8 * row) {
        _tile_loadd(4, left, left_stride);
        _tile_loadd(5, from, row);
        _tile_dpbf16ps(0, 4, 5);
        if constexpr (kPanels == 2) {
          _tile_loadd(6, from + panel, row);
          _tile_dpbf16ps(1, 4, 6);
        }
        _tile_loadd(4, left + 16, left_stride);
        _tile_loadd(7, from + 4 * row, row);
        _tile_dpbf16ps(2, 4, 7);
        if constexpr (kPanels == 2) {
          _tile_loadd(5, from + 4 * row + panel, row);
          _tile_dpbf16ps(3, 4, 5);
        }
      }
    }
    for (; left < end; left += 16, from += 4 * row) {
      _tile_loadd(4, left, left_stride);
      _tile_loadd(5, from, row);
      _tile_dpbf16ps(0, 4, 5);
      if constexpr (kPanels > 1) {
        _tile_loadd(6, from + panel, row);
        _tile_dpbf16ps(1, 4, 6);
      }
      if constexpr (kPanels > 2) {
        _tile_loadd(7, from + 2 * panel, row);
        _tile_dpbf16ps(2, 4, 7);
      }
      if constexpr (kPanels > 3) {
        _tile_loadd(5, from + 3 * panel, row);
        _tile_dpbf16ps(3, 4, 5);
      }
    }
    _tile_stored(0, out, out_stride * 4);
    if constexpr (kPanels > 1) _tile_stored(1, out + 16, out_stride * 4);
    if constexpr (kPanels > 2) _tile_stored(2, out + 32, out_stride * 4);
    if constexpr (kPanels > 3) _tile_stored(3, out + 48, out_stride * 4);
    if constexpr (kPanels <= 2) {
      alignas(64) float odd[kPanels][rows * 16];
      _tile_stored(2, odd[0], 64);
      if constexpr (kPanels == 2) _tile_stored(3, odd[1], 64);
      asm volatile("" ::: "memory");
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t p = 0; p < kPanels; p++) {
          float* sum = out + r * out_stride + p * 16;
          store(sum, load(sum) + load(odd[p] + r * 16));
        }
      }
    }
  }
};

}  // namespace adfast::kernels::ADFAST_ISA
