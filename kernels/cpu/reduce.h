// Sums, means and maxima over an axis.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// In f32 over at most kChunk elements, in double across chunks: a long sum does not stall at 2^24
// terms.
template <class T>
static inline double row_sum(const T* x, int64_t width) {
  constexpr int64_t kChunk = 4096;
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += kChunk) {
    Vec part = set1(0.0f);
    over(smaller(kChunk, width - begin),
         [&](int64_t i, auto lanes) { part = part + load(x + begin + i, lanes); });
    total += static_cast<double>(sum(part));
  }
  return total;
}

// NaN if any element is: a map with a NaN must not score as if it had none.
template <class T>
static inline float row_max(const T* x, int64_t width) {
  Vec most = set1(-infinity());
  int64_t whole = width / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) most = max_nan(most, load(x + i));
  if (whole < width) {
    if (whole > 0) {
      most = max_nan(most, load(x + width - kLanes));  // overlaps what was seen
    } else {
      // Lanes beyond the row load as zero, which may exceed every element.
      float lanes[kLanes];
      store(lanes, load(x, Some{width}));
      for (int64_t i = width; i < kLanes; i++) lanes[i] = lanes[0];
      most = load(lanes);
    }
  }
  float lanes[kLanes];
  store(lanes, most);
  float top = lanes[0];
  for (int64_t i = 1; i < kLanes; i++) {
    if (lanes[i] != lanes[i]) return lanes[i];
    top = lanes[i] > top ? lanes[i] : top;
  }
  return lanes[0] != lanes[0] ? lanes[0] : top;
}

template <class T>
static void reduce_of(const ReduceArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  for (int64_t r = 0; r < a.rows; r++) {
    const T* row = x + r * a.width;
    switch (a.op) {
      case Reduce::sum:
        a.out[r] = static_cast<float>(row_sum(row, a.width));
        break;
      case Reduce::mean:
        a.out[r] = static_cast<float>(row_sum(row, a.width) / static_cast<double>(a.width));
        break;
      case Reduce::max:
        a.out[r] = row_max(row, a.width);
        break;
    }
  }
}

// The axis before the last: vectors of columns go down it together, in the order of the rows. The
// columns are tokens' features, the rows tokens: a few thousand at most, for which f32 will do.
template <class T>
static void reduce_columns(const ReduceArgs& a) {
  const Vec share = set1(a.op == Reduce::mean ? 1.0f / static_cast<float>(a.width) : 1.0f);
  for (int64_t r = 0; r < a.rows; r++) {
    const T* x = static_cast<const T*>(a.x) + r * a.width * a.inner;
    over(a.inner, [&](int64_t i, auto lanes) {
      Vec result = load(x + i, lanes);
      for (int64_t w = 1; w < a.width; w++) {
        Vec next = load(x + w * a.inner + i, lanes);
        result = a.op == Reduce::max ? max_nan(result, next) : result + next;
      }
      store(a.out + r * a.inner + i, result * share, lanes);
    });
  }
}

static void reduce(const ReduceArgs& a) {
  if (a.inner > 1) {
    return a.dtype == DType::f32 ? reduce_columns<float>(a) : reduce_columns<Bf16>(a);
  }
  a.dtype == DType::f32 ? reduce_of<float>(a) : reduce_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
