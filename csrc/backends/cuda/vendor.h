// The few functions of cuDNN 9 and cuBLASLt 13 or 12 that the backend calls, opened at run time.
//
// Nothing of NVIDIA's is needed to build but the CUDA toolkit's compiler, and nothing but a driver
// to start: a machine without the libraries gets an error that says what to install. The types and
// numbers below are those libraries' ABI; tests/gpu/vendor_abi.cpp checks them against the true
// headers where those are at hand.
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include <string>

namespace adfast::cuda {

// cuDNN, through its legacy convolution functions.
namespace cudnn {

using Status = int;  // 0: success
using Handle = struct cudnnContext*;
using TensorDescriptor = struct cudnnTensorStruct*;
using FilterDescriptor = struct cudnnFilterStruct*;
using ConvolutionDescriptor = struct cudnnConvolutionStruct*;
using ActivationDescriptor = struct cudnnActivationStruct*;

enum DataType : int { type_f32 = 0, type_f16 = 2, type_bf16 = 9 };
enum Format : int { nhwc = 1 };
enum Mode : int { cross_correlation = 1 };
enum MathType : int { tensor_op_math = 1, fma_math = 3 };
enum Activation : int { activation_relu = 1, activation_identity = 5 };
enum NanPropagation : int { propagate_nan = 1 };
enum Algorithm : int { implicit_precomp_gemm = 1 };

}  // namespace cudnn

struct Cudnn {
  // The names are cuDNN's own with "cudnn" left out.
  size_t (*GetVersion)();
  const char* (*GetErrorString)(cudnn::Status);
  cudnn::Status (*Create)(cudnn::Handle*);
  cudnn::Status (*Destroy)(cudnn::Handle);
  cudnn::Status (*SetStream)(cudnn::Handle, cudaStream_t);
  cudnn::Status (*CreateTensorDescriptor)(cudnn::TensorDescriptor*);
  cudnn::Status (*DestroyTensorDescriptor)(cudnn::TensorDescriptor);
  cudnn::Status (*SetTensor4dDescriptorEx)(cudnn::TensorDescriptor, cudnn::DataType, int n, int c,
                                           int h, int w, int n_stride, int c_stride, int h_stride,
                                           int w_stride);
  cudnn::Status (*CreateFilterDescriptor)(cudnn::FilterDescriptor*);
  cudnn::Status (*DestroyFilterDescriptor)(cudnn::FilterDescriptor);
  // With nhwc the filter lies [k][h][w][c].
  cudnn::Status (*SetFilter4dDescriptor)(cudnn::FilterDescriptor, cudnn::DataType, cudnn::Format,
                                         int k, int c, int h, int w);
  cudnn::Status (*CreateConvolutionDescriptor)(cudnn::ConvolutionDescriptor*);
  cudnn::Status (*DestroyConvolutionDescriptor)(cudnn::ConvolutionDescriptor);
  cudnn::Status (*SetConvolution2dDescriptor)(cudnn::ConvolutionDescriptor, int pad_h, int pad_w,
                                              int stride_h, int stride_w, int dilation_h,
                                              int dilation_w, cudnn::Mode, cudnn::DataType compute);
  cudnn::Status (*SetConvolutionMathType)(cudnn::ConvolutionDescriptor, cudnn::MathType);
  cudnn::Status (*CreateActivationDescriptor)(cudnn::ActivationDescriptor*);
  cudnn::Status (*DestroyActivationDescriptor)(cudnn::ActivationDescriptor);
  cudnn::Status (*SetActivationDescriptor)(cudnn::ActivationDescriptor, cudnn::Activation,
                                           cudnn::NanPropagation, double coefficient);
  cudnn::Status (*GetConvolutionForwardWorkspaceSize)(cudnn::Handle, cudnn::TensorDescriptor x,
                                                      cudnn::FilterDescriptor,
                                                      cudnn::ConvolutionDescriptor,
                                                      cudnn::TensorDescriptor y, cudnn::Algorithm,
                                                      size_t* bytes);
  // y = alpha * conv(x) + beta * y
  cudnn::Status (*ConvolutionForward)(cudnn::Handle, const void* alpha, cudnn::TensorDescriptor,
                                      const void* x, cudnn::FilterDescriptor, const void* w,
                                      cudnn::ConvolutionDescriptor, cudnn::Algorithm,
                                      void* workspace, size_t workspace_bytes, const void* beta,
                                      cudnn::TensorDescriptor, void* y);
  // y = activation(alpha1 * conv(x) + alpha2 * z + bias)
  cudnn::Status (*ConvolutionBiasActivationForward)(
      cudnn::Handle, const void* alpha1, cudnn::TensorDescriptor, const void* x,
      cudnn::FilterDescriptor, const void* w, cudnn::ConvolutionDescriptor, cudnn::Algorithm,
      void* workspace, size_t workspace_bytes, const void* alpha2, cudnn::TensorDescriptor,
      const void* z, cudnn::TensorDescriptor, const void* bias, cudnn::ActivationDescriptor,
      cudnn::TensorDescriptor, void* y);
};

namespace cublas {

using Status = int;  // 0: success
using Handle = struct cublasLtContext*;
using MatmulDescriptor = struct cublasLtMatmulDescOpaque*;
using Layout = struct cublasLtMatrixLayoutOpaque*;
using Preference = struct cublasLtMatmulPreferenceOpaque*;

enum ComputeType : int { compute_f32 = 68 };
enum DataType : int { type_f32 = 0, type_f16 = 2, type_bf16 = 14 };  // of cudaDataType
enum MatmulAttribute : int {
  attribute_transa = 3,
  attribute_epilogue = 7,
  attribute_bias_pointer = 8
};
enum Operation : int32_t { op_n = 0, op_t = 1 };
enum Epilogue : int32_t {
  epilogue_default = 1,
  epilogue_relu = 2,
  epilogue_bias = 4,
  epilogue_relu_bias = 6
};
enum PreferenceAttribute : int { max_workspace_bytes = 1 };

struct Algorithm {
  uint64_t data[8];
};
// cublasLtMatmulHeuristicResult_t
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

}  // namespace cublas

struct CublasLt {
  // The names are cuBLASLt's own with "cublasLt" left out. Matrices are column-major.
  size_t (*GetVersion)();
  cublas::Status (*Create)(cublas::Handle*);
  cublas::Status (*Destroy)(cublas::Handle);
  cublas::Status (*MatmulDescCreate)(cublas::MatmulDescriptor*, cublas::ComputeType,
                                     cublas::DataType scale);
  cublas::Status (*MatmulDescDestroy)(cublas::MatmulDescriptor);
  cublas::Status (*MatmulDescSetAttribute)(cublas::MatmulDescriptor, cublas::MatmulAttribute,
                                           const void* value, size_t bytes);
  cublas::Status (*MatrixLayoutCreate)(cublas::Layout*, cublas::DataType, uint64_t rows,
                                       uint64_t columns, int64_t leading_dimension);
  cublas::Status (*MatrixLayoutDestroy)(cublas::Layout);
  cublas::Status (*MatmulPreferenceCreate)(cublas::Preference*);
  cublas::Status (*MatmulPreferenceDestroy)(cublas::Preference);
  cublas::Status (*MatmulPreferenceSetAttribute)(cublas::Preference, cublas::PreferenceAttribute,
                                                 const void* value, size_t bytes);
  cublas::Status (*MatmulAlgoGetHeuristic)(cublas::Handle, cublas::MatmulDescriptor,
                                           cublas::Layout a, cublas::Layout b, cublas::Layout c,
                                           cublas::Layout d, cublas::Preference, int requested,
                                           cublas::HeuristicResult*, int* returned);
  // d = epilogue(alpha * op(a) op(b) + beta * c)
  cublas::Status (*Matmul)(cublas::Handle, cublas::MatmulDescriptor, const void* alpha,
                           const void* a, cublas::Layout, const void* b, cublas::Layout,
                           const void* beta, const void* c, cublas::Layout, void* d, cublas::Layout,
                           const cublas::Algorithm*, void* workspace, size_t workspace_bytes,
                           cudaStream_t);
};

// Each opened once per process and kept. `folders`, separated by ':', are looked through before the
// system's own; throw ErrorKind::argument with what to install when a library or one of its
// functions is missing.
const Cudnn& open_cudnn(const std::string& folders);
const CublasLt& open_cublaslt(const std::string& folders);
// The library of TensorRT of a major version, from dlopen.
void* open_tensorrt(int major, const std::string& folders);

}  // namespace adfast::cuda
