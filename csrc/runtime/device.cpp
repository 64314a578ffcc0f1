#include "runtime/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

#include "core/error.h"
#include "runtime/device_abi.h"

namespace adfast {
namespace {

// An address within this library, for dladdr.
void here() {}

std::string own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&here), &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

struct Plugin {
  const adfast_device_table* table;
  std::string path;
};

// Opened libraries stay open: a device's runtime does not survive being unloaded.
Plugin open_plugin(const std::string& name, const std::vector<std::string>& folders) {
  const std::string file = "libadfast_" + name + ".so";
  std::vector<std::string> places = folders;
  places.push_back(own_folder());
  places.push_back(own_folder() + "/lib");
  std::string path;
  for (const std::string& folder : places) {
    if (access((folder + "/" + file).c_str(), R_OK) != 0) continue;
    path = folder + "/" + file;
    break;
  }
  if (path.empty()) {
    throw Error(ErrorKind::argument,
                "device='" + name + "': this adfast was built without it (no " + file +
                    "); build it where a CUDA compiler is at hand, or load with device='cpu'");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(ErrorKind::argument, std::string("device='") + name + "': " + dlerror());
  }
  const auto function =
      reinterpret_cast<adfast_device_function>(dlsym(library, ADFAST_DEVICE_SYMBOL));
  const adfast_device_table* table = function == nullptr ? nullptr : function();
  if (table == nullptr || table->abi != ADFAST_DEVICE_ABI) {
    throw Error(ErrorKind::argument,
                path + " is of another version of adfast (its table has number " +
                    (table == nullptr ? "none" : std::to_string(table->abi)) + ", expected " +
                    std::to_string(ADFAST_DEVICE_ABI) + "); install both from one build");
  }
  return {table, path};
}

[[noreturn]] void rethrow(const adfast_device_error& error) {
  throw Error(static_cast<ErrorKind>(error.kind), error.message);
}

// "cuda:1" is device 1 of the plugin "cuda", and so is "tensorrt:1", with the plan's engine.
struct Choice {
  std::string plugin;
  int32_t runner = ADFAST_RUNNER_ANY;
  int32_t device = 0;
};

Choice parse(const std::string& device) {
  if (device == "auto") return {"cuda"};
  const size_t colon = device.find(':');
  const std::string name = device.substr(0, colon);
  Choice choice{name, ADFAST_RUNNER_KERNELS};
  if (name == "tensorrt") choice = {"cuda", ADFAST_RUNNER_TENSORRT};
  if (colon == std::string::npos) return choice;
  const std::string number = device.substr(colon + 1);
  if (number.empty() || number.size() > 3 ||
      number.find_first_not_of("0123456789") != std::string::npos) {
    throw Error(ErrorKind::argument,
                "device is '" + device + "', expected a number after the colon, as in 'cuda:0'");
  }
  choice.device = static_cast<int32_t>(std::stoi(number));
  return choice;
}

Plugin open_device(const Choice& choice, const std::vector<std::string>& folders) {
  const Plugin plugin = open_plugin(choice.plugin, folders);
  adfast_device_error error{};
  const int32_t count = plugin.table->count(&error);
  if (count < 0) rethrow(error);
  if (choice.device >= count) {
    throw Error(ErrorKind::argument, "device " + std::to_string(choice.device) +
                                         ": this machine has " + std::to_string(count) +
                                         " device(s) of '" + choice.plugin + "'");
  }
  return plugin;
}

std::string joined(const std::vector<std::string>& folders) {
  std::string text;
  for (const std::string& folder : folders) text += (text.empty() ? "" : ":") + folder;
  return text;
}

adfast_device_plan view_of(const Plan& plan) {
  const auto graph = plan.section("graph"), weights = plan.section("weights");
  adfast_device_plan view{};
  view.graph = graph.data();
  view.graph_bytes = graph.size();
  view.weights = weights.data();
  view.weights_bytes = weights.size();
  if (const auto& engine = plan.tensorrt) {
    view.engine = engine->bytes.data();
    view.engine_bytes = engine->bytes.size();
    view.engine_version = engine->version.c_str();
    view.engine_capability = engine->capability.c_str();
    view.engine_precision = engine->precision.c_str();
    view.engine_plugins = engine->plugins ? 1 : 0;
  }
  return view;
}

adfast_device_frame view_of(const FrameView& frame) {
  return {frame.data,         frame.height,         frame.width,       frame.row_stride,
          frame.pixel_stride, frame.channel_stride, frame.format.code, frame.on_device ? 1 : 0,
          frame.stream};
}

class DeviceSession final : public Session {
 public:
  DeviceSession(const Plan& plan, const EngineOptions& options) : process_(getpid()) {
    const Choice choice = parse(options.device);
    const Plugin plugin = open_device(choice, options.folders);
    table_ = plugin.table;
    // A plan's own precision is a wish: int8 steps run in bf16 here.
    std::string precision = plan.fields.text("precision");
    if (precision == "int8") precision = "bf16";
    const std::string folders = joined(options.folders);
    const adfast_device_options chosen{options.precision.c_str(), precision.c_str(),
                                       folders.c_str(), choice.device, choice.runner};
    const adfast_device_plan view = view_of(plan);
    adfast_device_error error{};
    if (table_->create(&view, &chosen, &session_, &error) != 0) rethrow(error);
  }
  ~DeviceSession() override {
    if (getpid() == process_) table_->destroy(session_);
  }
  DeviceSession(const DeviceSession&) = delete;
  DeviceSession& operator=(const DeviceSession&) = delete;

  SessionInfo info() const override {
    adfast_device_info found{};
    table_->describe(session_, &found);
    SessionInfo info;
    info.device = found.device;
    info.note = found.note;
    info.processor = found.processor;
    info.precision = found.precision;
    info.isa = table_->name;
    info.frame_memory = found.frame_memory;
    info.lanes = info.frames_at_once = found.lanes;
    info.map_height = found.map_height;
    info.map_width = found.map_width;
    return info;
  }

  void check() const override {
    if (getpid() != process_) {
      throw Error(ErrorKind::run,
                  "[predict] the engine was loaded before this process was forked, and a device "
                  "does not follow into it; load the plan in the new process");
    }
  }

  void predict(Job& job) override { predict_batch({&job, 1}); }

  void predict_batch(std::span<Job> jobs) override {
    requests_.assign(jobs.size(), {});
    for (size_t i = 0; i < jobs.size(); ++i) {
      requests_[i].frame = view_of(jobs[i].frame);
      requests_[i].network_map = jobs[i].network_map;
      requests_[i].map = jobs[i].map;
    }
    adfast_device_error error{};
    if (table_->predict(session_, requests_.data(), jobs.size(), &error) != 0) rethrow(error);
    for (size_t i = 0; i < jobs.size(); ++i) {
      const adfast_device_job& done = requests_[i];
      jobs[i].score = done.score;
      jobs[i].timings = {done.frame_ms, done.network_ms, done.map_ms, done.total_ms};
    }
  }

  std::vector<StepReport> profile(const FrameView& frame) override {
    std::vector<StepReport> reports;
    const auto take = [](void* context, const adfast_device_step* step) {
      static_cast<std::vector<StepReport>*>(context)->push_back(
          {step->op, step->name, step->kernel, step->index, step->lane, step->milliseconds,
           step->begin_ms, step->gflop, step->bytes});
    };
    const adfast_device_frame view = view_of(frame);
    adfast_device_error error{};
    if (table_->profile(session_, &view, take, &reports, &error) != 0) rethrow(error);
    return reports;
  }

 private:
  pid_t process_;
  const adfast_device_table* table_ = nullptr;
  void* session_ = nullptr;
  std::vector<adfast_device_job> requests_;  // kept, so that a frame allocates nothing
};

}  // namespace

std::unique_ptr<Session> make_device_session(const Plan& plan, const EngineOptions& options) {
  return std::make_unique<DeviceSession>(plan, options);
}

std::map<std::string, RawOutput> run_raw_on_device(const std::string& path, const RawInputs& inputs,
                                                   const EngineOptions& options) {
  const Plan plan = Plan::open(path);
  const Choice choice = parse(options.device);
  const Plugin plugin = open_device(choice, options.folders);
  const std::string folders = joined(options.folders);
  const adfast_device_options chosen{options.precision.c_str(), "f32", folders.c_str(),
                                     choice.device, ADFAST_RUNNER_KERNELS};
  const adfast_device_plan view = view_of(plan);
  std::vector<adfast_device_tensor> tensors;
  for (const auto& [name, input] : inputs) {
    tensors.push_back({name.c_str(), input.shape.data(), static_cast<int32_t>(input.shape.size()),
                       input.values.data()});
  }
  std::map<std::string, RawOutput> outputs;
  const auto take = [](void* context, const adfast_device_tensor* tensor) {
    RawOutput output;
    output.shape.assign(tensor->shape, tensor->shape + tensor->rank);
    output.values.assign(tensor->values, tensor->values + element_count(output.shape));
    static_cast<std::map<std::string, RawOutput>*>(context)->emplace(tensor->name,
                                                                     std::move(output));
  };
  adfast_device_error error{};
  if (plugin.table->run_graph(&view, &chosen, tensors.data(), static_cast<int32_t>(tensors.size()),
                              take, &outputs, &error) != 0) {
    rethrow(error);
  }
  return outputs;
}

}  // namespace adfast
