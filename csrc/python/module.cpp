// The Python skin: borrows buffers, releases the GIL, turns errors into adfast.errors' classes.
#include "python/module.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <new>

#include "core/error.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "plan/plan.h"
#include "python/frames.h"
#include "runtime/device.h"
#include "runtime/engine.h"
#include "runtime/host_session.h"
#include "runtime/raw_run.h"
#include "runtime/regions.h"

namespace py = pybind11;
using namespace adfast;
using adfast::python::view_of;

namespace {

struct Request {
  py::object image, mask;
  py::array_t<float> map;
  py::object network_map = py::none();
  Job job;
};

Request request_for(const Engine& engine, const py::object& image, const std::string& pixel_format,
                    const py::object& roi, const py::object& ignore) {
  Request request;
  request.image = image;
  Job& job = request.job;
  request.mask = python::fill_job(image, pixel_format, roi, ignore, &job);
  request.map = py::array_t<float>({job.frame.height, job.frame.width});
  job.map = request.map.mutable_data();
  if (!engine.tiled(job)) {
    py::array_t<float> map({engine.map_height(), engine.map_width()});
    job.network_map = map.mutable_data();
    request.network_map = map;
  }
  return request;
}

py::dict result_of(const Engine& engine, Request& request) {
  const auto& frame = request.job.frame;
  const Rectangle part =
      frame.height > 0 && frame.width > 0 ? engine.inspected(request.job) : Rectangle{};
  py::dict result;
  result["score"] = request.job.score;
  result["map"] = request.map;
  result["network_map"] = request.network_map;
  result["timings"] = python::timings_of(request.job.timings);
  result["inspected"] = python::box_of(part);
  return result;
}

py::dict predict(Engine& engine, const py::object& image, const std::string& pixel_format,
                 const py::object& roi, const py::object& ignore, bool counted) {
  Request request = request_for(engine, image, pixel_format, roi, ignore);
  request.job.counted = counted;
  {
    py::gil_scoped_release release;
    engine.predict(request.job);
  }
  return result_of(engine, request);
}

py::list predict_batch(Engine& engine, const std::vector<py::object>& images,
                       const std::string& pixel_format, const py::object& roi,
                       const py::object& ignore) {
  std::vector<Request> requests;
  std::vector<Job> jobs;
  for (const py::object& image : images) {
    requests.push_back(request_for(engine, image, pixel_format, roi, ignore));
    jobs.push_back(requests.back().job);
  }
  {
    py::gil_scoped_release release;
    engine.predict_batch(jobs);
  }
  py::list results;
  for (size_t i = 0; i < jobs.size(); ++i) {
    requests[i].job = jobs[i];
    results.append(result_of(engine, requests[i]));
  }
  return results;
}

py::dict describe(const Engine& engine) {
  const FrameGeometry& g = engine.geometry();
  py::dict info;
  const SessionInfo& session = engine.info();
  info["device"] = session.device;
  info["processor"] = session.processor;
  info["isa"] = session.isa;
  info["precision"] = session.precision;
  info["threads"] = session.threads;
  info["lanes"] = session.lanes;
  info["frames_at_once"] = session.frames_at_once;
  info["device_note"] = engine.note();
  info["resize"] = py::make_tuple(g.resize_height, g.resize_width);
  info["crop"] = py::make_tuple(g.crop_height, g.crop_width);
  info["map_size"] = py::make_tuple(engine.map_height(), engine.map_width());
  info["tile"] =
      engine.tiles().height == 0
          ? py::object(py::none())
          : py::make_tuple(engine.tiles().height, engine.tiles().width, engine.tiles().overlap);
  info["frame_memory"] = session.frame_memory;
  return info;
}

py::dict memory(const Engine& engine, int64_t height, int64_t width) {
  const MemoryUse use = engine.memory(height, width);
  py::dict bytes;
  bytes["weights"] = use.weights;
  bytes["frame"] = use.frame;
  bytes["loading"] = use.loading;
  bytes["running"] = use.running;
  return bytes;
}

py::list profile(Engine& engine, const py::object& image, const std::string& pixel_format) {
  const FrameView view = view_of(image, pixel_format);
  std::vector<StepReport> reports;
  {
    py::gil_scoped_release release;
    reports = engine.profile(view);
  }
  py::list rows;
  for (const auto& r : reports) {
    py::dict row;
    row["op"] = r.op;
    row["name"] = r.name;
    row["kernel"] = r.kernel;
    row["index"] = r.index;
    row["lane"] = r.lane;
    row["begin_ms"] = r.begin;
    row["ms"] = r.milliseconds;
    row["gflop"] = r.gflop;
    row["bytes"] = r.bytes;
    rows.append(row);
  }
  return rows;
}

// {value: (low, high)} to {value: (low, high, counts)}, see Engine::observe.
py::dict observe(Engine& engine, const py::object& image,
                 const std::map<std::string, std::pair<float, float>>& ranges, int bins,
                 const std::string& pixel_format) {
  const FrameView view = view_of(image, pixel_format);
  std::map<std::string, Observation> values;
  for (const auto& [name, range] : ranges) {
    values[name] = {range.first, range.second, std::vector<int64_t>(bins)};
  }
  {
    py::gil_scoped_release release;
    engine.observe(view, &values);
  }
  py::dict result;
  for (const auto& [name, seen] : values) {
    const py::array_t<int64_t> counts(static_cast<py::ssize_t>(seen.counts.size()),
                                      seen.counts.data());
    result[py::str(name)] = py::make_tuple(seen.low, seen.high, counts);
  }
  return result;
}

py::object field_value(const Field& field) {
  return std::visit([](const auto& value) -> py::object { return py::cast(value); }, field);
}

py::dict table_value(const Table& table) {
  py::dict result;
  for (const auto& [key, value] : table.entries) result[py::str(key)] = field_value(value);
  return result;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

py::array golden_pixels(const GoldenFrame& frame) {
  std::vector<py::ssize_t> shape = {frame.height, frame.width};
  if (frame.format.channels() == 3) shape.push_back(3);
  py::array pixels(py::dtype(frame.format.bytes() == 2 ? "uint16" : "uint8"), shape);
  std::memcpy(pixels.mutable_data(), frame.pixels.data(), frame.pixels.size());
  return pixels;
}

py::dict plan_contents(const Plan& plan) {
  py::dict result;
  result["version"] = plan.version;
  result["oldest_reader"] = plan.oldest_reader;
  result["file_size"] = plan.file_size;
  py::list sections;
  for (const Section& section : plan.sections) {
    py::dict entry;
    entry["name"] = section.name;
    entry["offset"] = section.offset;
    entry["size"] = section.size;
    entry["sha256"] = to_hex(section.digest);
    sections.append(entry);
  }
  result["sections"] = sections;
  // Whose it claims to be: nobody checked.
  result["signed_by"] = plan.seal.signature ? to_hex(plan.seal.signature->key) : "";
  result["fields"] = table_value(plan.fields);
  result["calibration"] = table_value(plan.calibration);
  result["golden_info"] = table_value(plan.golden_info);
  py::list golden;
  for (const GoldenFrame& frame : plan.golden) {
    py::array_t<float> map({frame.map_height, frame.map_width});
    if (!frame.map.empty()) {
      std::memcpy(map.mutable_data(), frame.map.data(), frame.map.size());
    }
    py::dict entry;
    entry["frame"] = golden_pixels(frame);
    entry["pixel_format"] = frame.format.name;
    entry["score"] = frame.score;
    entry["map"] = map;
    golden.append(entry);
  }
  result["golden"] = golden;
  if (plan.tensorrt) {
    py::dict engine = table_value(plan.tensorrt->info);
    engine["bytes"] = plan.tensorrt->bytes.size();
    result["tensorrt"] = engine;
  }
  result["parity"] = py::str(text_of(plan.section("parity")));
  result["provenance"] = py::str(text_of(plan.section("provenance")));
  result["graph"] = py::str(print(plan.graph));
  result["nodes"] = plan.graph.nodes.size();
  int64_t parameters = 0;
  for (const Value& value : plan.graph.values) {
    if (value.constant) parameters += element_count(value.shape);
  }
  result["parameters"] = parameters;
  return result;
}

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::dict run_graph(const std::string& path, const std::map<std::string, FloatArray>& inputs,
                   const std::string& precision, const std::string& isa, int lanes,
                   const std::string& tactic, const std::string& device,
                   const std::vector<std::string>& folders) {
  RawInputs raw;
  for (const auto& [name, array] : inputs) {
    Shape shape(array.shape(), array.shape() + array.ndim());
    raw[name] = {shape, {array.data(), static_cast<size_t>(array.size())}};
  }
  const auto outputs = [&] {
    py::gil_scoped_release release;
    if (device != "cpu") {
      return run_raw_on_device(
          path, raw, {.precision = precision, .isa = isa, .device = device, .folders = folders});
    }
    const Tactics tactics = tactic.empty() ? Tactics() : Tactics{{"*", tactic}};
    return run_raw(path, raw, {precision, false, isa, tactics}, lanes);
  }();
  py::dict result;
  for (const auto& [role, output] : outputs) {
    py::array_t<float> array(std::vector<py::ssize_t>(output.shape.begin(), output.shape.end()));
    std::memcpy(array.mutable_data(), output.values.data(), output.values.size() * sizeof(float));
    result[py::str(role)] = array;
  }
  return result;
}

py::list regions(const FloatArray& map, const py::object& threshold, float min_peak,
                 int64_t min_area) {
  if (map.ndim() != 2) {
    throw Error(ErrorKind::argument, "[regions] the map must be (height, width)");
  }
  RegionRule rule;
  FloatArray thresholds;
  if (py::isinstance<py::array>(threshold)) {
    thresholds = py::cast<FloatArray>(threshold);
    if (thresholds.ndim() != 2 || thresholds.shape(0) != map.shape(0) ||
        thresholds.shape(1) != map.shape(1)) {
      throw Error(ErrorKind::argument, "[regions] thresholds must be of the map's shape");
    }
    rule.thresholds = thresholds.data();
  } else {
    rule.threshold = py::cast<float>(threshold);
  }
  rule.min_peak = min_peak;
  rule.min_area = min_area;
  py::list result;
  for (const Region& r : find_regions(map.data(), map.shape(0), map.shape(1), rule)) {
    result.append(py::make_tuple(
        py::make_tuple(r.box.left, r.box.top, r.box.right - r.box.left, r.box.bottom - r.box.top),
        r.area, r.peak, r.mean, py::make_tuple(r.peak_x, r.peak_y)));
  }
  return result;
}

template <size_t size>
py::bytes bytes_of(const std::array<uint8_t, size>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), size};
}

// check(message, key, signature), the last two None for a plan that is not signed. It is called
// before any section is parsed, and raises where the plan is not to be trusted.
SealCheck seal_check(const py::object& check) {
  return [check](const Seal& seal) {
    const py::gil_scoped_acquire acquire;
    const auto& signature = seal.signature;
    check(py::bytes(text_of(seal.message)),
          signature ? py::object(bytes_of(signature->key)) : py::none(),
          signature ? py::object(bytes_of(signature->value)) : py::none());
  };
}

// Whether this processor computes in bf16, or only stores it.
bool native_bf16() {
  return static_cast<int>(dnnl::get_effective_cpu_isa()) >=
         static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
}

}  // namespace

namespace adfast::python {

py::dict timings_of(const Timings& t) {
  py::dict timings;
  timings["frame"] = t.frame;
  timings["network"] = t.network;
  timings["map"] = t.map;
  timings["total"] = t.total;
  return timings;
}

py::tuple box_of(const Rectangle& r) {
  return py::make_tuple(r.left, r.top, r.right - r.left, r.bottom - r.top);
}

}  // namespace adfast::python

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled engine; use the package adfast, whose public names are documented.";

  py::register_exception_translator([](std::exception_ptr pointer) {
    if (!pointer) return;
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      const char* name = "AdfastError";
      if (error.kind() == ErrorKind::plan) name = "PlanError";
      if (error.kind() == ErrorKind::frame) name = "FrameError";
      if (error.kind() == ErrorKind::argument) name = "ArgumentError";
      if (error.kind() == ErrorKind::full) name = "StreamFull";
      if (error.kind() == ErrorKind::closed) name = "StreamClosed";
      const py::object type = py::module_::import("adfast.errors").attr(name);
      PyErr_SetString(type.ptr(), error.what());
    }
  });

  py::class_<Plan>(m, "Plan")
      .def(py::init([](const std::string& path, const py::object& check) {
             const SealCheck asked = check.is_none() ? SealCheck() : seal_check(check);
             py::gil_scoped_release release;
             return std::make_unique<Plan>(Plan::open(path, asked));
           }),
           py::arg("path"), py::arg("check") = py::none())
      .def("contents", &plan_contents)
      .def_property_readonly("section_names",
                             [](const Plan& plan) {
                               std::vector<std::string> names;
                               for (const Section& section : plan.sections) {
                                 names.push_back(section.name);
                               }
                               return names;
                             })
      .def(
          "section",
          [](const Plan& plan, const std::string& name) {
            return py::bytes(text_of(plan.section(name)));
          },
          py::arg("name"));
  py::class_<Engine, std::shared_ptr<Engine>> engine(m, "Engine");
  python::define_streams(m, engine);
  engine
      .def(
          py::init([](const Plan& plan, int threads, const std::string& precision,
                      const std::string& isa, const std::string& tactics, const std::string& device,
                      const std::vector<std::string>& folders, int frames_at_once) {
            py::gil_scoped_release release;
            return std::make_shared<Engine>(plan, EngineOptions{threads, frames_at_once, precision,
                                                                isa, tactics, device, folders});
          }),
          py::arg("plan"), py::arg("threads") = 0, py::arg("precision") = "", py::arg("isa") = "",
          py::arg("tactics") = "", py::arg("device") = "cpu",
          py::arg("folders") = std::vector<std::string>(), py::arg("frames_at_once") = 0)
      .def("predict", &predict, py::arg("image"), py::arg("pixel_format") = "",
           py::arg("roi") = py::none(), py::arg("ignore") = py::none(), py::arg("counted") = true)
      .def("warmup", &Engine::warmup, py::arg("n"), py::call_guard<py::gil_scoped_release>())
      .def("predict_batch", &predict_batch, py::arg("images"), py::arg("pixel_format") = "",
           py::arg("roi") = py::none(), py::arg("ignore") = py::none())
      .def("profile", &profile, py::arg("image"), py::arg("pixel_format"))
      .def("observe", &observe, py::arg("image"), py::arg("ranges"), py::arg("bins"),
           py::arg("pixel_format"))
      .def("memory", &memory, py::arg("height"), py::arg("width"))
      .def("describe", &describe);
  m.def(
      "read_plan", [](const std::string& path) { return plan_contents(Plan::open(path)); },
      py::arg("path"));
  m.def("run_graph", &run_graph, py::arg("path"), py::arg("inputs"), py::arg("precision") = "f32",
        py::arg("isa") = "", py::arg("lanes") = 1, py::arg("tactic") = "",
        py::arg("device") = "cpu", py::arg("folders") = std::vector<std::string>());
  m.def("regions", &regions, py::arg("map"), py::arg("threshold"), py::arg("min_peak"),
        py::arg("min_area"));
  py::list formats;
  for (const PixelFormat& format : pixel_formats) formats.append(format.name);
  m.attr("pixel_formats") = py::tuple(formats);
  m.def("native_bf16", &native_bf16);
  m.def("usable_processors", &usable_processors);
  m.attr("plan_version") = plan_version;
  m.attr("onednn_version") = std::to_string(dnnl::version()->major) + "." +
                             std::to_string(dnnl::version()->minor) + "." +
                             std::to_string(dnnl::version()->patch);
}
