// The network of a plan: values, and the steps that compute one from others.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "plan/table.h"

namespace adfast {

struct Value {
  std::string name;
  Shape shape;
  bool constant = false;
  DType type = DType::f32;          // i32 for constant indices
  std::span<const std::byte> data;  // of constants only
};

struct Node {
  std::string op;
  std::string name;
  std::vector<int32_t> inputs;  // -1: absent
  std::vector<int32_t> outputs;
  Table attrs;

  // How the first input is stored where the step runs in int8; none: it never does.
  std::optional<Levels> input_levels() const;
};

struct Graph {
  std::vector<Value> values;
  std::vector<Node> nodes;  // in an order in which they can run
  std::vector<int32_t> inputs;
  std::vector<std::pair<std::string, int32_t>> outputs;  // role, value

  int32_t output(std::string_view role) const;  // -1 when there is none
};

std::string print(const Graph& graph);

// Parses the plan's sections of these names; the constants stay where they are in `weights`.
Graph read_graph(std::span<const std::byte> graph, std::span<const std::byte> weights);

}  // namespace adfast
