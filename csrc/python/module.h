// What the files of the Python module share.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "runtime/engine.h"

namespace adfast::python {

// `roi`: (x, y, width, height) or None; `ignore`: an array of bool or uint8 or None. What is
// returned must live as long as the job is used, and so must `image`.
pybind11::object fill_job(const pybind11::object& image, const std::string& pixel_format,
                          const pybind11::object& roi, const pybind11::object& ignore, Job* job);

pybind11::dict timings_of(const Timings& timings);
pybind11::tuple box_of(const Rectangle& rectangle);  // x, y, width, height

void define_streams(pybind11::module_& m,
                    pybind11::class_<Engine, std::shared_ptr<Engine>>& engine);

}  // namespace adfast::python
