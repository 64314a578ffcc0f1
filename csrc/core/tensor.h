// Shapes and element types of the graph's values.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace adfast {

// Only constants are i32: indices. Only what int8 steps read is u8. Plans hold the first three.
enum class DType : int32_t { f32 = 0, bf16 = 1, i32 = 2, u8 = 3, f16 = 4 };

inline size_t size_of(DType type) {
  if (type == DType::u8) return 1;
  return type == DType::bf16 || type == DType::f16 ? 2 : 4;
}

// What u8 stands for: value = scale * (stored - zero). The zero is whole, so that the zeros of a
// convolution's padding are exact.
struct Levels {
  float scale = 1;
  int32_t zero = 0;
  bool operator==(const Levels&) const = default;
};

// How a value lies in memory; `levels` matter to u8 only.
struct Storage {
  DType dtype = DType::f32;
  Levels levels;
  bool operator==(const Storage&) const = default;
};

using Shape = std::vector<int64_t>;

inline int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ",";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace adfast
