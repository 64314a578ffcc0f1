#include "backends/cuda/tensorrt.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <utility>

#include "backends/cuda/backend.h"
#include "core/error.h"
#include "core/text.h"

namespace adfast::cuda {
namespace {

constexpr char op_name[] = "tensorrt";

// "10.3.0" of 100300.
std::string version_text(int32_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100);
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::argument, "[tensorrt] " + what);
}

const char* const remedy =
    "; make it anew on this machine with adfast build PLAN --target tensorrt";

// Our plugins lie beside this library, or where vendors' libraries are looked for.
std::string plugin_path(const std::string& folders) {
  Dl_info info;
  std::string places = folders;
  if (dladdr(op_name, &info) != 0 && info.dli_fname != nullptr) {
    const std::string own = info.dli_fname;
    places += ":" + own.substr(0, own.rfind('/'));
  }
  for (const std::string& folder : split(places, ':')) {
    const std::string path = folder + "/libadfast_trt.so";
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  refuse(
      "the plan's engine has plugins of adfast, and there is no libadfast_trt.so: this adfast was "
      "built without it");
}

void register_plugins(void* library, const nvinfer::Places& places, const std::string& folders) {
  const auto find_registry =
      reinterpret_cast<nvinfer::Registry>(dlsym(library, nvinfer::registry_symbol));
  void* registry = find_registry == nullptr ? nullptr : find_registry();
  if (registry == nullptr) refuse("this libnvinfer has no registry of plugins");
  const auto known = [&] {
    const char *name = "AdfastHaloAttention", *version = "1", *space = "";
    return nvinfer::call_own<void*>(registry, places.get_creator, name, version, space) != nullptr;
  };
  if (known()) return;
  const std::string path = plugin_path(folders);
  nvinfer::call_own<void*>(registry, places.load_library, path.c_str());
  if (!known()) refuse("TensorRT does not take the plugins in " + path);
}

std::unique_ptr<Operator> make_engine_step(const OperatorRequest& request, Device& device) {
  using nvinfer::TensorMode;
  nodes::require(device.engine != nullptr, request.node,
                 "a plan's graph has no such op; upgrade adfast, or load with device='cpu'");
  const TensorRtEngine& engine = *device.engine;
  // As the frame lies in memory: channels last.
  const Shape& x = request.inputs[0]->shape;
  nodes::require(x.size() == 4, request.node, "reads a frame of " + to_string(x));
  engine.expect("image", TensorMode::input, {1, x[2], x[3], x[1]});
  engine.expect("map", TensorMode::output, request.outputs[0]->shape);
  engine.expect("score", TensorMode::output, request.outputs[1]->shape);
  return std::make_unique<SimpleOperator>(
      "tensorrt", 0, 0, [&engine, &device](const Binding& binding) {
        auto context = std::make_shared<TensorRtEngine::Context>(
            engine, binding.inputs[0], binding.outputs[0], binding.outputs[1]);
        void* stream = device.lane->stream;
        // TensorRT prepares itself in the first call, which a recording could not hold.
        context->enqueue(stream);
        check(cudaStreamSynchronize(device.lane->stream), "running TensorRT's engine");
        return [context, stream] { context->enqueue(stream); };
      });
}

}  // namespace

std::vector<Op> engine_ops() {
  return {{{op_name, 1, 1, 2, {OperandType::f32}, ResultType::f32}, make_engine_step}};
}

Graph engine_graph(const Graph& plan) {
  Graph graph;
  const auto copy = [&](int32_t id) {
    const Value& value = plan.values[static_cast<size_t>(id)];
    graph.values.push_back({value.name, value.shape, false, DType::f32, {}});
    return static_cast<int32_t>(graph.values.size()) - 1;
  };
  Node step;
  step.op = step.name = op_name;
  step.attrs.owner = "tensorrt";
  for (const Node& node : plan.nodes) {
    if (node.op != "frame" || node.outputs.size() != 1) continue;
    graph.nodes.push_back(node);
    graph.nodes.back().outputs = {copy(node.outputs[0])};
    step.inputs = graph.nodes.back().outputs;
  }
  for (const char* role : {"map", "score"}) {
    const int32_t id = plan.output(role);
    if (id < 0) continue;  // refused with the graph
    step.outputs.push_back(copy(id));
    graph.outputs.emplace_back(role, step.outputs.back());
  }
  graph.nodes.push_back(std::move(step));
  return graph;
}

// TensorRT 10 and 11 call loggers that are laid out differently; both tell the same ear.
class TensorRtEngine::Listener {
 public:
  Listener() : ten_(*this), eleven_(*this) {}
  void* logger(int major) {
    if (major == 10) return static_cast<nvinfer::Logger10*>(&ten_);
    return static_cast<nvinfer::Logger11*>(&eleven_);
  }
  std::string last() const {
    const std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  void hear(nvinfer::Severity severity, const char* message) noexcept {
    if (severity > nvinfer::Severity::error || message == nullptr) return;
    try {
      const std::lock_guard lock(mutex_);
      last_ = message;
    } catch (...) {  // without the reason then
    }
  }
  template <class Logger>
  struct Ear final : Logger {
    explicit Ear(Listener& listener) : listener_(listener) {}
    void log(nvinfer::Severity severity, const char* message) noexcept override {
      listener_.hear(severity, message);
    }
    Listener& listener_;
  };

  mutable std::mutex mutex_;
  std::string last_;
  Ear<nvinfer::Logger10> ten_;
  Ear<nvinfer::Logger11> eleven_;
};

TensorRtEngine::TensorRtEngine(const EngineImage& image, const std::string& capability,
                               const std::string& folders)
    : precision_(image.precision), listener_(std::make_unique<Listener>()) {
  const std::string made_by = "the plan's engine is of TensorRT " + image.version;
  const int major = std::atoi(image.version.c_str());
  if (nvinfer::least_minor(major) < 0) {
    refuse(made_by + ", this adfast knows 10 and 11" + remedy);
  }
  if (image.capability != capability) {
    refuse(made_by + " for compute capability " + image.capability + ", this card has " +
           capability + remedy);
  }
  void* library = open_tensorrt(major, folders);
  const auto version = reinterpret_cast<nvinfer::Version>(dlsym(library, nvinfer::version_symbol));
  const auto create =
      reinterpret_cast<nvinfer::CreateRuntime>(dlsym(library, nvinfer::create_runtime_symbol));
  if (version == nullptr || create == nullptr) refuse("this libnvinfer lacks what adfast calls");
  const int32_t number = version();
  // An engine runs in the very version that made it.
  if (version_text(number) != image.version) {
    refuse(made_by + ", this machine has " + version_text(number) + remedy);
  }
  if (number / 100 % 100 < nvinfer::least_minor(major)) {
    refuse("TensorRT " + image.version + " is too old, expected " + std::to_string(major) + "." +
           std::to_string(nvinfer::least_minor(major)) + " or newer");
  }
  places_ = &nvinfer::places_of(major);
  if (image.plugins) register_plugins(library, *places_, folders);
  runtime_ = create(listener_->logger(major), number);
  // Without a driver it gives a small number instead of an object.
  if (reinterpret_cast<uintptr_t>(runtime_) < 65536) {
    runtime_ = nullptr;
    refuse("TensorRT " + image.version + " does not start" + last_error());
  }
  engine_ = nvinfer::call<void*>(runtime_, nvinfer::deserialize,
                                 static_cast<const void*>(image.bytes.data()), image.bytes.size());
  if (engine_ == nullptr) {
    const std::string reason = last_error();
    nvinfer::destroy(std::exchange(runtime_, nullptr));
    refuse("TensorRT " + image.version + " refuses the plan's engine" + reason + remedy);
  }
}

TensorRtEngine::~TensorRtEngine() {
  if (engine_ != nullptr) nvinfer::destroy(engine_);
  if (runtime_ != nullptr) nvinfer::destroy(runtime_);
}

std::string TensorRtEngine::last_error() const {
  const std::string last = listener_->last();
  return last.empty() ? "" : " (" + last + ")";
}

size_t TensorRtEngine::context_bytes() const {
  const auto bytes = nvinfer::call<int64_t>(engine_, places_->memory);
  return bytes < 0 ? 0 : static_cast<size_t>(bytes);
}

void TensorRtEngine::expect(const char* name, nvinfer::TensorMode mode, const Shape& shape) const {
  const auto count = nvinfer::call<int32_t>(engine_, places_->tensor_count);
  bool found = false;
  for (int32_t i = 0; i < count && count == 3; ++i) {
    const auto* other = nvinfer::call<const char*>(engine_, places_->tensor_name, i);
    found = found || (other != nullptr && std::strcmp(other, name) == 0);
  }
  const std::string wanted = std::string("'") + name + "' " + to_string(shape) + " of f32";
  if (!found) {
    refuse("the plan's engine has not the values image, map and score, and no others: expected " +
           wanted + remedy);
  }
  const auto dims = nvinfer::call<nvinfer::Dims>(engine_, places_->tensor_shape, name);
  const bool known = dims.rank >= 0 && dims.rank <= 8;
  const Shape has = known ? Shape(dims.sides, dims.sides + dims.rank) : Shape();
  if (has != shape ||
      nvinfer::call<nvinfer::DataType>(engine_, places_->tensor_type, name) !=
          nvinfer::DataType::f32 ||
      nvinfer::call<nvinfer::TensorMode>(engine_, places_->tensor_mode, name) != mode) {
    refuse(std::string("the plan's engine has '") + name + "' " + to_string(has) + ", expected " +
           wanted + ": it is another network's" + remedy);
  }
}

TensorRtEngine::Context::Context(const TensorRtEngine& engine, void* image, void* map, void* score)
    : engine_(engine) {
  context_ = nvinfer::call<void*>(engine.engine_, engine.places_->create_context, int32_t{0});
  if (context_ == nullptr) {
    throw Error(ErrorKind::run, "[tensorrt] no execution context" + engine.last_error() +
                                    "; close what else uses the card, or load fewer plans on it");
  }
  const std::pair<const char*, void*> values[] = {{"image", image}, {"map", map}, {"score", score}};
  for (const auto& [name, address] : values) {
    if (!nvinfer::call<bool>(context_, engine.places_->set_address, name, address)) {
      nvinfer::destroy(std::exchange(context_, nullptr));
      throw Error(ErrorKind::run,
                  std::string("[tensorrt] '") + name + "' takes no address" + engine.last_error());
    }
  }
}

TensorRtEngine::Context::~Context() {
  if (context_ != nullptr) nvinfer::destroy(context_);
}

void TensorRtEngine::Context::enqueue(void* stream) const {
  if (nvinfer::call<bool>(context_, engine_.places_->enqueue, stream)) return;
  throw Error(ErrorKind::run, "[tensorrt] the engine does not run" + engine_.last_error());
}

}  // namespace adfast::cuda
