// What the tests of the CUDA kernels share: device buffers in any element type, the comparison with
// the CPU's scalar kernels, and the list of tests. They use the runtime's interface only, so they
// run on the emulator and, compiled by nvcc, on a card.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cuda/kernels.h"

namespace cpu = adfast::kernels;
namespace gpu = adfast::kernels::cuda;
using gpu::Type;

inline std::mt19937 rng(20240607);
inline int failures = 0, runs = 0;

constexpr Type kTypes[] = {Type::f32, Type::f16, Type::bf16};

inline double uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(rng);
}

inline const cpu::Table& reference() { return *cpu::select(cpu::Isa::scalar); }

// In which order the emulator runs the threads between barriers; nothing on a card.
void set_thread_order(bool backward);

inline void check(const std::string& what, cudaError_t error) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "[%s] %s\n", what.c_str(), cudaGetErrorName(error));
  failures++;
}

inline size_t size_of(Type type) { return type == Type::f32 ? 4 : type == Type::u8 ? 1 : 2; }

inline float rounded(Type type, float v) {
  if (type == Type::f16) return __half2float(__float2half_rn(v));
  if (type == Type::bf16) return __bfloat162float(__float2bfloat16_rn(v));
  return v;
}

// Bytes on the device that must not be overrun: the emulator checks when they are freed.
class Bytes {
 public:
  explicit Bytes(size_t n) : size_(n) {
    check("cudaMalloc", cudaMalloc(&data_, n));
    if (n) check("cudaMemset", cudaMemset(data_, 0xff, n));
  }
  Bytes(const Bytes&) = delete;
  Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  ~Bytes() { check("cudaFree", cudaFree(data_)); }
  void* data() const { return data_; }
  size_t size() const { return size_; }
  void put(const void* from) {
    if (size_) check("put", cudaMemcpy(data_, from, size_, cudaMemcpyHostToDevice));
  }
  std::vector<uint8_t> get() const {
    std::vector<uint8_t> v(size_);
    if (size_) check("get", cudaMemcpy(v.data(), data_, size_, cudaMemcpyDeviceToHost));
    return v;
  }
  // Floats of any width read NaN.
  void spoil() {
    if (size_) check("cudaMemset", cudaMemset(data_, 0xff, size_));
  }

 private:
  void* data_ = nullptr;
  size_t size_;
};

// Elements on the device, and the values that they really hold.
struct Tensor : Bytes {
  Type type;
  std::vector<float> host;

  Tensor(Type t, size_t n) : Bytes(n * size_of(t)), type(t), host(n) {}
  Tensor(Type t, std::vector<float> values) : Tensor(t, values.size()) {
    host = std::move(values);
    upload();
  }
  float* floats() const { return static_cast<float*>(data()); }
  void upload() {
    std::vector<uint8_t> bytes(size());
    for (size_t i = 0; i < host.size(); i++) {
      host[i] = rounded(type, host[i]);
      if (type == Type::f32) memcpy(bytes.data() + 4 * i, &host[i], 4);
      const __half half = __float2half_rn(host[i]);
      if (type == Type::f16) memcpy(bytes.data() + 2 * i, &half, 2);
      const __nv_bfloat16 brain = __float2bfloat16_rn(host[i]);
      if (type == Type::bf16) memcpy(bytes.data() + 2 * i, &brain, 2);
    }
    put(bytes.data());
  }
  std::vector<float> values() const {
    std::vector<uint8_t> bytes = get();
    std::vector<float> v(host.size());
    for (size_t i = 0; i < v.size(); i++) {
      if (type == Type::f32) memcpy(&v[i], bytes.data() + 4 * i, 4);
      __half half;
      memcpy(&half, bytes.data() + size_of(type) * i, 2);
      if (type == Type::f16) v[i] = __half2float(half);
      __nv_bfloat16 brain;
      memcpy(&brain, bytes.data() + size_of(type) * i, 2);
      if (type == Type::bf16) v[i] = __bfloat162float(brain);
    }
    return v;
  }
};

inline std::vector<float> numbers(size_t n, double low = -1, double high = 1) {
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(uniform(low, high));
  return v;
}
inline Tensor random_tensor(Type type, size_t n, double low = -1, double high = 1) {
  return Tensor(type, numbers(n, low, high));
}

template <class T>
struct Array : Bytes {
  std::vector<T> host;
  explicit Array(std::vector<T> values)
      : Bytes(values.size() * sizeof(T)), host(std::move(values)) {
    put(host.data());
  }
  T* data() const { return static_cast<T*>(Bytes::data()); }
};

// Launches twice, the threads of a block in opposite orders: the bits must be the same.
inline void run(const std::string& what, std::initializer_list<Bytes*> outs,
                const std::function<cudaError_t()>& launch) {
  std::vector<std::vector<uint8_t>> first;
  for (bool backward : {false, true}) {
    for (Bytes* out : outs) out->spoil();
    set_thread_order(backward);
    check(what, launch());
    check(what, cudaDeviceSynchronize());
    runs++;
    size_t i = 0;
    for (Bytes* out : outs) {
      if (!backward) {
        first.push_back(out->get());
      } else if (first[i++] != out->get()) {
        fprintf(stderr, "[%s] two runs differ\n", what.c_str());
        failures++;
      }
    }
  }
}

// |got - want| <= tolerance * max(|want|), and NaN exactly where it belongs.
template <class Want>
void expect(const std::string& what, const std::vector<float>& got, const std::vector<Want>& want,
            double tolerance) {
  double most = 1e-30;
  for (Want w : want) {
    if (std::isfinite(w)) most = std::max(most, std::fabs(static_cast<double>(w)));
  }
  if (got.size() != want.size()) {
    fprintf(stderr, "[%s] %zu elements, expected %zu\n", what.c_str(), got.size(), want.size());
    failures++;
    return;
  }
  for (size_t i = 0; i < want.size(); i++) {
    const double g = got[i], w = static_cast<double>(want[i]);
    const bool good = std::isnan(w)   ? std::isnan(g)
                      : std::isinf(w) ? g == w
                                      : std::fabs(g - w) <= tolerance * most;
    if (good) continue;
    fprintf(stderr, "[%s] element %zu: expected %.9g, got %.9g (largest %.4g)\n", what.c_str(), i,
            w, g, most);
    failures++;
    return;
  }
}

// The rounding of an output in this type, added to what sums may lose.
inline double rounding(Type type) {
  return type == Type::f32 ? 0 : type == Type::f16 ? 1.0 / 2048 : 1.0 / 256;
}

inline std::string text(const char* op, Type type, std::initializer_list<int64_t> sizes) {
  std::string s = std::string(op) + (type == Type::f32    ? " f32"
                                     : type == Type::f16  ? " f16"
                                     : type == Type::bf16 ? " bf16"
                                                          : " u8");
  for (int64_t n : sizes) s.append(1, ' ').append(std::to_string(n));
  return s;
}

void test_elementwise();
void test_rows();
void test_shape();
void test_windows();
void test_frame();
void test_maps();
void test_attention();
void test_gtrans();
