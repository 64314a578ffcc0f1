// Arrays of Python as frames, without copying.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "core/frame.h"

namespace adfast::python {

// `pixel_format` is a PFNC name, or empty: by the array's shape, Mono8 or RGB8. `image` must
// outlive the view. Throws ErrorKind::frame for an array that is no such frame.
FrameView view_of(const pybind11::object& image, const std::string& pixel_format);

}  // namespace adfast::python
