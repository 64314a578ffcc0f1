// libcublasLt.so.13 as far as the backend calls it: plain loops on the emulated device's memory.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "backends/cuda/vendor.h"
#include "values.h"

using namespace adfast::cuda;
using emulated::get;
using emulated::put;
using emulated::Type;

// What the handles of vendor.h stand for.
namespace adfast::cuda::cublas {

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque {
  int32_t transa = 0, transb = 0, epilogue = cublas::epilogue_default;
  const void* bias = nullptr;
};
struct cublasLtMatrixLayoutOpaque {
  Type type;
  int64_t rows, columns, leading;
};
struct cublasLtMatmulPreferenceOpaque {};

}  // namespace adfast::cuda::cublas

namespace {

constexpr cublas::Status success = 0, invalid = 7, not_supported = 15;

Type type_of(cublas::DataType type) {
  return type == cublas::type_f32 ? Type::f32 : type == cublas::type_f16 ? Type::f16 : Type::bf16;
}

// Operands of one type; results of that or of f32, as the true library has it.
bool fits(const cublas::cublasLtMatmulDescOpaque& m, const cublas::cublasLtMatrixLayoutOpaque& a,
          const cublas::cublasLtMatrixLayoutOpaque& b,
          const cublas::cublasLtMatrixLayoutOpaque& d) {
  const int64_t rows = m.transa ? a.columns : a.rows, depth = m.transa ? a.rows : a.columns;
  const int64_t columns = m.transb ? b.rows : b.columns, depth_b = m.transb ? b.columns : b.rows;
  return rows == d.rows && columns == d.columns && depth == depth_b && a.type == b.type &&
         (d.type == a.type || d.type == Type::f32);
}

struct Call {
  cublas::cublasLtMatmulDescOpaque m;
  cublas::cublasLtMatrixLayoutOpaque a, b, d;
  float alpha, beta;
  const void *left, *right, *c;
  void* out;

  cudaError_t operator()() const {
    const int64_t depth = m.transa ? a.rows : a.columns;
    for (int64_t j = 0; j < d.columns; ++j) {
      for (int64_t i = 0; i < d.rows; ++i) {
        float sum = 0;
        for (int64_t k = 0; k < depth; ++k) {
          const int64_t from = m.transa ? i * a.leading + k : k * a.leading + i;
          const int64_t to = m.transb ? k * b.leading + j : j * b.leading + k;
          sum += get(left, from, a.type) * get(right, to, b.type);
        }
        float value = alpha * sum;
        const int64_t place = j * d.leading + i;
        if (beta != 0) value += beta * get(c, place, d.type);
        if (m.epilogue & cublas::epilogue_bias) value += get(m.bias, i, d.type);
        if (m.epilogue & cublas::epilogue_relu) value = value < 0 ? 0 : value;
        put(out, place, d.type, value);
      }
    }
    return cudaSuccess;
  }
};

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return 130000; }
cublas::Status cublasLtCreate(cublas::Handle* handle) {
  *handle = new cublas::cublasLtContext;
  return success;
}
cublas::Status cublasLtDestroy(cublas::Handle handle) {
  delete handle;
  return success;
}
cublas::Status cublasLtMatmulDescCreate(cublas::MatmulDescriptor* m, cublas::ComputeType compute,
                                        cublas::DataType scale) {
  if (compute != cublas::compute_f32 || scale != cublas::type_f32) return not_supported;
  *m = new cublas::cublasLtMatmulDescOpaque;
  return success;
}
cublas::Status cublasLtMatmulDescDestroy(cublas::MatmulDescriptor m) {
  delete m;
  return success;
}
cublas::Status cublasLtMatmulDescSetAttribute(cublas::MatmulDescriptor m,
                                              cublas::MatmulAttribute attribute, const void* value,
                                              size_t bytes) {
  void* target = attribute == cublas::attribute_transa         ? static_cast<void*>(&m->transa)
                 : attribute == cublas::attribute_epilogue     ? static_cast<void*>(&m->epilogue)
                 : attribute == cublas::attribute_bias_pointer ? static_cast<void*>(&m->bias)
                                                               : nullptr;
  const size_t expected =
      attribute == cublas::attribute_bias_pointer ? sizeof(void*) : sizeof(int32_t);
  if (target == nullptr || bytes != expected) return invalid;
  std::memcpy(target, value, bytes);
  return success;
}
cublas::Status cublasLtMatrixLayoutCreate(cublas::Layout* layout, cublas::DataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  if (leading < static_cast<int64_t>(rows)) return invalid;
  *layout = new cublas::cublasLtMatrixLayoutOpaque{type_of(type), static_cast<int64_t>(rows),
                                                   static_cast<int64_t>(columns), leading};
  return success;
}
cublas::Status cublasLtMatrixLayoutDestroy(cublas::Layout layout) {
  delete layout;
  return success;
}
cublas::Status cublasLtMatmulPreferenceCreate(cublas::Preference* preference) {
  *preference = new cublas::cublasLtMatmulPreferenceOpaque;
  return success;
}
cublas::Status cublasLtMatmulPreferenceDestroy(cublas::Preference preference) {
  delete preference;
  return success;
}
cublas::Status cublasLtMatmulPreferenceSetAttribute(cublas::Preference,
                                                    cublas::PreferenceAttribute attribute,
                                                    const void*, size_t bytes) {
  return attribute == cublas::max_workspace_bytes && bytes == sizeof(uint64_t) ? success : invalid;
}
cublas::Status cublasLtMatmulAlgoGetHeuristic(cublas::Handle, cublas::MatmulDescriptor m,
                                              cublas::Layout a, cublas::Layout b, cublas::Layout c,
                                              cublas::Layout d, cublas::Preference, int requested,
                                              cublas::HeuristicResult* results, int* returned) {
  *returned = 0;
  if (requested < 1 || c->type != d->type || !fits(*m, *a, *b, *d)) return not_supported;
  results[0] = {};
  *returned = 1;
  return success;
}
cublas::Status cublasLtMatmul(cublas::Handle, cublas::MatmulDescriptor m, const void* alpha,
                              const void* left, cublas::Layout a, const void* right,
                              cublas::Layout b, const void* beta, const void* c, cublas::Layout,
                              void* out, cublas::Layout d, const cublas::Algorithm*, void*, size_t,
                              cudaStream_t stream) {
  if (!fits(*m, *a, *b, *d)) return invalid;
  const Call call{
      *m,   *a,    *b, *d, *static_cast<const float*>(alpha), *static_cast<const float*>(beta),
      left, right, c,  out};
  return emulated_enqueue(stream, call) == cudaSuccess ? success : invalid;
}

}  // extern "C"
