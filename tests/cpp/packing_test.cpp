// Weights packed by the strides of a layout are those that oneDNN packs, to the bit, zeros
// included.
#include <cstdint>
#include <cstring>
#include <vector>

#include "backends/cpu/onednn.h"
#include "check.h"

using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;

static void test(Type type, const memory::dims& dims, Tag plain, Tag wanted) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  memory source({dims, type, plain}, engine);
  auto* bytes = static_cast<uint8_t*>(source.get_data_handle());
  // As bf16 and f32 these are numbers, none of them zero.
  for (size_t i = 0; i < source.get_desc().get_size(); i++) bytes[i] = uint8_t(1 + i * 37 % 101);
  memory expected({dims, type, wanted}, engine), got({dims, type, wanted}, engine);
  const size_t size = got.get_desc().get_size();
  std::memset(got.get_data_handle(), 0xff, size);
  dnnl::reorder(source, expected).execute(stream, source, expected);
  stream.wait();
  adfast::cpu::pack_by_strides(source, got);
  CHECK(std::memcmp(got.get_data_handle(), expected.get_data_handle(), size) == 0,
        "layout %d, %d rows", static_cast<int>(wanted), static_cast<int>(dims[0]));
}

int main() {
  for (const int64_t width : {16, 64, 100, 272}) {
    test(Type::f32, {2048, width}, Tag::ba, Tag::BA16a64b);
    test(Type::f32, {37, width}, Tag::ba, Tag::BA16a16b);
    test(Type::bf16, {37, width}, Tag::ba, Tag::BA16a64b2a);
    test(Type::s8, {37, width}, Tag::ba, Tag::BA16a64b4a);
  }
  test(Type::f32, {20, 3, 7, 7}, Tag::oihw, Tag::Ohwi8o);
  test(Type::f32, {20, 30, 3, 3}, Tag::oihw, Tag::OIhw8i8o);
  test(Type::bf16, {40, 30, 3, 3}, Tag::oihw, Tag::OIhw8i16o2i);
  test(Type::f32, {2, 20, 30, 3, 3}, Tag::goihw, Tag::gOIhw16i16o);
  test(Type::f32, {24, 1, 1, 3, 3}, Tag::goihw, Tag::Goihw16g);
  return report("packing");
}
