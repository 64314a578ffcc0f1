#include "python/frames.h"

#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "core/error.h"
#include "python/module.h"

namespace py = pybind11;

namespace adfast::python {

namespace {

[[noreturn]] void refuse_image(const std::string& what, const py::handle& got,
                               const std::string& expected) {
  throw Error(ErrorKind::frame, "[predict] image has " + what + " " +
                                    py::cast<std::string>(py::str(got)) + ", expected " + expected);
}

const PixelFormat& format_of(const std::string& name, size_t rank) {
  if (name.empty()) return *find_format(rank == 2 ? "Mono8" : "RGB8");
  const PixelFormat* format = find_format(name);
  if (format == nullptr) {
    throw Error(ErrorKind::argument,
                "[predict] pixel_format is '" + name + "', expected one of " + format_names());
  }
  return *format;
}

// A frame of this size; strides are in bytes.
FrameView view_of(const void* data, const std::vector<py::ssize_t>& shape,
                  const std::vector<py::ssize_t>& strides, const PixelFormat& format) {
  const bool colour = format.channels() == 3;
  if (colour ? !(shape.size() == 3 && shape[2] == 3) : shape.size() != 2) {
    refuse_image("shape", py::tuple(py::cast(shape)),
                 std::string("(height, width) for grey and mosaics or (height, width, 3) for "
                             "colour; the format is ") +
                     format.name);
  }
  FrameView view;
  view.data = static_cast<const uint8_t*>(data);
  view.format = format;
  view.height = shape[0];
  view.width = shape[1];
  view.row_stride = strides[0];
  view.pixel_stride = strides[1];
  view.channel_stride = colour ? strides[2] : 0;
  return view;
}

std::string type_wanted(const PixelFormat& format) {
  return format.bytes() == 1
             ? "uint8; for uint16 name the bits, as in pixel_format='Mono12' (values "
               "are never rescaled by guess)"
             : std::string("uint16 for ") + format.name;
}

constexpr int default_stream = 1;

// What torch, CuPy and Numba say of arrays on a card; its version 3.
FrameView device_view_of(const py::dict& interface, const std::string& pixel_format) {
  const py::object type = interface["typestr"];
  const auto shape = py::cast<std::vector<py::ssize_t>>(interface["shape"]);
  const PixelFormat& format = format_of(pixel_format, shape.size());
  if (format.bytes() != 1 || format.bayer != Bayer::none) {
    throw Error(ErrorKind::frame, std::string("[predict] a ") + format.name +
                                      " frame on a card, expected Mono8, RGB8 or BGR8 there; the "
                                      "others are taken from host memory");
  }
  if (py::cast<std::string>(type) != "|u1") refuse_image("the type", type, type_wanted(format));
  std::vector<py::ssize_t> tight(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) tight[i - 1] = tight[i] * shape[i];
  const py::object strides =
      interface.contains("strides") ? py::object(interface["strides"]) : py::none();
  if (!strides.is_none() && py::cast<std::vector<py::ssize_t>>(strides) != tight) {
    refuse_image("strides", strides, "rows without gaps on a card: image.contiguous()");
  }
  const auto address = py::cast<uintptr_t>(py::tuple(interface["data"])[0]);
  FrameView view = view_of(reinterpret_cast<const void*>(address), shape, tight, format);
  view.on_device = true;
  // Producers that name no stream, as torch, mostly work on the default one; None: it is ready.
  const py::object stream =
      interface.contains("stream") ? py::object(interface["stream"]) : py::int_(default_stream);
  if (!stream.is_none()) view.stream = py::cast<uint64_t>(stream);
  return view;
}

}  // namespace

FrameView view_of(const py::object& image, const std::string& pixel_format) {
  if (!py::isinstance<py::array>(image) && py::hasattr(image, "__cuda_array_interface__")) {
    return device_view_of(py::dict(image.attr("__cuda_array_interface__")), pixel_format);
  }
  const auto array = py::cast<py::array>(image);
  const PixelFormat& format = format_of(pixel_format, static_cast<size_t>(array.ndim()));
  if (array.dtype().kind() != 'u' || array.itemsize() != format.bytes() ||
      !array.dtype().equal(array.dtype().attr("newbyteorder")("="))) {
    refuse_image("dtype", py::str(array.dtype()), type_wanted(format));
  }
  return view_of(array.data(), {array.shape(), array.shape() + array.ndim()},
                 {array.strides(), array.strides() + array.ndim()}, format);
}

namespace {

// Rows of bytes of a bool or uint8 array of the frame's size.
IgnoreMask mask_of(const py::array& array, const FrameView& frame) {
  const char kind = array.dtype().kind();
  if ((kind != 'b' && kind != 'u') || array.itemsize() != 1) {
    throw Error(ErrorKind::frame, "[predict] ignore has dtype " +
                                      py::cast<std::string>(py::str(array.dtype())) +
                                      ", expected bool or uint8");
  }
  if (array.ndim() != 2 || array.shape(0) != frame.height || array.shape(1) != frame.width) {
    const std::vector<py::ssize_t> shape(array.shape(), array.shape() + array.ndim());
    throw Error(ErrorKind::frame, "[predict] ignore has shape " +
                                      py::cast<std::string>(py::str(py::tuple(py::cast(shape)))) +
                                      ", expected the frame's (" + std::to_string(frame.height) +
                                      ", " + std::to_string(frame.width) + ")");
  }
  return {static_cast<const uint8_t*>(array.data()), array.strides(0)};
}

}  // namespace

py::object fill_job(const py::object& image, const std::string& pixel_format, const py::object& roi,
                    const py::object& ignore, Job* job) {
  job->frame = view_of(image, pixel_format);
  if (!roi.is_none()) {
    const auto [x, y, width, height] = py::cast<std::array<int64_t, 4>>(roi);
    job->roi = {y, x, y + height, x + width};
    if (job->roi.empty()) job->roi = {0, 0, 0, -1};  // of no pixels, which is refused
  }
  if (ignore.is_none()) return py::none();
  // A copy only where the bytes of a row are no neighbours.
  py::array array = py::cast<py::array>(ignore);
  if (array.ndim() == 2 && array.strides(1) != 1) {
    array = py::array::ensure(array, py::array::c_style);
  }
  job->ignore = mask_of(array, job->frame);
  return array;
}

}  // namespace adfast::python
