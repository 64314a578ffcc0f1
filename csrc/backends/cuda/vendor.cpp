#include "backends/cuda/vendor.h"

#include <dlfcn.h>
#include <unistd.h>

#include <initializer_list>

#include "core/error.h"
#include "core/text.h"

namespace adfast::cuda {
namespace {

struct Library {
  const char* what;                          // for people
  std::initializer_list<const char*> names;  // of its files, the preferred first
  const char* prefix;                        // of its functions
  const char* remedy;
  // Those of TensorRT 10 and 11 have the same names for their functions.
  int scope = RTLD_GLOBAL;
};

// The wheels of cuDNN and cuBLAS keep their parts beside each other, so the first library found in
// a folder finds the rest by itself.
void* open_library(const Library& library, const std::string& folders) {
  for (const std::string& folder : split(folders, ':')) {
    for (const char* name : library.names) {
      const std::string path = folder + "/" + name;
      if (access(path.c_str(), R_OK) != 0) continue;
      if (void* handle = dlopen(path.c_str(), RTLD_NOW | library.scope)) return handle;
    }
  }
  for (const char* name : library.names) {
    if (void* handle = dlopen(name, RTLD_NOW | library.scope)) return handle;
  }
  const char* reason = dlerror();
  throw Error(ErrorKind::argument, std::string("[cuda] no ") + library.what + " (" +
                                       (reason == nullptr ? "not found" : reason) + "); " +
                                       library.remedy + ", or load with device='cpu'");
}

template <class Function>
void take(void* handle, const Library& library, const char* name, Function* function) {
  const std::string symbol = std::string(library.prefix) + name;
  *function = reinterpret_cast<Function>(dlsym(handle, symbol.c_str()));
  if (*function == nullptr) {
    throw Error(ErrorKind::argument, std::string("[cuda] this ") + library.what + " lacks " +
                                         symbol + "; " + library.remedy);
  }
}

}  // namespace

#define ADFAST_TAKE(name) take(handle, library, #name, &functions.name)

const Cudnn& open_cudnn(const std::string& folders) {
  static const Cudnn opened = [&] {
    const Library library{"cuDNN 9", {"libcudnn.so.9"}, "cudnn", "pip install nvidia-cudnn-cu13"};
    void* handle = open_library(library, folders);
    Cudnn functions{};
    ADFAST_TAKE(GetVersion);
    ADFAST_TAKE(GetErrorString);
    ADFAST_TAKE(Create);
    ADFAST_TAKE(Destroy);
    ADFAST_TAKE(SetStream);
    ADFAST_TAKE(CreateTensorDescriptor);
    ADFAST_TAKE(DestroyTensorDescriptor);
    ADFAST_TAKE(SetTensor4dDescriptorEx);
    ADFAST_TAKE(CreateFilterDescriptor);
    ADFAST_TAKE(DestroyFilterDescriptor);
    ADFAST_TAKE(SetFilter4dDescriptor);
    ADFAST_TAKE(CreateConvolutionDescriptor);
    ADFAST_TAKE(DestroyConvolutionDescriptor);
    ADFAST_TAKE(SetConvolution2dDescriptor);
    ADFAST_TAKE(SetConvolutionMathType);
    ADFAST_TAKE(CreateActivationDescriptor);
    ADFAST_TAKE(DestroyActivationDescriptor);
    ADFAST_TAKE(SetActivationDescriptor);
    ADFAST_TAKE(GetConvolutionForwardWorkspaceSize);
    ADFAST_TAKE(ConvolutionForward);
    ADFAST_TAKE(ConvolutionBiasActivationForward);
    return functions;
  }();
  return opened;
}

const CublasLt& open_cublaslt(const std::string& folders) {
  static const CublasLt opened = [&] {
    const Library library{"cuBLASLt 12 or 13",
                          {"libcublasLt.so.13", "libcublasLt.so.12"},
                          "cublasLt",
                          "pip install nvidia-cublas"};
    void* handle = open_library(library, folders);
    CublasLt functions{};
    ADFAST_TAKE(GetVersion);
    ADFAST_TAKE(Create);
    ADFAST_TAKE(Destroy);
    ADFAST_TAKE(MatmulDescCreate);
    ADFAST_TAKE(MatmulDescDestroy);
    ADFAST_TAKE(MatmulDescSetAttribute);
    ADFAST_TAKE(MatrixLayoutCreate);
    ADFAST_TAKE(MatrixLayoutDestroy);
    ADFAST_TAKE(MatmulPreferenceCreate);
    ADFAST_TAKE(MatmulPreferenceDestroy);
    ADFAST_TAKE(MatmulPreferenceSetAttribute);
    ADFAST_TAKE(MatmulAlgoGetHeuristic);
    ADFAST_TAKE(Matmul);
    return functions;
  }();
  return opened;
}

#undef ADFAST_TAKE

void* open_tensorrt(int major, const std::string& folders) {
  const std::string number = std::to_string(major), what = "TensorRT " + number,
                    file = "libnvinfer.so." + number,
                    remedy = "pip install 'tensorrt==" + number + ".*'";
  return open_library({what.c_str(), {file.c_str()}, "", remedy.c_str(), RTLD_LOCAL}, folders);
}

}  // namespace adfast::cuda
