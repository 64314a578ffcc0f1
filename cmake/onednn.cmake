# oneDNN as the target adfast_onednn, and the libraries that must travel with ours.
#
# Taken from the PyPI package onednn-devel-cpu-gomp of the Python that runs the build, which
# pyproject.toml asks for; without that, a system oneDNN (at least 3.2, CPU, OpenMP), which does not
# travel. ADFAST_ONEDNN forces one of the two.

set(ADFAST_ONEDNN "auto" CACHE STRING "auto, pypi, or system")
add_library(adfast_onednn INTERFACE)
set(ADFAST_RUNTIME_LIBRARIES)
set(found)

if(NOT ADFAST_ONEDNN STREQUAL "system")
  find_package(Python COMPONENTS Interpreter)
  if(Python_FOUND)
    # The wheel puts its files beside site-packages; only its list of files knows where.
    execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/find_onednn.py
                    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(found)
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
else()
  if(NOT ADFAST_ONEDNN STREQUAL "pypi")
    find_package(dnnl 3.2 CONFIG QUIET)
  endif()
  if(NOT dnnl_FOUND)
    message(FATAL_ERROR "no oneDNN: `${Python_EXECUTABLE} -m pip install "
                        "onednn-devel-cpu-gomp==2023.2.0`, or install a system oneDNN of at least "
                        "3.2 (then -Ddnnl_DIR=... tells where its CMake files are)")
  endif()
  message(STATUS "oneDNN ${dnnl_VERSION} from the system")
  target_link_libraries(adfast_onednn INTERFACE DNNL::dnnl)
endif()

# Installs the libraries above under the names they are looked up by.
function(adfast_install_runtime destination)
  foreach(library ${ADFAST_RUNTIME_LIBRARIES})
    if(library MATCHES "libgomp")
      set(name libgomp.so.1)
    elseif(library MATCHES "(libsodium\\.so\\.[0-9]+)")
      set(name ${CMAKE_MATCH_1})
    else()
      set(name libdnnl.so.3)
    endif()
    install(PROGRAMS ${library} DESTINATION ${destination} RENAME ${name})
  endforeach()
endfunction()
