// libcudnn.so.9 as far as the backend calls it: plain loops on the emulated device's memory, and
// the refusals that callers must be ready for.
#include <cuda_runtime.h>

#include <cmath>

#include "backends/cuda/vendor.h"
#include "values.h"

using namespace adfast::cuda;
using emulated::get;
using emulated::put;
using emulated::Type;

// What the handles of vendor.h stand for.
namespace adfast::cuda::cudnn {

struct cudnnContext {
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct {
  Type type;
  int n, c, h, w, n_stride, c_stride, h_stride, w_stride;
};
struct cudnnFilterStruct {
  Type type;
  int k, c, h, w;
};
struct cudnnConvolutionStruct {
  int pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w;
};
struct cudnnActivationStruct {
  bool relu, propagate_nan;
};

}  // namespace adfast::cuda::cudnn

namespace {

constexpr cudnn::Status success = 0, bad_parameter = 2000, not_supported = 3000;

bool known(cudnn::DataType type) {
  return type == cudnn::type_f32 || type == cudnn::type_f16 || type == cudnn::type_bf16;
}
Type type_of(cudnn::DataType type) {
  return type == cudnn::type_f32 ? Type::f32 : type == cudnn::type_f16 ? Type::f16 : Type::bf16;
}

int output_size(int in, int pad, int kernel, int stride, int dilation) {
  return (in + 2 * pad - (dilation * (kernel - 1) + 1)) / stride + 1;
}

bool fits(const cudnn::cudnnTensorStruct& x, const cudnn::cudnnFilterStruct& w,
          const cudnn::cudnnConvolutionStruct& c, const cudnn::cudnnTensorStruct& y) {
  return x.type == w.type && x.type == y.type && x.c == w.c && y.c == w.k && x.n == y.n &&
         y.h == output_size(x.h, c.pad_h, w.h, c.stride_h, c.dilation_h) &&
         y.w == output_size(x.w, c.pad_w, w.w, c.stride_w, c.dilation_w);
}

struct Call {
  cudnn::cudnnTensorStruct x, y;
  cudnn::cudnnFilterStruct w;
  cudnn::cudnnConvolutionStruct conv;
  float alpha, add;
  const void *input, *weight, *z, *bias;
  bool relu, propagate_nan;
  void* output;

  cudaError_t operator()() const {
    for (int n = 0; n < y.n; ++n) {
      for (int k = 0; k < y.c; ++k) {
        for (int i = 0; i < y.h; ++i) {
          for (int j = 0; j < y.w; ++j) pixel(n, k, i, j);
        }
      }
    }
    return cudaSuccess;
  }

  void pixel(int n, int k, int i, int j) const {
    const auto at = [](const cudnn::cudnnTensorStruct& t, int n, int c, int h, int w) {
      return static_cast<int64_t>(n) * t.n_stride + static_cast<int64_t>(c) * t.c_stride +
             static_cast<int64_t>(h) * t.h_stride + static_cast<int64_t>(w) * t.w_stride;
    };
    float sum = 0;
    for (int r = 0; r < w.h; ++r) {
      const int row = i * conv.stride_h - conv.pad_h + r * conv.dilation_h;
      if (row < 0 || row >= x.h) continue;
      for (int s = 0; s < w.w; ++s) {
        const int column = j * conv.stride_w - conv.pad_w + s * conv.dilation_w;
        if (column < 0 || column >= x.w) continue;
        for (int c = 0; c < x.c; ++c) {
          const int64_t tap = ((static_cast<int64_t>(k) * w.h + r) * w.w + s) * w.c + c;
          sum += get(input, at(x, n, c, row, column), x.type) * get(weight, tap, w.type);
        }
      }
    }
    float value = alpha * sum;
    const int64_t place = at(y, n, k, i, j);
    if (add != 0) value += add * get(z, place, y.type);
    if (bias != nullptr) value += get(bias, k, y.type);
    if (relu) value = std::isnan(value) && propagate_nan ? value : std::fmax(value, 0.0f);
    put(output, place, y.type, value);
  }
};

template <class Struct>
cudnn::Status create(Struct** made) {
  *made = new Struct{};
  return success;
}
template <class Struct>
cudnn::Status destroy(Struct* made) {
  delete made;
  return success;
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() { return 90000; }
const char* cudnnGetErrorString(cudnn::Status status) {
  return status == success         ? "CUDNN_STATUS_SUCCESS"
         : status == not_supported ? "CUDNN_STATUS_NOT_SUPPORTED"
                                   : "CUDNN_STATUS_BAD_PARAM";
}
cudnn::Status cudnnCreate(cudnn::Handle* handle) { return create(handle); }
cudnn::Status cudnnDestroy(cudnn::Handle handle) { return destroy(handle); }
cudnn::Status cudnnSetStream(cudnn::Handle handle, cudaStream_t stream) {
  handle->stream = stream;
  return success;
}
cudnn::Status cudnnCreateTensorDescriptor(cudnn::TensorDescriptor* t) { return create(t); }
cudnn::Status cudnnDestroyTensorDescriptor(cudnn::TensorDescriptor t) { return destroy(t); }
cudnn::Status cudnnSetTensor4dDescriptorEx(cudnn::TensorDescriptor t, cudnn::DataType type, int n,
                                           int c, int h, int w, int n_stride, int c_stride,
                                           int h_stride, int w_stride) {
  if (!known(type) || n < 1 || c < 1 || h < 1 || w < 1) return bad_parameter;
  *t = {type_of(type), n, c, h, w, n_stride, c_stride, h_stride, w_stride};
  return success;
}
cudnn::Status cudnnCreateFilterDescriptor(cudnn::FilterDescriptor* f) { return create(f); }
cudnn::Status cudnnDestroyFilterDescriptor(cudnn::FilterDescriptor f) { return destroy(f); }
cudnn::Status cudnnSetFilter4dDescriptor(cudnn::FilterDescriptor f, cudnn::DataType type,
                                         cudnn::Format format, int k, int c, int h, int w) {
  if (!known(type) || format != cudnn::nhwc) return bad_parameter;
  *f = {type_of(type), k, c, h, w};
  return success;
}
cudnn::Status cudnnCreateConvolutionDescriptor(cudnn::ConvolutionDescriptor* c) {
  return create(c);
}
cudnn::Status cudnnDestroyConvolutionDescriptor(cudnn::ConvolutionDescriptor c) {
  return destroy(c);
}
cudnn::Status cudnnSetConvolution2dDescriptor(cudnn::ConvolutionDescriptor c, int pad_h, int pad_w,
                                              int stride_h, int stride_w, int dilation_h,
                                              int dilation_w, cudnn::Mode mode,
                                              cudnn::DataType compute) {
  if (mode != cudnn::cross_correlation || compute != cudnn::type_f32) return bad_parameter;
  *c = {pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w};
  return success;
}
cudnn::Status cudnnSetConvolutionMathType(cudnn::ConvolutionDescriptor, cudnn::MathType) {
  return success;
}
cudnn::Status cudnnCreateActivationDescriptor(cudnn::ActivationDescriptor* a) { return create(a); }
cudnn::Status cudnnDestroyActivationDescriptor(cudnn::ActivationDescriptor a) { return destroy(a); }
cudnn::Status cudnnSetActivationDescriptor(cudnn::ActivationDescriptor a,
                                           cudnn::Activation activation, cudnn::NanPropagation nan,
                                           double) {
  *a = {activation == cudnn::activation_relu, nan == cudnn::propagate_nan};
  return success;
}
cudnn::Status cudnnGetConvolutionForwardWorkspaceSize(cudnn::Handle, cudnn::TensorDescriptor x,
                                                      cudnn::FilterDescriptor w,
                                                      cudnn::ConvolutionDescriptor c,
                                                      cudnn::TensorDescriptor y, cudnn::Algorithm,
                                                      size_t* bytes) {
  *bytes = 0;
  return fits(*x, *w, *c, *y) ? success : bad_parameter;
}
cudnn::Status cudnnConvolutionForward(cudnn::Handle handle, const void* alpha,
                                      cudnn::TensorDescriptor xd, const void* x,
                                      cudnn::FilterDescriptor wd, const void* w,
                                      cudnn::ConvolutionDescriptor c, cudnn::Algorithm, void*,
                                      size_t, const void* beta, cudnn::TensorDescriptor yd,
                                      void* y) {
  if (!fits(*xd, *wd, *c, *yd) || *static_cast<const float*>(beta) != 0) return bad_parameter;
  const Call call{*xd,     *yd,   *wd,   *c, *static_cast<const float*>(alpha), 0, x, w, nullptr,
                  nullptr, false, false, y};
  return emulated_enqueue(handle->stream, call) == cudaSuccess ? success : bad_parameter;
}
// Refuses single channels, as the true library refuses some sizes: its caller must have another
// way.
cudnn::Status cudnnConvolutionBiasActivationForward(
    cudnn::Handle handle, const void* alpha1, cudnn::TensorDescriptor xd, const void* x,
    cudnn::FilterDescriptor wd, const void* w, cudnn::ConvolutionDescriptor c, cudnn::Algorithm,
    void*, size_t, const void* alpha2, cudnn::TensorDescriptor zd, const void* z,
    cudnn::TensorDescriptor bd, const void* bias, cudnn::ActivationDescriptor a,
    cudnn::TensorDescriptor yd, void* y) {
  if (!fits(*xd, *wd, *c, *yd) || zd->type != yd->type || bd->type != yd->type || bd->c != yd->c) {
    return bad_parameter;
  }
  if (xd->c == 1) return not_supported;
  const Call call{*xd,
                  *yd,
                  *wd,
                  *c,
                  *static_cast<const float*>(alpha1),
                  *static_cast<const float*>(alpha2),
                  x,
                  w,
                  z,
                  bias,
                  a->relu,
                  a->propagate_nan,
                  y};
  return emulated_enqueue(handle->stream, call) == cudaSuccess ? success : bad_parameter;
}

}  // extern "C"
