// Matrix products in blocks that stay in registers.

#pragma once

#include <cstdint>
#include <utility>

#include "vectors.h"

// Rows of a block for 1 and for 2 vectors of columns: as many as there are registers for.
#ifdef __AVX512F__
constexpr int kRows[3] = {0, 16, 12};
#else
constexpr int kRows[3] = {0, 12, 6};
#endif

// A block of a product, held in registers:
// out[r][:] (+)= sum over k of a[r * row_step + k * sum_step] * b[k * b_step + :].
template <class V, int rows, int vectors, bool add>
void block(const float* a, int64_t row_step, int64_t sum_step, const float* b, int64_t b_step, int64_t terms,
           float* out, int64_t out_step) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V total[rows][vectors] = {};
  for (int64_t k = 0; k < terms; k++) {
    V right[vectors];
#pragma GCC unroll 2
    for (int n = 0; n < vectors; n++) right[n] = load<V>(b + k * b_step + n * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
      float left = a[r * row_step + k * sum_step];
#pragma GCC unroll 2
      for (int n = 0; n < vectors; n++) total[r][n] += left * right[n];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int n = 0; n < vectors; n++) {
      float* to = out + r * out_step + n * lanes;
      store<V>(to, add ? load<V>(to) + total[r][n] : total[r][n]);
    }
}

using Block = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);

// The blocks of 1, 2, ... rows.
template <class V, int vectors, bool add, int... rows>
const Block* blocks_of(std::integer_sequence<int, rows...>) {
  static const Block table[] = {block<V, rows + 1, vectors, add>...};
  return table;
}

// out (rows x columns) (+)= a b, a and the others read with the given steps, in blocks of about equal size.
template <class V, int vectors, bool add>
void product_of(const float* a, int64_t row_step, int64_t sum_step, const float* b, int64_t b_step, int64_t terms,
                int64_t rows, int64_t columns, float* out, int64_t out_step) {
  constexpr int64_t most = kRows[vectors];
  static const Block* const blocks = blocks_of<V, vectors, add>(std::make_integer_sequence<int, most>());
  constexpr int64_t width = vectors * sizeof(V) / sizeof(float);
  int64_t parts = (rows + most - 1) / most;
  for (int64_t column = 0; column < columns; column += width)
    for (int64_t part = 0; part < parts; part++) {
      int64_t low = part * rows / parts, high = (part + 1) * rows / parts;
      blocks[high - low - 1](a + low * row_step, row_step, sum_step, b + column, b_step, terms,
                             out + low * out_step + column, out_step);
    }
}

template <class V, bool add>
void product(const float* a, int64_t row_step, int64_t sum_step, const float* b, int64_t b_step, int64_t terms,
             int64_t rows, int64_t columns, float* out, int64_t out_step) {
  auto call = columns % (2 * sizeof(V) / sizeof(float)) == 0 ? product_of<V, 2, add> : product_of<V, 1, add>;
  call(a, row_step, sum_step, b, b_step, terms, rows, columns, out, out_step);
}
