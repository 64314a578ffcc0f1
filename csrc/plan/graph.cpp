#include "plan/graph.h"

#include "core/error.h"
#include "plan/byte_reader.h"

namespace adfast {
namespace {

constexpr uint32_t max_rank = 8;
// What kernels index with 32 bits stays within them.
constexpr int64_t max_elements = (int64_t{1} << 31) - 1;
constexpr uint32_t max_records = 1 << 20;  // values, nodes, outputs

Shape read_shape(ByteReader& in, uint32_t rank, const std::string& name) {
  Shape shape(rank);
  int64_t count = 1;
  for (int64_t& dim : shape) {
    dim = in.number<int64_t>();
    if (dim < 1 || dim > max_elements) {
      in.fail("value '" + name + "' has a dimension of " + std::to_string(dim) +
              ", expected 1 to " + std::to_string(max_elements));
    }
    if (count > max_elements / dim) {
      in.fail("value '" + name + "' has too many elements, expected at most " +
              std::to_string(max_elements));
    }
    count *= dim;
  }
  return shape;
}

// A count of records that stand for larger things in memory than in the file.
uint32_t read_count(ByteReader& in, size_t least, const char* what) {
  const uint32_t count = in.count(least);
  if (count > max_records) {
    in.fail(std::to_string(count) + ' ' + what + ", expected at most " +
            std::to_string(max_records));
  }
  return count;
}

std::vector<int32_t> read_ids(ByteReader& in, size_t values, bool may_be_absent) {
  std::vector<int32_t> ids = in.numbers<int32_t>();
  for (int32_t id : ids) {
    if (id < (may_be_absent ? -1 : 0) || id >= static_cast<int64_t>(values)) {
      in.fail("value number " + std::to_string(id) + " of " + std::to_string(values));
    }
  }
  return ids;
}

// Every value is set exactly once, before it is used: the property the runtime's planning rests on.
void check_order(const Graph& graph, const ByteReader& in) {
  std::vector<bool> set(graph.values.size());
  for (size_t i = 0; i < set.size(); ++i) set[i] = graph.values[i].constant;
  const auto define = [&](int32_t id) {
    if (set[id]) in.fail("value '" + graph.values[id].name + "' is set twice");
    set[id] = true;
  };
  const auto use = [&](int32_t id) {
    if (!set[id]) in.fail("value '" + graph.values[id].name + "' is used before it is set");
  };
  for (int32_t id : graph.inputs) define(id);
  for (const Node& node : graph.nodes) {
    for (int32_t id : node.inputs) {
      if (id >= 0) use(id);
    }
    for (int32_t id : node.outputs) define(id);
  }
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    use(graph.outputs[i].second);
    if (graph.output(graph.outputs[i].first) != graph.outputs[i].second) {
      in.fail("output '" + graph.outputs[i].first + "' twice");
    }
  }
}

}  // namespace

std::optional<Levels> Node::input_levels() const {
  if (!attrs.has("input_scale")) return std::nullopt;
  const auto scale = static_cast<float>(attrs.real("input_scale"));
  const int64_t zero = attrs.integer("input_zero");
  // Reciprocals and products of scales must be floats too.
  if (!(scale >= 1e-18f && scale <= 1e18f) || zero < 0 || zero > 255) {
    throw Error(ErrorKind::plan, "[" + attrs.owner + "] is quantised with scale " +
                                     std::to_string(scale) + " and zero " + std::to_string(zero) +
                                     ", expected 1e-18 to 1e18 and 0 to 255");
  }
  return Levels{scale, static_cast<int32_t>(zero)};
}

int32_t Graph::output(std::string_view role) const {
  for (const auto& [name, id] : outputs) {
    if (name == role) return id;
  }
  return -1;
}

Graph read_graph(std::span<const std::byte> bytes, std::span<const std::byte> weights) {
  ByteReader in(bytes, "graph");
  Graph graph;
  graph.values.resize(read_count(in, 8, "values"));
  for (Value& value : graph.values) {
    value.name = in.text();
    const auto dtype = in.number<uint8_t>();
    const auto kind = in.number<uint8_t>();
    const auto rank = in.number<uint8_t>();
    const auto zero = in.number<uint8_t>();
    if (dtype > 1 || kind > 1 || dtype > kind || rank > max_rank || zero != 0) {
      in.fail("value '" + value.name + "' has an unknown type, kind or rank");
    }
    value.shape = read_shape(in, rank, value.name);
    value.constant = kind == 1;
    if (dtype == 1) value.type = DType::i32;
    if (!value.constant) continue;
    const auto offset = in.number<uint64_t>();
    const auto size = in.number<uint64_t>();
    const auto expected = static_cast<uint64_t>(element_count(value.shape)) * 4;
    if (size != expected || offset % 64 != 0 || offset > weights.size() ||
        size > weights.size() - offset) {
      in.fail("constant '" + value.name + "' " + to_string(value.shape) + " lies at " +
              std::to_string(offset) + " with " + std::to_string(size) + " bytes, expected " +
              std::to_string(expected) + " bytes within the section 'weights'");
    }
    value.data = weights.subspan(offset, size);
  }
  graph.nodes.resize(read_count(in, 20, "nodes"));
  for (Node& node : graph.nodes) {
    node.op = in.text();
    node.name = in.text();
    node.inputs = read_ids(in, graph.values.size(), true);
    node.outputs = read_ids(in, graph.values.size(), false);
    node.attrs = read_table(in, node.op + " '" + node.name + "'");
    if (node.input_levels() && node.op != "conv2d" && node.op != "linear") {
      in.fail(node.attrs.owner + " has a quantised input; only conv2d and linear may");
    }
  }
  graph.inputs = read_ids(in, graph.values.size(), false);
  graph.outputs.resize(read_count(in, 8, "outputs"));
  for (auto& [role, id] : graph.outputs) {
    role = in.text();
    id = in.number<int32_t>();
    if (id < 0 || id >= static_cast<int64_t>(graph.values.size())) {
      in.fail("output '" + role + "' names value " + std::to_string(id));
    }
  }
  in.expect_end();
  check_order(graph, in);
  return graph;
}

}  // namespace adfast
