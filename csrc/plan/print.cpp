// A graph as text, a line per node: what `adfast info --graph` shows.
#include <sstream>

#include "plan/plan.h"

namespace adfast {
namespace {

struct Printer {
  std::ostream& out;
  void operator()(int64_t value) const { out << value; }
  void operator()(double value) const { out << value; }
  void operator()(const std::string& value) const { out << value; }
  template <class T>
  void operator()(const std::vector<T>& values) const {
    out << '[';
    for (size_t i = 0; i < values.size(); ++i) out << (i > 0 ? "," : "") << values[i];
    out << ']';
  }
};

}  // namespace

std::string print(const Graph& graph) {
  std::ostringstream out;
  const auto value = [&](int32_t id) {
    if (id < 0) return std::string("-");
    return graph.values[id].name + (graph.values[id].constant ? "*" : "") +
           to_string(graph.values[id].shape);
  };
  for (const Node& node : graph.nodes) {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      out << (i > 0 ? ", " : "") << value(node.outputs[i]);
    }
    out << " = " << node.op << '(';
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      out << (i > 0 ? ", " : "") << value(node.inputs[i]);
    }
    out << ')';
    for (const auto& [key, field] : node.attrs.entries) {
      out << ' ' << key << '=';
      std::visit(Printer{out}, field);
    }
    out << '\n';
  }
  for (const auto& [role, id] : graph.outputs)
    out << "output " << role << " = " << value(id) << '\n';
  return out.str();
}

}  // namespace adfast
