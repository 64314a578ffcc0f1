// What the tests of the kernels share: buffers that may not be overrun, random operands, the
// comparison, and the list of tests.
//
// Every buffer ends at (or begins right after) a page that may not be touched, so that reading or
// writing one byte too far is a crash; that also makes every pointer but a few misaligned.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace k = adfast::kernels;

inline std::mt19937 rng(20240607);
inline int failures = 0;

inline double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(rng);
}

// n elements between two forbidden pages, touching the second one (or, if `front`, the first).
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n, bool front = false) : size_(n) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t bytes = n * sizeof(T), pages = (bytes + page - 1) / page;
    length_ = (pages + 2) * page;
    base_ =
        static_cast<char*>(mmap(nullptr, length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) abort();
    if (pages > 0 && mprotect(base_ + page, pages * page, PROT_READ | PROT_WRITE) != 0) abort();
    data_ = reinterpret_cast<T*>(front ? base_ + page : base_ + (pages + 1) * page - bytes);
  }
  Guarded(const Guarded&) = delete;
  Guarded(Guarded&& other) noexcept
      : base_(other.base_), length_(other.length_), data_(other.data_), size_(other.size_) {
    other.base_ = nullptr;
  }
  ~Guarded() {
    if (base_) munmap(base_, length_);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return size_; }

 private:
  char* base_;
  size_t length_;
  T* data_;
  size_t size_;
};

inline float from_bf16(uint16_t v) {
  uint32_t bits = uint32_t{v} << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

inline uint16_t to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (f != f) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// An activation in either element type, and the values it really holds.
struct Feature {
  k::DType dtype;
  size_t size;
  Guarded<uint8_t> bytes;

  Feature(k::DType type, size_t n)
      : dtype(type), size(n), bytes(n * (type == k::DType::f32 ? 4 : 2), uniform(0, 1) < 0.3) {}
  void* data() { return bytes.data(); }
  void set(size_t i, float v) {
    if (dtype == k::DType::f32) {
      memcpy(bytes.data() + 4 * i, &v, 4);
    } else {
      uint16_t b = to_bf16(v);
      memcpy(bytes.data() + 2 * i, &b, 2);
    }
  }
  float operator[](size_t i) const {
    if (dtype == k::DType::f32) {
      float v;
      memcpy(&v, bytes.data() + 4 * i, 4);
      return v;
    }
    uint16_t b;
    memcpy(&b, bytes.data() + 2 * i, 2);
    return from_bf16(b);
  }
};

inline Feature random_feature(k::DType dtype, size_t n, double low = -1, double high = 1) {
  Feature f(dtype, n);
  for (size_t i = 0; i < n; i++) f.set(i, static_cast<float>(uniform(low, high)));
  return f;
}

inline Guarded<float> random_floats(size_t n, double low = -1, double high = 1) {
  Guarded<float> f(n);
  for (size_t i = 0; i < n; i++) f[i] = static_cast<float>(uniform(low, high));
  return f;
}

inline size_t size_of(k::DType dtype) {
  return dtype == k::DType::f32 ? 4 : dtype == k::DType::bf16 ? 2 : 1;
}

// The i-th of what was stored as f32, bf16 or u8.
inline double stored(const Guarded<uint8_t>& bytes, k::DType dtype, size_t i) {
  if (dtype == k::DType::u8) return bytes.data()[i];
  uint32_t bits = 0;
  memcpy(&bits, bytes.data() + i * size_of(dtype), size_of(dtype));
  if (dtype == k::DType::bf16) return from_bf16(static_cast<uint16_t>(bits));
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

// |got - want| <= tolerance * max(|want|), and NaN exactly where it belongs.
template <class Got>
void expect(const std::string& what, const Got& got, const std::vector<double>& want,
            double tolerance) {
  double most = 1e-30;
  for (double w : want) {
    if (std::isfinite(w)) most = std::max(most, std::fabs(w));
  }
  for (size_t i = 0; i < want.size(); i++) {
    double g = got(i), w = want[i];
    bool good = std::isnan(w)   ? std::isnan(g)
                : std::isinf(w) ? g == w
                                : std::fabs(g - w) <= tolerance * most;
    if (good) continue;
    fprintf(stderr, "[%s] element %zu: expected %.9g, got %.9g (largest %.4g)\n", what.c_str(), i,
            w, g, most);
    failures++;
    return;
  }
}

inline auto floats(const Guarded<float>& f) {
  return [&f](size_t i) { return static_cast<double>(f.data()[i]); };
}
inline auto values(const Feature& f) {
  return [&f](size_t i) { return static_cast<double>(f[i]); };
}

inline std::string text(const char* op, const k::Table& table, k::DType dtype,
                        std::initializer_list<int64_t> sizes) {
  const char* type = dtype == k::DType::f32 ? " f32" : dtype == k::DType::bf16 ? " bf16" : " u8";
  std::string s = std::string(op) + " " + table.name + type;
  for (int64_t n : sizes) s.append(1, ' ').append(std::to_string(n));
  return s;
}

// The rounding of an output in this type, added to what sums may lose.
inline double rounding(k::DType dtype) { return dtype == k::DType::f32 ? 0 : 1.0 / 256; }

inline double activated(k::Unary activation, double v) {
  switch (activation) {
    case k::Unary::relu:
      return std::isnan(v) ? v : std::max(v, 0.0);
    case k::Unary::silu:
      return v / (1 + std::exp(-v));
    case k::Unary::sigmoid:
      return 1 / (1 + std::exp(-v));
    case k::Unary::gelu:
      return v * 0.5 * std::erfc(-v / std::sqrt(2.0));
    case k::Unary::tanh:
      return std::tanh(v);
    default:
      return v;
  }
}

inline std::vector<double> softmax_of(std::vector<double> x) {
  double most = *std::max_element(x.begin(), x.end()), total = 0;
  for (double& v : x) total += v = std::exp(v - most);
  for (double& v : x) v /= total;
  return x;
}

// Each runs its kernels once, with the element type where they have one.
void test_token_attention(const k::Table& table, k::DType dtype);
void test_projector(const k::Table& table, k::DType dtype);
void test_score_map(const k::Table& table, k::DType dtype);
void test_resize_bilinear(const k::Table& table);
void test_fuse_maps(const k::Table& table);
void test_gaussian_blur(const k::Table& table);
void test_frame(const k::Table& table, k::DType dtype);
void test_box_filter(const k::Table& table);
void test_gms_map(const k::Table& table);
void test_reduce_columns(const k::Table& table);
void test_attention(const k::Table& table, k::DType operands);
void test_halo_attention(const k::Table& table, k::DType dtype, k::DType operands);
void test_winograd(const k::Table& table, k::DType dtype, k::DType operands);
void test_depthwise(const k::Table& table, k::DType dtype);
void test_expand_depthwise(const k::Table& table, k::DType dtype);
void test_matvec(const k::Table& table, k::DType dtype);
void test_linear(const k::Table& table, k::DType x_dtype);
void test_strassen(const k::Table& table, k::DType x_dtype);
void test_rows(const k::Table& table);
void test_unary(const k::Table& table);
void test_binary(const k::Table& table);
void test_reduce(const k::Table& table, k::DType dtype);
void test_nan(const k::Table& table, k::DType dtype);
