// Shapes and element types of the graph's values.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace adfast {

// Only constants are i32: indices.
enum class DType : int32_t { f32 = 0, bf16 = 1, i32 = 2 };

inline size_t size_of(DType type) { return type == DType::bf16 ? 2 : 4; }

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
