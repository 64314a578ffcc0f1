#include "runtime/program.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>
#include <optional>

#include "core/error.h"

namespace adfast {
namespace {

double now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(time).count();
}

// Rough rates are enough: only which chain is longer, and by how much, matters.
double expected_seconds(double flops, double bytes) {
  constexpr double flops_per_second = 2e11, bytes_per_second = 2e10, seconds_per_call = 1e-6;
  return seconds_per_call + flops / flops_per_second + bytes / bytes_per_second;
}

}  // namespace

Program::Program(const Graph& graph, const Backend& backend) {
  // Every operand may need a copy of another type, and none of them may move the others.
  size_t operands = 0;
  for (const Node& node : graph.nodes) operands += node.inputs.size();
  tensors_.reserve(graph.values.size() + operands + graph.outputs.size());
  for (const Value& value : graph.values) {
    tensors_.push_back({value.name, value.shape, value.type, value.constant, value.data});
  }
  // How all readers of a value want it; none where they differ or take it as it comes.
  std::vector<std::optional<Storage>> wanted(graph.values.size());
  std::vector<int> readers(graph.values.size());
  const auto want = [&](int32_t id, const std::optional<Storage>& storage) {
    if (readers[id] == 0) wanted[id] = storage;
    if (wanted[id] != storage) wanted[id] = std::nullopt;
    ++readers[id];
  };
  const auto request_of = [&](const Node& node) {
    OperatorRequest request{node, {}, {}};
    for (int32_t id : node.inputs) request.inputs.push_back(id < 0 ? nullptr : &tensors_[id]);
    for (int32_t id : node.outputs) request.outputs.push_back(&tensors_[id]);
    return request;
  };
  for (const auto& [role, id] : graph.outputs) want(id, std::nullopt);
  // From the last node to the first, so that a result's readers are known before its input's.
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
    const OperatorRequest request = request_of(*node);
    for (size_t i = 0; i < node->inputs.size(); ++i) {
      const int32_t id = node->inputs[i];
      if (id < 0) continue;
      // Without results it is refused when it is made.
      const bool moved = i == 0 && !node->outputs.empty() && backend.moves_elements(*node);
      want(id, moved ? wanted[node->outputs[0]] : backend.operand_storage(request, i));
    }
  }
  // A node as it will be computed: operands converted where they must be, results' types settled.
  struct Settled {
    OperatorRequest request;
    std::vector<int32_t> inputs;
  };
  const auto settle = [&](const Node& node) {
    Settled settled{{node, {}, {}}, node.inputs};
    const OperatorRequest request = request_of(node);
    for (size_t i = 0; i < settled.inputs.size(); ++i) {
      int32_t& id = settled.inputs[i];
      if (id >= 0 && !tensors_[id].constant) {
        const auto storage = backend.operand_storage(request, i);
        if (storage) id = stored(id, *storage, backend);
      }
      settled.request.inputs.push_back(id < 0 ? nullptr : &tensors_[id]);
    }
    for (int32_t id : node.outputs) settled.request.outputs.push_back(&tensors_[id]);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const Storage storage = backend.result_storage(settled.request, i, wanted[node.outputs[i]]);
      settled.request.outputs[i]->dtype = storage.dtype;
      settled.request.outputs[i]->levels = storage.levels;
    }
    return settled;
  };
  // Whether only the node's successor reads its result, as its first input and as it is stored.
  const auto read_next_alone = [&](const Node& node, const Node& next) {
    if (node.outputs.size() != 1 || next.inputs.empty() || next.inputs[0] != node.outputs[0] ||
        readers[node.outputs[0]] != 1) {
      return false;
    }
    const Tensor& between = tensors_[node.outputs[0]];
    const auto storage = backend.operand_storage(request_of(next), 0);
    return !storage || *storage == Storage{between.dtype, between.levels};
  };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    Settled settled = settle(node);
    if (i + 1 < graph.nodes.size() && read_next_alone(node, graph.nodes[i + 1])) {
      const Node& next = graph.nodes[i + 1];
      const Settled second = settle(next);
      if (auto joined = backend.make_joined(settled.request, second.request)) {
        settled.inputs.insert(settled.inputs.end(), second.inputs.begin() + 1, second.inputs.end());
        steps_.push_back({next.op, node.name + " + " + next.name, std::move(joined),
                          std::move(settled.inputs), next.outputs});
        ++i;
        continue;
      }
    }
    steps_.push_back({node.op, node.name, backend.make(settled.request), std::move(settled.inputs),
                      node.outputs});
  }
  inputs_ = graph.inputs;
  outputs_ = graph.outputs;
  for (auto& [role, id] : outputs_) id = stored(id, {DType::f32, {}}, backend);
  // The packed weights are the operators' own; the plan's bytes may go.
  for (Tensor& tensor : tensors_) tensor.data = {};
}

int32_t Program::stored(int32_t tensor, const Storage& storage, const Backend& backend) {
  const auto fits = [&](int32_t id) {
    return Storage{tensors_[id].dtype, tensors_[id].levels} == storage;
  };
  if (tensors_[tensor].constant || fits(tensor)) return tensor;
  for (const auto& [from, to] : copies_) {
    if (from == tensor && fits(to)) return to;
  }
  Tensor result = tensors_[tensor];
  result.dtype = storage.dtype;
  result.levels = storage.levels;
  static constexpr const char* names[] = {".f32", ".bf16", ".i32", ".u8", ".f16"};
  result.name += names[static_cast<int>(storage.dtype)];
  const auto id = static_cast<int32_t>(tensors_.size());
  auto convert = backend.make_conversion(tensors_[tensor], result);
  steps_.push_back({"convert", result.name, std::move(convert), {tensor}, {id}});
  tensors_.push_back(std::move(result));
  copies_.emplace_back(tensor, id);
  return id;
}

int32_t Program::output(std::string_view role) const {
  for (const auto& [name, id] : outputs_) {
    if (name == role) return id;
  }
  return -1;
}

std::vector<StepNeeds> Program::needs() const {
  std::vector<int32_t> writer(tensors_.size(), -1);
  std::vector<StepNeeds> needs(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    double bytes = 0;
    for (int32_t id : steps_[i].inputs) {
      if (id < 0) continue;
      bytes += static_cast<double>(tensors_[id].bytes());
      if (writer[id] >= 0) needs[i].producers.push_back(writer[id]);
    }
    for (int32_t id : steps_[i].outputs) {
      bytes += static_cast<double>(tensors_[id].bytes());
      writer[id] = static_cast<int32_t>(i);
    }
    needs[i].seconds = expected_seconds(steps_[i].run->flops(), bytes);
  }
  return needs;
}

std::vector<StepNeeds> expected_needs(const Graph& graph) {
  const auto size = [&](int32_t id) {
    return id < 0 ? 0.0 : static_cast<double>(element_count(graph.values[id].shape));
  };
  std::vector<int32_t> writer(graph.values.size(), -1);
  std::vector<StepNeeds> needs(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    double elements = 0, results = 0;
    for (int32_t id : node.inputs) {
      elements += size(id);
      if (id >= 0 && writer[id] >= 0) needs[i].producers.push_back(writer[id]);
    }
    for (int32_t id : node.outputs) {
      results += size(id);
      writer[id] = static_cast<int32_t>(i);
    }
    // A constant matrix or kernel: every result is the sum of a row's products.
    double flops = 0;
    const int32_t weight = node.inputs.size() > 1 ? node.inputs[1] : -1;
    if (weight >= 0 && graph.values[weight].constant && graph.values[weight].shape.size() > 1) {
      const auto rows = static_cast<double>(graph.values[weight].shape[0]);
      flops = 2 * results * size(weight) / std::max(rows, 1.0);
    }
    needs[i].seconds = expected_seconds(flops, sizeof(float) * (elements + results));
  }
  return needs;
}

size_t Program::packed_bytes() const {
  size_t bytes = 0;
  for (const Step& step : steps_) bytes += step.run->packed_bytes();
  return bytes;
}

double Program::traffic(const Step& step) const {
  const size_t packed = step.run->packed_bytes();
  size_t bytes = packed;
  for (int32_t id : step.inputs) {
    if (id >= 0 && !(tensors_[id].constant && packed > 0)) bytes += tensors_[id].bytes();
  }
  for (int32_t id : step.outputs) bytes += tensors_[id].bytes();
  return static_cast<double>(bytes);
}

DetectorOutputs detector_outputs(const Program& program) {
  DetectorOutputs outputs{program.output("map"), program.output("score")};
  if (outputs.map < 0 || outputs.score < 0) {
    throw Error(ErrorKind::plan, "the graph lacks the output 'map' or 'score'");
  }
  const Shape& map = program.tensors()[outputs.map].shape;
  const Shape& score = program.tensors()[outputs.score].shape;
  if (map.size() != 4 || map[0] != 1 || map[1] != 1 || element_count(score) != 1) {
    throw Error(ErrorKind::plan, "outputs map " + to_string(map) + " and score " +
                                     to_string(score) + ", expected [1,1,H,W] and [1]");
  }
  outputs.height = map[2];
  outputs.width = map[3];
  return outputs;
}

FrameGeometry frame_geometry(const Graph& graph) {
  if (!graph.inputs.empty()) {
    throw Error(ErrorKind::plan, "the graph has " + std::to_string(graph.inputs.size()) +
                                     " inputs, expected none: a detector takes the frame alone");
  }
  const auto is_frame = [](const Node& node) { return node.op == "frame"; };
  const auto frames = std::count_if(graph.nodes.begin(), graph.nodes.end(), is_frame);
  if (frames == 0) {
    throw Error(ErrorKind::plan, "the graph has no 'frame' op, so it cannot take an image");
  }
  // Each would read the weights of the first one's size.
  if (frames > 1) {
    throw Error(ErrorKind::plan,
                "the graph has " + std::to_string(frames) + " 'frame' ops, expected one");
  }
  const Node& node = *std::find_if(graph.nodes.begin(), graph.nodes.end(), is_frame);
  const auto resize = node.attrs.integers("resize", 2, 1, max_frame_side);
  const auto crop = node.attrs.integers("crop", 2, 1, max_frame_side);
  if (crop[0] > resize[0] || crop[1] > resize[1]) {
    throw Error(ErrorKind::plan, "[frame '" + node.name + "'] crop " + to_string(crop) +
                                     " is larger than resize " + to_string(resize));
  }
  return {resize[0], resize[1], crop[0], crop[1], node.attrs.integer("antialias") != 0};
}

ArenaLayout arena_layout(const Program& program, const Schedule& schedule, size_t granularity) {
  const auto& tensors = program.tensors();
  const auto& steps = program.steps();
  const auto whole = [&](size_t bytes) {
    return (bytes + granularity - 1) / granularity * granularity;
  };
  // Items of the arena: every tensor that is not constant, then every step's scratch.
  std::vector<ArenaItem> items(tensors.size() + steps.size());
  for (size_t s = 0; s < steps.size(); ++s) {
    const auto step = static_cast<int32_t>(s);
    for (int32_t id : steps[s].inputs) {
      if (id >= 0) items[id].readers.push_back(step);
    }
    for (int32_t id : steps[s].outputs) {
      items[id].writer = step;
      items[id].bytes = whole(tensors[id].bytes());
    }
    ArenaItem& scratch = items[tensors.size() + s];
    scratch.bytes = whole(steps[s].run->scratch_bytes());
    scratch.writer = step;
  }
  for (const auto& [role, id] : program.outputs()) items[id].kept = true;
  for (int32_t id : program.inputs()) {
    items[id].kept = true;
    items[id].bytes = whole(tensors[id].bytes());
  }

  return plan_arena(items, schedule);
}

Context::Context(const Program& program, const HostBackend& backend, int lanes,
                 const FrameGeometry& geometry)
    : backend_(backend),
      schedule_(make_schedule(program.needs(), lanes)),
      frame_(geometry),
      done_(program.steps().size()) {
  const auto& tensors = program.tensors();
  const auto& steps = program.steps();
  ArenaLayout layout = arena_layout(program, schedule_);
  offsets_ = std::move(layout.offsets);
  arena_bytes_ = (layout.bytes + 4095) / 4096 * 4096;
  arena_.reset(std::aligned_alloc(4096, std::max<size_t>(arena_bytes_, 4096)));
  if (!arena_) {
    throw Error(ErrorKind::run, "out of memory: the plan needs " +
                                    std::to_string(arena_bytes_ >> 20) + " MB per frame in work");
  }
  for (size_t s = 0; s < steps.size(); ++s) {
    Binding binding;
    const auto address = [&](int32_t id) -> void* {
      return id < 0 || tensors[id].constant ? nullptr : data(id);
    };
    for (int32_t id : steps[s].inputs) binding.inputs.push_back(address(id));
    for (int32_t id : steps[s].outputs) binding.outputs.push_back(address(id));
    binding.scratch = data(static_cast<int32_t>(tensors.size() + s));
    binding.frame = &frame_;
    calls_.push_back(steps[s].run->bind(binding));
    names_.push_back("[" + steps[s].op + " '" + steps[s].name + "'] ");
  }
}

void* Context::data(int32_t tensor) const {
  return static_cast<std::byte*>(arena_.get()) + offsets_[tensor];
}

void Context::run(Workers* workers, int threads, std::vector<StepTime>* times, const Seen& seen) {
  ++round_;
  failed_.store(false, std::memory_order_relaxed);
  if (times != nullptr) times->assign(calls_.size(), {});
  if (lanes() == 1) {
    run_lane(0, threads, times, seen);
  } else {
    // A std::function of a reference needs no memory, whatever the task captures.
    const auto task = [&](int lane) { run_lane(lane, threads, times, seen); };
    workers->run(lanes(), std::ref(task));
  }
  if (failed_.load()) throw Error(ErrorKind::run, failure_);
}

void Context::run_lane(int lane, int threads, std::vector<StepTime>* times,
                       const Seen& seen) noexcept {
  const uint64_t state = backend_.enter_thread(threads);
  for (int32_t step : schedule_.lanes[lane]) {
    for (int32_t other : schedule_.waits[step]) wait_for(done_[other], round_);
    // After a failure the lanes still walk to their ends, so that nobody waits for ever.
    if (!failed_.load(std::memory_order_relaxed)) {
      const double begin = times != nullptr ? now() : 0;
      try {
        calls_[step]();
        if (seen) seen(step);
      } catch (const std::exception& error) {
        if (!failed_.exchange(true)) failure_ = names_[step] + error.what();
      }
      if (times != nullptr) (*times)[step] = {begin, now(), lane};
    }
    if (schedule_.awaited[step]) {
      done_[step].store(round_, std::memory_order_release);
      done_[step].notify_all();
    }
  }
  backend_.leave_thread(state);
}

}  // namespace adfast
