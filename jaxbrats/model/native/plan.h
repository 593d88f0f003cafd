// How a convolution is cut into pieces of work that fit the second-level cache.

#pragma once

#include <algorithm>
#include <cstdint>

constexpr int kTile = 4;               // output rows of a tile along X and along Y
constexpr int kWindow = 6;             // input rows of a tile
constexpr int kPoints = 36;            // transformed rows of a tile
constexpr int64_t kCache = 768 << 10;  // bytes of transformed rows that a piece may take
constexpr int64_t kRun = 64;           // longest part of a row
// The kernel's gradient is summed in two to so many slices, each of about so many voxels: the sums are added up in
// the end, which is worth it only where each stands for enough.
constexpr int64_t kSlices = 16;
constexpr int64_t kVoxelsOfSlice = 8192;

// A volume (B, X, Y, Z, C) in memory.
struct Volume {
  const float* data;
  int64_t batch, X, Y, Z, channels;

  // The row along Z at (x, y); nothing outside.
  const float* row(int64_t b, int64_t x, int64_t y) const {
    if (x < 0 || x >= X || y < 0 || y >= Y) return nullptr;
    return data + ((b * X + x) * Y + y) * Z * channels;
  }
};

// How the work is cut: tiles over (X, Y), runs along Z, as many tiles together as the cache holds, and where these are
// fewer than the threads, ranges of output channels too.
struct Plan {
  int64_t X, Y, Z, tiles_x, tiles_y, tiles, run, runs, group, groups, ranges, range;

  Plan(const Volume& v, int64_t channels_in, int64_t columns, int64_t lanes, int64_t threads)
      : X(v.X), Y(v.Y), Z(v.Z), tiles_x((v.X + kTile - 1) / kTile), tiles_y((v.Y + kTile - 1) / kTile) {
    int64_t row_bytes = kPoints * (channels_in + columns) * sizeof(float);
    runs = (Z + kRun - 1) / kRun;
    while ((Z + runs - 1) / runs > 8 && ((Z + runs - 1) / runs + 2) * row_bytes > kCache) runs++;
    run = (Z + runs - 1) / runs;
    runs = (Z + run - 1) / run;
    tiles = v.batch * tiles_x * tiles_y;
    group = std::max<int64_t>(1, std::min(kCache / ((run + 2) * row_bytes), tiles * runs / (4 * threads)));
    groups = (tiles + group - 1) / group;
    split_columns(columns, lanes, threads / pieces());
  }

  // Cuts the output channels into about `wanted` ranges of whole blocks.
  void split_columns(int64_t columns, int64_t lanes, int64_t wanted) {
    int64_t width = columns % (2 * lanes) == 0 ? 2 * lanes : lanes;
    ranges = std::clamp<int64_t>(wanted, 1, columns / width);
    range = (columns / width + ranges - 1) / ranges * width;
    ranges = (columns + range - 1) / range;
  }

  int64_t pieces() const { return groups * runs; }
};

// One piece: `count` tiles from `first`, voxels z0 to z0 + length of their rows.
struct Piece {
  int64_t first, count, z0, length;

  Piece(const Plan& plan, int64_t index)
      : first(index / plan.runs * plan.group),
        count(std::min(plan.group, plan.tiles - first)),
        z0(index % plan.runs * plan.run),
        length(std::min(plan.run, plan.Z - z0)) {}
};

// Floats from one of 36 rows to the next: whole cache lines, an odd number of them, so that the 36 that are written
// together do not fall on the same few places of the cache.
inline int64_t stride_of(int64_t size) { return ((size + 15) / 16 | 1) * 16; }
