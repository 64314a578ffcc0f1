// The one exception of the library. `kind` decides the status code in C and the class in Python.
#pragma once
#include <stdexcept>
#include <string>

namespace adfast {

enum class ErrorKind {
  plan,      // the plan file is broken, altered, too new, or cannot run here
  frame,     // an image has the wrong shape, type or layout
  argument,  // the caller's argument is out of range
  io,        // the operating system refused
  run,       // the computation failed or gave a value that is not finite
  full,      // a stream's queue has no room
  closed,    // a stream takes no more, or gives no more
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace adfast
