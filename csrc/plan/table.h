// String keys to typed values: what a plan says of itself, of its steps, of its frames.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace adfast {

class ByteReader;

using Field = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>>;

// The getters refuse a missing key or another type by name.
class Table {
 public:
  std::map<std::string, Field, std::less<>> entries;
  std::string owner;  // what the errors call it

  bool has(std::string_view key) const { return entries.find(key) != entries.end(); }
  int64_t integer(std::string_view key) const { return get<int64_t>(key, "an integer"); }
  double real(std::string_view key) const { return get<double>(key, "a real number"); }
  const std::string& text(std::string_view key) const { return get<std::string>(key, "a text"); }
  const std::vector<int64_t>& integers(std::string_view key) const {
    return get<std::vector<int64_t>>(key, "a list of integers");
  }
  // `count` values, each within [low, high].
  std::vector<int64_t> integers(std::string_view key, size_t count, int64_t low,
                                int64_t high) const;
  std::vector<double> reals(std::string_view key, size_t count) const;
  const std::vector<double>& reals(std::string_view key) const {
    return get<std::vector<double>>(key, "a list of real numbers");
  }

 private:
  template <class T>
  const T& get(std::string_view key, const char* type) const;
};

// `owner`: what the errors call it. No real number in it is infinite or a NaN.
Table read_table(ByteReader& in, std::string owner);

}  // namespace adfast
