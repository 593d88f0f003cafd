// The transforms of F(4x4, 3x3): of one axis, of a tile's rows, of the kernel.
//
// Interpolation points 0, 1, -1, 2, -2 and infinity: y = A^T [(G g G^T) * (B^T d B)] A.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "plan.h"
#include "vectors.h"

// B^T d of F(4, 3), in place, over elements `step` apart.
template <class V>
inline void transform_input(V* d, int step) {
  V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  V even = d4 - 4 * d2, odd = d3 - 4 * d1, plain = d4 - d2, twice = 2 * (d3 - d1);
  d[0] = 4 * d0 - 5 * d2 + d4;
  d[step] = even + odd;
  d[2 * step] = even - odd;
  d[3 * step] = plain + twice;
  d[4 * step] = plain - twice;
  d[5 * step] = 4 * d1 - 5 * d3 + d5;
}

// A^T m: six products to four outputs.
template <class V>
inline void transform_output(V* m, int step) {
  V m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = m[3 * step], m4 = m[4 * step], m5 = m[5 * step];
  V sum1 = m1 + m2, difference1 = m1 - m2, sum2 = m3 + m4, difference2 = m3 - m4;
  m[0] = m0 + sum1 + sum2;
  m[step] = difference1 + 2 * difference2;
  m[2 * step] = sum1 + 4 * sum2;
  m[3 * step] = difference1 + 8 * difference2 + m5;
}

// A y: four gradients of outputs to six gradients of products.
template <class V>
inline void transform_gradient(V* y, int step) {
  V y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step];
  V even1 = y0 + y2, odd1 = y1 + y3, even2 = y0 + 4 * y2, odd2 = 2 * y1 + 8 * y3;
  y[step] = even1 + odd1;
  y[2 * step] = even1 - odd1;
  y[3 * step] = even2 + odd2;
  y[4 * step] = even2 - odd2;
  y[5 * step] = y3;
}

// G g: three taps of the kernel to the six weights of the transformed domain.
template <class V>
inline void transform_kernel(V* g, int step) {
  V g0 = g[0], g1 = g[step], g2 = g[2 * step];
  V sum = (g0 + g2) / -6, middle = g1 / 6, wide = (g0 + 4 * g2) / 24, twice = g1 / 12;
  g[0] = g0 / 4;
  g[step] = sum - middle;
  g[2 * step] = sum + middle;
  g[3 * step] = wide + twice;
  g[4 * step] = wide - twice;
  g[5 * step] = g2;
}

// G^T w: gradients of six weights to those of three taps.
template <class V>
inline void transform_weights(V* w, int step) {
  V w0 = w[0], w5 = w[5 * step];
  V sum1 = (w[step] + w[2 * step]) / 6, difference1 = (w[2 * step] - w[step]) / 6;
  V sum2 = (w[3 * step] + w[4 * step]) / 24, difference2 = (w[3 * step] - w[4 * step]) / 12;
  w[0] = w0 / 4 - sum1 + sum2;
  w[step] = difference1 + difference2;
  w[2 * step] = 4 * sum2 - sum1 + w5;
}

// The 36 transformed rows of a tile, with a halo of one voxel at both ends:
// to[p * stride + (z - z0 + 1) * all_channels + channel].
template <class V>
void input_rows(const std::vector<Volume>& inputs, const Plan& plan, int64_t tile, const Piece& piece,
                int64_t all_channels, int64_t stride, float* to) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t b = tile / (plan.tiles_x * plan.tiles_y), x0 = tile / plan.tiles_y % plan.tiles_x * kTile - 1;
  int64_t y0 = tile % plan.tiles_y * kTile - 1;
  int64_t low = std::max<int64_t>(piece.z0 - 1, 0), high = std::min(piece.z0 + piece.length + 1, plan.Z);
  if (low == piece.z0)
    for (int p = 0; p < kPoints; p++) std::memset(to + p * stride, 0, all_channels * sizeof(float));
  if (high == piece.z0 + piece.length)
    for (int p = 0; p < kPoints; p++)
      std::memset(to + p * stride + (piece.length + 1) * all_channels, 0, all_channels * sizeof(float));
  int64_t offset = 0;
  for (const Volume& input : inputs) {
    int64_t C = input.channels;
    const float* rows[kPoints];
    for (int i = 0; i < kWindow; i++)
      for (int j = 0; j < kWindow; j++) {
        const float* row = input.row(b, x0 + i, y0 + j);
        rows[i * kWindow + j] = row ? row + low * C : nullptr;
      }
    // With one input the whole piece lies side by side; with several, a voxel's channels do.
    int64_t length = inputs.size() == 1 ? (high - low) * C : C, repeats = inputs.size() == 1 ? 1 : high - low;
    for (int64_t repeat = 0; repeat < repeats; repeat++) {
      int64_t from = repeat * C;
      float* target = to + (low - piece.z0 + 1 + repeat) * all_channels + offset;
      for (int64_t q = 0; q < length; q += lanes) {
        int64_t some = std::min<int64_t>(lanes, length - q);
        V d[kPoints];
        for (int p = 0; p < kPoints; p++)
          d[p] = rows[p] ? load_some<V>(rows[p] + from + q, some) : V{};
        for (int j = 0; j < kWindow; j++) transform_input(d + j, kWindow);
        for (int i = 0; i < kWindow; i++) transform_input(d + i * kWindow, 1);
        for (int p = 0; p < kPoints; p++) store_some(target + p * stride + q, d[p], some);
      }
    }
    offset += C;
  }
}

// Products to outputs: from[p * stride + z * columns + c] to channel `first` + c of the tile's rows of the output.
template <class V>
void output_rows(const Plan& plan, int64_t tile, const Piece& piece, int64_t columns, int64_t stride,
                 const float* from, int64_t first, int64_t channels, float* output) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t b = tile / (plan.tiles_x * plan.tiles_y), x0 = tile / plan.tiles_y % plan.tiles_x * kTile;
  int64_t y0 = tile % plan.tiles_y * kTile;
  int64_t high_x = std::min<int64_t>(kTile, plan.X - x0), high_y = std::min<int64_t>(kTile, plan.Y - y0);
  int64_t wanted = std::min(columns, channels - first);
  for (int64_t z = 0; z < piece.length; z++)
    for (int64_t c = 0; c < wanted; c += lanes) {
      int64_t some = std::min<int64_t>(lanes, wanted - c);
      V m[kPoints];
      for (int p = 0; p < kPoints; p++) m[p] = load<V>(from + p * stride + z * columns + c);
      for (int j = 0; j < kWindow; j++) transform_output(m + j, kWindow);
      for (int i = 0; i < kTile; i++) transform_output(m + i * kWindow, 1);
      for (int64_t i = 0; i < high_x; i++)
        for (int64_t j = 0; j < high_y; j++) {
          int64_t voxel = ((b * plan.X + x0 + i) * plan.Y + y0 + j) * plan.Z + piece.z0 + z;
          store_some(output + voxel * channels + first + c, m[i * kWindow + j], some);
        }
    }
}

// The 36 transformed rows of a tile of the output's gradient, its channels from `first` on:
// to[p * stride + z * columns + c].
template <class V>
void gradient_rows(const Volume& gradient, const Plan& plan, int64_t tile, const Piece& piece, int64_t columns,
                   int64_t stride, int64_t first, float* to) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t b = tile / (plan.tiles_x * plan.tiles_y), x0 = tile / plan.tiles_y % plan.tiles_x * kTile;
  int64_t y0 = tile % plan.tiles_y * kTile, C = gradient.channels;
  const float* rows[kTile * kTile];
  for (int i = 0; i < kTile; i++)
    for (int j = 0; j < kTile; j++) {
      const float* row = gradient.row(b, x0 + i, y0 + j);
      rows[i * kTile + j] = row ? row + piece.z0 * C + first : nullptr;
    }
  for (int64_t z = 0; z < piece.length; z++)
    for (int64_t c = 0; c < columns; c += lanes) {
      int64_t some = std::min<int64_t>(lanes, C - first - c);
      V m[kPoints];
      for (int i = 0; i < kTile; i++)
        for (int j = 0; j < kTile; j++) {
          const float* row = rows[i * kTile + j];
          m[i * kWindow + j] = row ? load_some<V>(row + z * C + c, some) : V{};
        }
      for (int j = 0; j < kTile; j++) transform_gradient(m + j, kWindow);
      for (int i = 0; i < kWindow; i++) transform_gradient(m + i * kWindow, 1);
      for (int p = 0; p < kPoints; p++) store(to + p * stride + z * columns + c, m[p]);
    }
}

constexpr int64_t kKernelRows = 16;  // rows of the kernel that a thread transforms at a time

// The kernel (3, 3, 3, rows, channels) to weights (36, 3 * rows, columns), `stride` floats from one of the 36 to the
// next; reversed along X, Y and Z where `flip_kernel`.
template <class V>
void kernel_to_weights(xla::ffi::ThreadPool& pool, const float* kernel, bool flip_kernel, int64_t rows, int64_t channels,
                       int64_t columns, int64_t stride, float* weights) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t all_rows = 3 * rows;
  parallel(pool, (all_rows + kKernelRows - 1) / kKernelRows, [&](int64_t task) {
    for (int64_t row = task * kKernelRows; row < std::min((task + 1) * kKernelRows, all_rows); row++)
      for (int64_t c = 0; c < columns; c += lanes) {
        V g[kPoints];
        for (int u = 0; u < 3; u++)
          for (int v = 0; v < 3; v++) {
            int64_t plane = flip_kernel ? (2 - u) * 3 + 2 - v : u * 3 + v;
            int64_t at = flip_kernel ? (2 - row / rows) * rows + row % rows : row;
            g[u * kWindow + v] = load_some<V>(kernel + (plane * all_rows + at) * channels + c, channels - c);
          }
        for (int v = 0; v < 3; v++) transform_kernel(g + v, kWindow);
        for (int p = 0; p < kWindow; p++) transform_kernel(g + p * kWindow, 1);
        for (int p = 0; p < kPoints; p++) store(weights + p * stride + row * columns + c, g[p]);
      }
  });
}

// Gradients of the weights (slices, 36, 3 * rows, columns), summed over the slices, to the kernel's.
template <class V>
void weights_to_kernel(xla::ffi::ThreadPool& pool, const float* weights, int64_t slices, int64_t all_rows,
                       int64_t channels, int64_t columns, int64_t stride, float* kernel) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  parallel(pool, (all_rows + kKernelRows - 1) / kKernelRows, [&](int64_t task) {
    for (int64_t row = task * kKernelRows; row < std::min((task + 1) * kKernelRows, all_rows); row++)
      for (int64_t c = 0; c < channels; c += lanes) {
        V w[kPoints];
        for (int p = 0; p < kPoints; p++) {
          const float* from = weights + p * stride + row * columns + c;
          w[p] = load<V>(from);
          for (int64_t slice = 1; slice < slices; slice++) w[p] += load<V>(from + slice * kPoints * stride);
        }
        for (int q = 0; q < kWindow; q++) transform_weights(w + q, kWindow);
        for (int u = 0; u < 3; u++) transform_weights(w + u * kWindow, 1);
        for (int u = 0; u < 3; u++)
          for (int v = 0; v < 3; v++)
            store_some(kernel + ((u * 3 + v) * all_rows + row) * channels + c, w[u * kWindow + v], channels - c);
      }
  });
}
