// Products of many rows with a constant matrix by AMX, in bf16 or u8 times s8: linears, and
// convolutions of 1 x 1, whose rows are pixels. Two tiles of rows meet two of columns, so that each
// load feeds two products; bias, residual and activation are added on the way from the tiles to y,
// while the next sums are under way.
#pragma once
#include "linear.h"

namespace adfast::kernels::ADFAST_ISA {

constexpr int64_t kLinearStep = 64;     // bytes of a row that one instruction takes
constexpr int64_t kResident = 1 << 20;  // bytes that stay in the second-level cache

// 32 x 32 sums, and where they belong.
struct LinearBlock {
  float* sums;
  int64_t skip, row, rows, column;  // rows of the sums to leave out; of y

  template <class Activation>
  void put(const LinearArgs& a) const {
    for (int64_t r = 0; r < rows; r++) {
      const float* from = sums + (skip + r) * 32;
      const int64_t first = (row + r) * a.width + column;
      over(smaller(32, a.width - column), [&](int64_t i, auto lanes) {
        Vec v = load(from + i);
        const Vec offset = a.offset ? load(a.offset + column + i, lanes) : set1(0.0f);
        if (a.x_dtype == DType::u8) {
          v = fma(_mm512_cvtepi32_ps(_mm512_castps_si512(v)), load(a.factor + column + i, lanes),
                  offset);
        } else {
          v = v + offset;
        }
        store_linear<Activation>(a, first + i, v, lanes);
      });
    }
  }
};

template <bool kBytes>
static inline void multiply_tiles(const char* x, int64_t stride, const char* tail,
                                  const char* weight, int64_t steps, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const auto step = [&](const char* left, int64_t left_stride) {
    _tile_loadd(6, weight, 64);
    _tile_loadd(4, left, left_stride);
    if constexpr (kBytes) {
      _tile_dpbusd(0, 4, 6);
    } else {
      _tile_dpbf16ps(0, 4, 6);
    }
    _tile_loadd(7, weight + 1024, 64);
    if constexpr (kBytes) {
      _tile_dpbusd(1, 4, 7);
    } else {
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_loadd(5, left + 16 * left_stride, left_stride);
    if constexpr (kBytes) {
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  };
  for (int64_t i = 0; i < steps; i++, x += kLinearStep, weight += 2048) step(x, stride);
  if (tail != nullptr) step(tail, kLinearStep);
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  _tile_stored(2, sums + 512, 128);
  _tile_stored(3, sums + 528, 128);
}

template <bool kBytes, class Activation>
static void linear_of(const LinearArgs& a) {
  const Products<Bf16Operands> ready;  // the tiles' shapes are the same
  const int64_t stride = a.depth * (kBytes ? 1 : 2), steps = stride / kLinearStep;
  const int64_t left_over = stride % kLinearStep;
  const int64_t panel_bytes = (steps + (left_over > 0)) * 2048;
  // Either the weights of a pass stay near and all rows come by, or a chunk of rows and all weights
  // do: whichever has to fetch less.
  const int64_t blocks = (a.row_end - a.row_begin + 31) / 32, panels = a.panel_end - a.panel_begin;
  const int64_t near_panels = larger(1, kResident / panel_bytes);
  const int64_t near_blocks = larger(1, kResident / (32 * stride));
  const auto passes = [](int64_t all, int64_t each) { return (all + each - 1) / each; };
  const bool weights_stay = blocks * 32 * stride * passes(panels, near_panels) <=
                            panels * panel_bytes * passes(blocks, near_blocks);
  const int64_t pass = weights_stay ? near_panels : 1;
  const int64_t chunk = weights_stay ? blocks * 32 : near_blocks * 32;
  // What a row of x has beyond whole steps, zeros after it: what lies there may be no number.
  alignas(64) char tails[32 * kLinearStep] = {};
  alignas(64) float sums[2][1024];
  LinearBlock block{};
  int turn = 0;
  const auto multiply = [&](int64_t row, int64_t row_end, int64_t begin, int64_t end) {
    // The last rows are computed with some before them.
    const int64_t first = smaller(row, a.rows - 32);
    const char* x = static_cast<const char*>(a.x) + first * stride;
    for (int64_t r = 0; left_over > 0 && r < 32; r++) {
      __builtin_memcpy(tails + r * kLinearStep, x + r * stride + steps * kLinearStep,
                       static_cast<size_t>(left_over));
    }
    for (int64_t panel = begin; panel < end; panel++, turn ^= 1) {
      // The compiler does not know that loading a tile reads memory, or storing one writes it.
      asm volatile("" ::: "memory");
      multiply_tiles<kBytes>(x, stride, left_over > 0 ? tails : nullptr,
                             static_cast<const char*>(a.weight) + panel * panel_bytes, steps,
                             sums[turn]);
      asm volatile("" ::: "memory");
      if (block.rows > 0) block.put<Activation>(a);
      block = {sums[turn], row - first, row, smaller(32, row_end - row), panel * 32};
    }
  };
  for (int64_t top = a.row_begin; top < a.row_end; top += chunk) {
    const int64_t bottom = smaller(top + chunk, a.row_end);
    for (int64_t begin = a.panel_begin; begin < a.panel_end; begin += pass) {
      const int64_t end = smaller(begin + pass, a.panel_end);
      for (int64_t row = top; row < bottom; row += 32) multiply(row, bottom, begin, end);
    }
  }
  if (block.rows > 0) block.put<Activation>(a);
}

static void linear(const LinearArgs& a) {
  with_activation(a.activation, [&](auto activation) {
    using Activation = decltype(activation);
    a.x_dtype == DType::u8 ? linear_of<true, Activation>(a) : linear_of<false, Activation>(a);
  });
}

}  // namespace adfast::kernels::ADFAST_ISA
