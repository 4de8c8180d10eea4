// Memory of a thread, kept from call to call: fresh pages cost as much as the arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace {

constexpr int64_t kLine = 64;  // bytes of a cache line

struct Scratch {
  std::unique_ptr<char[]> bytes;
  int64_t size = 0;

  // Room for so many, from the start of a line; null where there is no memory.
  template <typename What>
  What* Take(int64_t count) {
    const int64_t wanted = std::max<int64_t>(1, count) * static_cast<int64_t>(sizeof(What));
    if (wanted > size) {
      bytes.reset(new (std::nothrow) char[wanted + kLine]);
      size = bytes ? wanted : 0;
      if (!size) return nullptr;
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(bytes.get());
    return reinterpret_cast<What*>((start + kLine - 1) / kLine * kLine);
  }
};

}  // namespace
