# oneDNN as the target adfast_onednn, and the libraries that must travel with ours.
#
# A system oneDNN (at least 3.2, CPU, OpenMP) is taken when CMake finds one; otherwise the PyPI package
# onednn-devel-cpu-gomp of the Python that runs the build, which pyproject.toml asks for.

set(ADFAST_ONEDNN "auto" CACHE STRING "auto, system, or pypi")
add_library(adfast_onednn INTERFACE)
set(ADFAST_RUNTIME_LIBRARIES)

if(NOT ADFAST_ONEDNN STREQUAL "pypi")
  find_package(dnnl 3.2 CONFIG QUIET)
endif()
if(dnnl_FOUND)
  message(STATUS "oneDNN ${dnnl_VERSION} from the system")
  target_link_libraries(adfast_onednn INTERFACE DNNL::dnnl)
elseif(ADFAST_ONEDNN STREQUAL "system")
  message(FATAL_ERROR "ADFAST_ONEDNN=system, but CMake finds no oneDNN of at least 3.2; "
                      "install it or set dnnl_DIR")
else()
  find_package(Python COMPONENTS Interpreter REQUIRED)
  # The wheel puts its files beside site-packages; only its list of files knows where.
  execute_process(
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/find_onednn.py
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "no oneDNN: install it with `${Python_EXECUTABLE} -m pip install "
                        "onednn-devel-cpu-gomp==2023.2.0`, or a system oneDNN of at least 3.2")
  endif()
  list(GET found 0 include)
  list(GET found 1 library)
  message(STATUS "oneDNN from PyPI: ${library}")
  target_include_directories(adfast_onednn SYSTEM INTERFACE ${include})
  target_link_libraries(adfast_onednn INTERFACE ${library})
  list(APPEND ADFAST_RUNTIME_LIBRARIES ${library})
  # The GNU OpenMP runtime that oneDNN and we share; a bare machine may lack it.
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libgomp.so.1
                  OUTPUT_VARIABLE gomp OUTPUT_STRIP_TRAILING_WHITESPACE)
  get_filename_component(gomp "${gomp}" REALPATH)
  if(EXISTS "${gomp}")
    list(APPEND ADFAST_RUNTIME_LIBRARIES ${gomp})
  endif()
endif()

# Installs the libraries above under the names they are looked up by.
function(adfast_install_runtime destination)
  foreach(library ${ADFAST_RUNTIME_LIBRARIES})
    if(library MATCHES "libgomp")
      set(name libgomp.so.1)
    else()
      set(name libdnnl.so.3)
    endif()
    install(PROGRAMS ${library} DESTINATION ${destination} RENAME ${name})
  endforeach()
endfunction()
