# The CUDA backend as a plugin that the engine opens at run time.
#
# ADFAST_CUDA: auto builds it where a CUDA compiler is found, on insists, off leaves it out. Nothing
# of NVIDIA's but the compiler and its static runtime is needed here: cuDNN and cuBLASLt are opened
# when a plan is loaded.

set(ADFAST_CUDA "auto" CACHE STRING "auto, on or off: build libadfast_cuda.so")
# Machine code for Ampere (80 also runs on 86 and 89), Hopper and Blackwell; later cards compile the
# last one's PTX when they first see it.
set(ADFAST_CUDA_ARCHITECTURES "80-real;90-real;100-real;120" CACHE STRING
    "what the CUDA kernels are compiled for")

set(ADFAST_CUDA_SOURCES attention backend check convolution device elementwise execution fused_conv halo linear
    plugin score session shape slot tensorrt vendor)
list(TRANSFORM ADFAST_CUDA_SOURCES
     REPLACE "(.+)" "${PROJECT_SOURCE_DIR}/csrc/backends/cuda/\\1.cpp")

# The plugin over `kernels` and the CUDA runtime that those bring, in the file libadfast_cuda.so.
# Further arguments: where Triton's kernels come from.
function(adfast_add_cuda_plugin target kernels)
  add_library(${target} MODULE ${ADFAST_CUDA_SOURCES} ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME adfast_cuda)
  target_link_libraries(${target} PRIVATE ${kernels} adfast_runtime ${CMAKE_DL_LIBS})
  set(exports ${PROJECT_SOURCE_DIR}/csrc/backends/cuda/exports.map)
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL -Wl,--version-script=${exports})
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${exports})
endfunction()

# Our plugins for TensorRT, in the file libadfast_trt.so, which TensorRT opens.
function(adfast_add_tensorrt_plugins target kernels)
  set(own ${PROJECT_SOURCE_DIR}/csrc/backends)
  add_library(${target} MODULE ${own}/tensorrt/plugins.cpp ${own}/cuda/check.cpp
                               ${own}/cuda/halo.cpp ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME adfast_trt)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE ${kernels})
  set(exports ${own}/tensorrt/exports.map)
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL -Wl,--version-script=${exports})
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${exports})
endfunction()

if(NOT ADFAST_CUDA STREQUAL "off")
  include(CheckLanguage)
  check_language(CUDA)
  set(found "no CUDA compiler found; put nvcc on the PATH, or set CUDACXX")
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE version)
    string(REGEX MATCH "release ([0-9.]+)" version "${version}")
    set(found "${CMAKE_CUDA_COMPILER} is of ${version}, 12.8 or newer is needed")
  endif()
  if(CMAKE_CUDA_COMPILER AND CMAKE_MATCH_1 VERSION_GREATER_EQUAL 12.8)
    set(CMAKE_CUDA_ARCHITECTURES ${ADFAST_CUDA_ARCHITECTURES})
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    add_subdirectory(kernels/cuda)

    # What kernels/triton keeps as PTX, assembled here. Targets as in its manifest.
    find_package(Python REQUIRED COMPONENTS Interpreter)
    enable_language(ASM)
    set(kept ${PROJECT_SOURCE_DIR}/kernels/triton)
    function(adfast_add_triton folder variants)
      set(triton ${CMAKE_CURRENT_BINARY_DIR}/${folder})
      add_custom_command(
        OUTPUT ${triton}/triton_kernels.cpp ${triton}/triton_kernels.S ${triton}/triton_kernels.h
        COMMAND ${Python_EXECUTABLE} ${kept}/embed.py --out ${triton}
                --ptxas ${CUDAToolkit_BIN_DIR}/ptxas --targets 80,90,100,120
                --variants "${variants}"
        DEPENDS ${kept}/embed.py ${kept}/manifest.json ${kept}/ptx.tar.xz
        VERBATIM)
      set(${folder} ${PROJECT_SOURCE_DIR}/csrc/backends/cuda/triton.cpp
                    ${triton}/triton_kernels.cpp ${triton}/triton_kernels.S PARENT_SCOPE)
    endfunction()
    adfast_add_triton(triton "^(conv2d|attention|halo_attention)_(fp16|bf16)")
    adfast_add_cuda_plugin(adfast_cuda adfast_kernels_cuda ${triton})
    adfast_add_triton(triton_plugins "^halo_attention_(fp16|bf16)")
    adfast_add_tensorrt_plugins(adfast_trt adfast_kernels_cuda ${triton_plugins})
    target_include_directories(adfast_cuda PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/triton)
    target_include_directories(adfast_trt PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/triton_plugins)
    foreach(plugin adfast_cuda adfast_trt)
      target_link_libraries(${plugin} PRIVATE CUDA::cudart_static)
      target_link_options(${plugin} PRIVATE -Wl,--no-undefined)
    endforeach()
  elseif(ADFAST_CUDA STREQUAL "on")
    message(FATAL_ERROR "ADFAST_CUDA=on: ${found}")
  else()
    message(STATUS "built without the CUDA backend: ${found}")
  endif()
endif()
