#include "plan/table.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/tensor.h"
#include "plan/byte_reader.h"

namespace adfast {
namespace {

// A NaN passes every comparison that is written the other way round: none comes in.
void require_finite(const Table& table, const ByteReader& in) {
  const auto finite = [](double value) { return std::isfinite(value); };
  for (const auto& [key, field] : table.entries) {
    const auto* one = std::get_if<double>(&field);
    const auto* many = std::get_if<std::vector<double>>(&field);
    if ((one != nullptr && !finite(*one)) ||
        (many != nullptr && !std::all_of(many->begin(), many->end(), finite))) {
      in.fail("'" + key + "' of " + table.owner + " is not a finite number");
    }
  }
}

}  // namespace

Table read_table(ByteReader& in, std::string owner) {
  Table table;
  table.owner = std::move(owner);
  const uint32_t count = in.count(5);
  for (uint32_t i = 0; i < count; ++i) {
    std::string key = in.text();
    Field field;
    switch (const auto type = in.number<uint8_t>()) {
      case 1:
        field = in.number<int64_t>();
        break;
      case 2:
        field = in.number<double>();
        break;
      case 3:
        field = in.text();
        break;
      case 4:
        field = in.numbers<int64_t>();
        break;
      case 5:
        field = in.numbers<double>();
        break;
      default:
        in.fail("'" + key + "' has type " + std::to_string(type) + ", expected 1 to 5");
    }
    if (!table.entries.emplace(key, std::move(field)).second) in.fail("'" + key + "' twice");
  }
  require_finite(table, in);
  return table;
}

template <class T>
const T& Table::get(std::string_view key, const char* type) const {
  const auto found = entries.find(key);
  if (found == entries.end()) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is missing");
  }
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is not " + type);
  }
  return *value;
}

template const int64_t& Table::get<int64_t>(std::string_view, const char*) const;
template const std::vector<int64_t>& Table::get<std::vector<int64_t>>(std::string_view,
                                                                      const char*) const;
template const double& Table::get<double>(std::string_view, const char*) const;
template const std::string& Table::get<std::string>(std::string_view, const char*) const;

std::vector<int64_t> Table::integers(std::string_view key, size_t count, int64_t low,
                                     int64_t high) const {
  const auto& values = integers(key);
  const bool fits =
      values.size() == count &&
      std::all_of(values.begin(), values.end(), [&](int64_t v) { return v >= low && v <= high; });
  if (!fits) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is " +
                                     to_string(values) + ", expected " + std::to_string(count) +
                                     " values from " + std::to_string(low) + " to " +
                                     std::to_string(high));
  }
  return values;
}

std::vector<double> Table::reals(std::string_view key, size_t count) const {
  const auto& values = get<std::vector<double>>(key, "a list of real numbers");
  if (values.size() != count ||
      !std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' has " +
                                     std::to_string(values.size()) + " values, expected " +
                                     std::to_string(count) + " finite ones");
  }
  return values;
}

}  // namespace adfast
