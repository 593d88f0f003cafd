// Vectors of floats, of the widest kind that the processor has registers for, and how they come from and to memory.

#pragma once

#include <cstdint>
#include <cstring>

typedef float Vector8 __attribute__((vector_size(32)));
typedef float Vector16 __attribute__((vector_size(64)));
#ifdef __AVX512F__
typedef Vector16 Widest;
#else
typedef Vector8 Widest;
#endif

// Memory has the alignment of floats; copies become unaligned moves.
template <class V>
inline V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
inline void store(float* to, const V& value) {
  std::memcpy(to, &value, sizeof(V));
}

// The first values alone where there are fewer than a vector's.
template <class V>
inline V load_some(const float* from, int64_t count) {
  if (count >= static_cast<int64_t>(sizeof(V) / sizeof(float))) return load<V>(from);
  V value = {};
  if (count > 0) std::memcpy(&value, from, count * sizeof(float));
  return value;
}

template <class V>
inline void store_some(float* to, const V& value, int64_t count) {
  if (count >= static_cast<int64_t>(sizeof(V) / sizeof(float)))
    store(to, value);
  else
    std::memcpy(to, &value, count * sizeof(float));
}
