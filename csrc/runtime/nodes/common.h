// What the families of nodes share beside nodes.h.
#pragma once
#include "runtime/nodes.h"

namespace adfast::nodes {

float real(const Node& node, std::string_view key);

// The results of a node that compares features: a map of their size, and two numbers.
void require_scores(const OperatorRequest& request, const Shape& features);

// The shape of the first input: rows of `what` numbers, not a feature map.
const Shape& tokens(const OperatorRequest& request, const char* what);

}  // namespace adfast::nodes
