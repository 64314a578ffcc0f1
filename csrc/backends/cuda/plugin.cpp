// What libadfast_cuda.so exports: the table of runtime/device_abi.h. Exceptions stop here.
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/session.h"
#include "core/error.h"
#include "runtime/device_abi.h"
#include "runtime/raw_values.h"

namespace adfast::cuda {
namespace {

void fill(adfast_device_error* error, ErrorKind kind, const char* message) {
  error->kind = static_cast<int32_t>(kind);
  std::snprintf(error->message, sizeof(error->message), "%s", message);
}

template <class Function>
int32_t guarded(adfast_device_error* error, Function function) noexcept {
  try {
    function();
    return 0;
  } catch (const Error& failure) {
    fill(error, failure.kind(), failure.what());
  } catch (const std::bad_alloc&) {
    fill(error, ErrorKind::run, "out of memory");
  } catch (const std::exception& failure) {
    fill(error, ErrorKind::run, failure.what());
  }
  return 1;
}

std::span<const std::byte> bytes_of(const void* data, size_t size) {
  return {static_cast<const std::byte*>(data), size};
}

// A session and why it does without the plan's engine.
struct Opened {
  std::unique_ptr<CudaSession> session;
  std::string note;
};

Graph graph_of(const adfast_device_plan& plan) {
  return read_graph(bytes_of(plan.graph, plan.graph_bytes),
                    bytes_of(plan.weights, plan.weights_bytes));
}

DType features_of(const std::string& precision) {
  if (precision == "f32") return DType::f32;
  if (precision == "f16") return DType::f16;
  if (precision == "bf16") return DType::bf16;
  throw Error(ErrorKind::argument,
              "precision is '" + precision + "', expected 'f32', 'f16' or 'bf16' on a CUDA device");
}

FrameView view_of(const adfast_device_frame& frame) {
  FrameView view;
  view.data = frame.data;
  view.height = frame.height;
  view.width = frame.width;
  view.row_stride = frame.row_stride;
  view.pixel_stride = frame.pixel_stride;
  view.channel_stride = frame.channel_stride;
  const PixelFormat* format = find_format(frame.pixel_format);
  if (format == nullptr) throw Error(ErrorKind::frame, "[predict] an unknown pixel format");
  view.format = *format;
  view.on_device = frame.on_device != 0;
  view.stream = frame.stream;
  return view;
}

int32_t count(adfast_device_error* error) {
  int found = 0;
  const cudaError_t status = cudaGetDeviceCount(&found);
  if (status == cudaSuccess) return found;
  cudaGetLastError();
  if (status == cudaErrorNoDevice) return 0;
  const char* remedy =
      status == cudaErrorInsufficientDriver
          ? "; install a driver of NVIDIA's for CUDA 13 (580 or newer), or load with device='cpu'"
          : "; load with device='cpu'";
  fill(error, ErrorKind::argument,
       (std::string("[cuda] no device can be used: ") + cudaGetErrorString(status) + remedy)
           .c_str());
  return -1;
}

std::unique_ptr<CudaSession> open_engine(const adfast_device_plan& plan,
                                         const adfast_device_options& options) {
  if (plan.engine == nullptr) {
    throw Error(ErrorKind::argument,
                "[tensorrt] the plan has no engine of TensorRT; make one on this machine with "
                "adfast build PLAN --target tensorrt, or load with device='cuda'");
  }
  const std::string asked = options.precision;
  if (!asked.empty() && asked != plan.engine_precision) {
    throw Error(ErrorKind::argument, "[tensorrt] precision='" + asked +
                                         "', and the plan's engine is in " + plan.engine_precision +
                                         "; leave precision out, or make another engine");
  }
  const EngineImage image{plan.engine_version, plan.engine_capability, plan.engine_precision,
                          plan.engine_plugins != 0, bytes_of(plan.engine, plan.engine_bytes)};
  return std::make_unique<CudaSession>(graph_of(plan), options.device, DType::f32, options.folders,
                                       &image);
}

Opened open(const adfast_device_plan& plan, const adfast_device_options& options) {
  Opened opened;
  const bool engine = plan.engine != nullptr && options.runner != ADFAST_RUNNER_KERNELS;
  if (engine || options.runner == ADFAST_RUNNER_TENSORRT) {
    try {
      opened.session = open_engine(plan, options);
      return opened;
    } catch (const Error& failure) {
      if (options.runner == ADFAST_RUNNER_TENSORRT || failure.kind() == ErrorKind::plan) throw;
      opened.note = failure.what();
    }
  }
  const std::string asked = options.precision;
  opened.session = std::make_unique<CudaSession>(
      graph_of(plan), options.device, features_of(asked.empty() ? options.plan_precision : asked),
      options.folders);
  return opened;
}

int32_t create(const adfast_device_plan* plan, const adfast_device_options* options, void** session,
               adfast_device_error* error) {
  return guarded(error, [&] { *session = new Opened(open(*plan, *options)); });
}

void destroy(void* session) { delete static_cast<Opened*>(session); }

CudaSession& session_of(void* session) { return *static_cast<Opened*>(session)->session; }

int32_t describe(void* session, adfast_device_info* info) {
  const SessionInfo found = session_of(session).info();
  std::snprintf(info->device, sizeof(info->device), "%s", found.device.c_str());
  const std::string& note = static_cast<Opened*>(session)->note;
  std::snprintf(info->note, sizeof(info->note), "%s", note.c_str());
  std::snprintf(info->processor, sizeof(info->processor), "%s", found.processor.c_str());
  std::snprintf(info->precision, sizeof(info->precision), "%s", found.precision.c_str());
  info->frame_memory = found.frame_memory;
  info->lanes = found.lanes;
  info->map_height = found.map_height;
  info->map_width = found.map_width;
  return 0;
}

int32_t predict(void* session, adfast_device_job* requests, size_t count,
                adfast_device_error* error) {
  return guarded(error, [&] {
    thread_local std::vector<Job> jobs;
    jobs.assign(count, {});
    for (size_t i = 0; i < count; ++i) {
      jobs[i].frame = view_of(requests[i].frame);
      jobs[i].map = requests[i].map;
      jobs[i].network_map = requests[i].network_map;
    }
    session_of(session).predict(jobs);
    for (size_t i = 0; i < count; ++i) {
      requests[i].score = jobs[i].score;
      requests[i].frame_ms = jobs[i].timings.frame;
      requests[i].network_ms = jobs[i].timings.network;
      requests[i].map_ms = jobs[i].timings.map;
      requests[i].total_ms = jobs[i].timings.total;
    }
  });
}

int32_t profile(void* session, const adfast_device_frame* frame,
                void (*step)(void*, const adfast_device_step*), void* context,
                adfast_device_error* error) {
  return guarded(error, [&] {
    for (const StepReport& report : session_of(session).profile(view_of(*frame))) {
      const adfast_device_step seen{report.op.c_str(), report.name.c_str(), report.kernel.c_str(),
                                    report.index,      report.lane,         report.milliseconds,
                                    report.begin,      report.gflop,        report.bytes};
      step(context, &seen);
    }
  });
}

// Libraries' handles take longer to make than an op to run. Kept until the process ends: the
// runtime may be gone before statics are destroyed.
Device& shared_device(const adfast_device_options& options) {
  static std::mutex mutex;
  static std::map<std::pair<int32_t, DType>, Device*> devices;
  const std::lock_guard lock(mutex);
  const DType features = features_of(options.precision);
  Device*& device = devices[{options.device, features}];
  if (device == nullptr) device = new Device(options.device, features, options.folders);
  device->enter();
  return *device;
}

// The graph has inputs of its own instead of a frame.
int32_t run_graph(const adfast_device_plan* plan, const adfast_device_options* options,
                  const adfast_device_tensor* inputs, int32_t count,
                  void (*output)(void*, const adfast_device_tensor*), void* context,
                  adfast_device_error* error) {
  return guarded(error, [&] {
    Device& device = shared_device(*options);
    const auto backend = make_cuda_backend(device);
    const Program program(graph_of(*plan), *backend);
    const Execution execution(program, device);
    RawInputs given;
    for (const adfast_device_tensor& input : std::span(inputs, static_cast<size_t>(count))) {
      Shape shape(input.shape, input.shape + input.rank);
      const auto elements = static_cast<size_t>(element_count(shape));
      given[input.name] = {std::move(shape), {input.values, elements}};
    }
    check_inputs(program, given);
    for (int32_t id : program.inputs()) {
      const std::vector<float> stored = in_storage(given.at(program.tensors()[id].name));
      copy_to_device(execution.data(id), stored.data(), stored.size() * sizeof(float));
    }
    execution.run_each([](int32_t) {});
    for (const auto& [role, id] : program.outputs()) {
      const Tensor& tensor = program.tensors()[id];
      std::vector<float> stored(static_cast<size_t>(element_count(tensor.shape)));
      check(cudaMemcpy(stored.data(), execution.data(id), stored.size() * sizeof(float),
                       cudaMemcpyDeviceToHost),
            "copying an output from the device");
      const RawOutput plain = in_row_major(tensor.shape, stored.data());
      const adfast_device_tensor made{role.c_str(), plain.shape.data(),
                                      static_cast<int32_t>(plain.shape.size()),
                                      plain.values.data()};
      output(context, &made);
    }
  });
}

}  // namespace
}  // namespace adfast::cuda

extern "C" __attribute__((visibility("default"))) const adfast_device_table* adfast_device(void) {
  using namespace adfast::cuda;
  static const adfast_device_table table = {ADFAST_DEVICE_ABI, "cuda",  count,   create,   destroy,
                                            describe,          predict, profile, run_graph};
  return &table;
}
