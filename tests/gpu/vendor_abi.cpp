// The numbers and layouts of backends/cuda/vendor.h against the true headers: it compiles or not.
#include <cublasLt.h>
#include <cudnn.h>

#include <type_traits>

#include "backends/cuda/vendor.h"

namespace ours = adfast::cuda;

static_assert(ours::cudnn::type_f32 == static_cast<int>(CUDNN_DATA_FLOAT));
static_assert(ours::cudnn::type_f16 == static_cast<int>(CUDNN_DATA_HALF));
static_assert(ours::cudnn::type_bf16 == static_cast<int>(CUDNN_DATA_BFLOAT16));
static_assert(ours::cudnn::nhwc == static_cast<int>(CUDNN_TENSOR_NHWC));
static_assert(ours::cudnn::cross_correlation == static_cast<int>(CUDNN_CROSS_CORRELATION));
static_assert(ours::cudnn::tensor_op_math == static_cast<int>(CUDNN_TENSOR_OP_MATH));
static_assert(ours::cudnn::fma_math == static_cast<int>(CUDNN_FMA_MATH));
static_assert(ours::cudnn::activation_relu == static_cast<int>(CUDNN_ACTIVATION_RELU));
static_assert(ours::cudnn::activation_identity == static_cast<int>(CUDNN_ACTIVATION_IDENTITY));
static_assert(ours::cudnn::propagate_nan == static_cast<int>(CUDNN_PROPAGATE_NAN));
static_assert(ours::cudnn::implicit_precomp_gemm ==
              static_cast<int>(CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM));

static_assert(ours::cublas::compute_f32 == static_cast<int>(CUBLAS_COMPUTE_32F));
static_assert(ours::cublas::type_f32 == static_cast<int>(CUDA_R_32F));
static_assert(ours::cublas::type_f16 == static_cast<int>(CUDA_R_16F));
static_assert(ours::cublas::type_bf16 == static_cast<int>(CUDA_R_16BF));
static_assert(ours::cublas::attribute_transa == static_cast<int>(CUBLASLT_MATMUL_DESC_TRANSA));
static_assert(ours::cublas::attribute_epilogue == static_cast<int>(CUBLASLT_MATMUL_DESC_EPILOGUE));
static_assert(ours::cublas::attribute_bias_pointer ==
              static_cast<int>(CUBLASLT_MATMUL_DESC_BIAS_POINTER));
static_assert(ours::cublas::op_t == static_cast<int>(CUBLAS_OP_T));
static_assert(ours::cublas::epilogue_default == static_cast<int>(CUBLASLT_EPILOGUE_DEFAULT));
static_assert(ours::cublas::epilogue_relu == static_cast<int>(CUBLASLT_EPILOGUE_RELU));
static_assert(ours::cublas::epilogue_bias == static_cast<int>(CUBLASLT_EPILOGUE_BIAS));
static_assert(ours::cublas::epilogue_relu_bias == static_cast<int>(CUBLASLT_EPILOGUE_RELU_BIAS));
static_assert(ours::cublas::max_workspace_bytes ==
              static_cast<int>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES));
static_assert(sizeof(ours::cublas::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(ours::cublas::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(ours::cublas::HeuristicResult, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));

// As many arguments of the same sizes: handles and enumerations have names of their own here.
template <class Ours, class Theirs>
struct Alike : std::false_type {};
template <class... A, class... B, class R, class S>
struct Alike<R (*)(A...), S(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && ((sizeof(A) == sizeof(B)) && ...)> {};

#define ALIKE(table, prefix, name) \
  static_assert(Alike<decltype(ours::table::name), decltype(prefix##name)>::value, #prefix #name)

ALIKE(Cudnn, cudnn, Create);
ALIKE(Cudnn, cudnn, SetStream);
ALIKE(Cudnn, cudnn, SetTensor4dDescriptorEx);
ALIKE(Cudnn, cudnn, SetFilter4dDescriptor);
ALIKE(Cudnn, cudnn, SetConvolution2dDescriptor);
ALIKE(Cudnn, cudnn, SetConvolutionMathType);
ALIKE(Cudnn, cudnn, SetActivationDescriptor);
ALIKE(Cudnn, cudnn, GetConvolutionForwardWorkspaceSize);
ALIKE(Cudnn, cudnn, ConvolutionForward);
ALIKE(Cudnn, cudnn, ConvolutionBiasActivationForward);
ALIKE(CublasLt, cublasLt, MatmulDescCreate);
ALIKE(CublasLt, cublasLt, MatmulDescSetAttribute);
ALIKE(CublasLt, cublasLt, MatrixLayoutCreate);
ALIKE(CublasLt, cublasLt, MatmulPreferenceSetAttribute);
ALIKE(CublasLt, cublasLt, MatmulAlgoGetHeuristic);
ALIKE(CublasLt, cublasLt, Matmul);
