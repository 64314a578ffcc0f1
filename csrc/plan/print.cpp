// A graph as text, a line per node: what `adfast info --graph` shows.
#include <cstdio>

#include "plan/graph.h"

namespace adfast {
namespace {

std::string text(int64_t value) { return std::to_string(value); }
std::string text(double value) {
  char digits[32];
  std::snprintf(digits, sizeof(digits), "%g", value);
  return digits;
}
std::string text(const std::string& value) { return value; }
template <class T>
std::string text(const std::vector<T>& values) {
  std::string list = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) list += ',';
    list += text(values[i]);
  }
  list += ']';
  return list;
}

}  // namespace

std::string print(const Graph& graph) {
  std::string out;
  const auto value = [&](int32_t id) {
    if (id < 0) return std::string("-");
    return graph.values[id].name + (graph.values[id].constant ? "*" : "") +
           to_string(graph.values[id].shape);
  };
  const auto list = [&](const std::vector<int32_t>& ids) {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i > 0) out += ", ";
      out += value(ids[i]);
    }
  };
  for (const Node& node : graph.nodes) {
    list(node.outputs);
    out += " = " + node.op + '(';
    list(node.inputs);
    out += ')';
    for (const auto& [key, field] : node.attrs.entries) {
      out += ' ' + key + '=' + std::visit([](const auto& held) { return text(held); }, field);
    }
    out += '\n';
  }
  for (const auto& [role, id] : graph.outputs) {
    out += "output " + role + " = " + value(id) + '\n';
  }
  return out;
}

}  // namespace adfast
