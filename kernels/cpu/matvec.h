// One vector times a constant matrix: the gates of squeeze-and-excite. Each weight is used once, so
// they are streamed through in the order in which they lie.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// What is stored as T.
template <class T>
static inline Vec activated(Unary activation, Vec v) {
  switch (activation) {
    case Unary::relu:  // a NaN stays, being the second operand
      return max(set1(0.0f), v);
    case Unary::silu:
      return sizeof(T) == 2 ? silu_rough(v) : silu(v);
    case Unary::sigmoid:
      return sigmoid(v);
    default:
      return v;
  }
}

template <class T>
static void matvec_of(const MatvecArgs& a) {
  constexpr int vecs = static_cast<int>(kMatvecPanel / kLanes);
  for (int64_t panel = 0; panel * kMatvecPanel < a.width; panel++) {
    const T* weight = static_cast<const T*>(a.weight) + panel * a.depth * kMatvecPanel;
    const T* x = static_cast<const T*>(a.x);
    Vec sums[vecs];
#pragma GCC unroll 16
    for (int v = 0; v < vecs; v++) sums[v] = set1(0.0f);
    for (int64_t i = 0; i < a.depth; i++, weight += kMatvecPanel) {
      const Vec by = set1(widened(x[i]));
#pragma GCC unroll 16
      for (int v = 0; v < vecs; v++) sums[v] = fma(by, load(weight + v * kLanes), sums[v]);
    }
    T* y = static_cast<T*>(a.y) + panel * kMatvecPanel;
    const float* bias = a.bias ? a.bias + panel * kMatvecPanel : nullptr;
    const auto put = [&](int v, auto lanes) {
      const Vec sum = bias ? sums[v] + load(bias + v * kLanes, lanes) : sums[v];
      store_fast(y + v * kLanes, activated<T>(a.activation, sum), lanes);
    };
    const int64_t width = smaller(kMatvecPanel, a.width - panel * kMatvecPanel);
#pragma GCC unroll 16
    for (int v = 0; v < vecs; v++) {
      const int64_t left = width - v * kLanes;
      if (left >= kLanes) {
        put(v, All{});
      } else if (left > 0) {
        put(v, Some{left});
      }
    }
  }
}

static void matvec(const MatvecArgs& a) {
  a.dtype == DType::f32 ? matvec_of<float>(a) : matvec_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
