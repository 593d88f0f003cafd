// The 3x3x3 convolution of model/conv.py on a CPU: Winograd's minimal filtering F(4x4, 3x3) over X and Y (Lavin and Gray
// 2015, arXiv:1509.09308, section 4.1), direct along Z. model/native.py compiles this file and calls it through XLA's
// foreign function interface.
//
// A tile is 4 x 4 output rows along Z. Its 6 x 6 input rows become 36 transformed rows, each of which meets a matrix of
// its own: in a row, the three neighbours along Z and their channels lie side by side, so that the product needs no copy.
//
//   convolve:   input (B, X, Y, Z, C_in), ..., weights (36, 3 C_in, N) -> output (B, X, Y, Z, C_out)
//   correlate:  input (B, X, Y, Z, C_in), gradient (B, X, Y, Z, C_out) -> gradients of the weights (slices, 36, 3 C_in, N)
//
// N is C_out rounded up to whole vectors, zero beyond. Several inputs stand for their concatenation along the channels.
// The work is cut into pieces that fit the second-level cache; threads take them from XLA's own pool.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int kTile = 4;     // output rows of a tile along X and along Y
constexpr int kWindow = 6;   // input rows of a tile
constexpr int kPoints = 36;  // transformed rows of a tile
constexpr int64_t kCache = 768 << 10;  // bytes of transformed rows that a piece of work may take
constexpr int64_t kRun = 64;           // longest piece of a row

#ifdef __AVX512F__
constexpr int kLanes = 16;
constexpr int kRows[3] = {0, 16, 12};  // rows of a block of a product, for 1 and 2 vectors of columns: what registers hold
#else
constexpr int kLanes = 8;
constexpr int kRows[3] = {0, 12, 6};
#endif

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

template <class V>
inline V load_some(const float* from, int64_t count) {
  V value = {};
  std::memcpy(&value, from, count * sizeof(float));
  return value;
}

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

// How the volume is cut: tiles over (X, Y), pieces of rows along Z, and as many tiles together as the cache holds.
struct Plan {
  int64_t X, Y, Z, tiles_x, tiles_y, run, runs, group, groups, tiles;

  Plan(const Volume& v, int64_t channels_in, int64_t columns, int64_t threads)
      : X(v.X), Y(v.Y), Z(v.Z), tiles_x((v.X + kTile - 1) / kTile), tiles_y((v.Y + kTile - 1) / kTile) {
    int64_t row_bytes = kPoints * (channels_in + columns) * sizeof(float);
    runs = (Z + kRun - 1) / kRun;
    while (runs < Z && ((Z + runs - 1) / runs + 2) * row_bytes > kCache && (Z + runs - 1) / runs > 8) runs++;
    run = (Z + runs - 1) / runs;
    runs = (Z + run - 1) / run;
    tiles = v.batch * tiles_x * tiles_y;
    group = std::max<int64_t>(1, kCache / ((run + 2) * row_bytes));
    group = std::max<int64_t>(1, std::min(group, tiles * runs / (4 * threads)));
    groups = (tiles + group - 1) / group;
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

// Floats from one transformed row to the next, kept off multiples of a page, which share few lines of the first cache.
int64_t stride_of(int64_t size) { return size + (size % 1024 == 0 ? 16 : 0); }

// The 36 transformed rows of a tile: to[p * stride + (z - z0 + 1) * all_channels + channel], a halo of one voxel at both ends.
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
          d[p] = !rows[p] ? V{} : some == lanes ? load<V>(rows[p] + from + q) : load_some<V>(rows[p] + from + q, some);
        for (int j = 0; j < kWindow; j++) transform_input(d + j, kWindow);
        for (int i = 0; i < kWindow; i++) transform_input(d + i * kWindow, 1);
        if (some == lanes)
          for (int p = 0; p < kPoints; p++) store(target + p * stride + q, d[p]);
        else
          for (int p = 0; p < kPoints; p++) std::memcpy(target + p * stride + q, &d[p], some * sizeof(float));
      }
    }
    offset += C;
  }
}

// Products to outputs: from[p * stride + z * columns + channel] to the tile's rows of the output.
template <class V>
void output_rows(const Plan& plan, int64_t tile, const Piece& piece, int64_t columns, int64_t stride,
                 const float* from, int64_t channels, float* output) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t b = tile / (plan.tiles_x * plan.tiles_y), x0 = tile / plan.tiles_y % plan.tiles_x * kTile;
  int64_t y0 = tile % plan.tiles_y * kTile;
  int64_t high_x = std::min<int64_t>(kTile, plan.X - x0), high_y = std::min<int64_t>(kTile, plan.Y - y0);
  for (int64_t z = 0; z < piece.length; z++)
    for (int64_t c = 0; c < channels; c += lanes) {
      int64_t some = std::min<int64_t>(lanes, channels - c);
      V m[kPoints];
      for (int p = 0; p < kPoints; p++) m[p] = load<V>(from + p * stride + z * columns + c);
      for (int j = 0; j < kWindow; j++) transform_output(m + j, kWindow);
      for (int i = 0; i < kTile; i++) transform_output(m + i * kWindow, 1);
      for (int64_t i = 0; i < high_x; i++)
        for (int64_t j = 0; j < high_y; j++) {
          float* to = output + ((((b * plan.X + x0 + i) * plan.Y + y0 + j) * plan.Z) + piece.z0 + z) * channels + c;
          if (some == lanes)
            store(to, m[i * kWindow + j]);
          else
            std::memcpy(to, &m[i * kWindow + j], some * sizeof(float));
        }
    }
}

// The 36 transformed rows of a tile of the output's gradient: to[p * stride + z * columns + channel].
template <class V>
void gradient_rows(const Volume& gradient, const Plan& plan, int64_t tile, const Piece& piece, int64_t columns,
                   int64_t stride, float* to) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  int64_t b = tile / (plan.tiles_x * plan.tiles_y), x0 = tile / plan.tiles_y % plan.tiles_x * kTile;
  int64_t y0 = tile % plan.tiles_y * kTile, C = gradient.channels;
  const float* rows[kTile * kTile];
  for (int i = 0; i < kTile; i++)
    for (int j = 0; j < kTile; j++) {
      const float* row = gradient.row(b, x0 + i, y0 + j);
      rows[i * kTile + j] = row ? row + piece.z0 * C : nullptr;
    }
  for (int64_t z = 0; z < piece.length; z++)
    for (int64_t c = 0; c < columns; c += lanes) {
      int64_t some = std::min<int64_t>(lanes, C - c), at = z * C + c;
      V m[kPoints];
      for (int i = 0; i < kTile; i++)
        for (int j = 0; j < kTile; j++) {
          const float* row = rows[i * kTile + j];
          m[i * kWindow + j] = !row ? V{} : some == lanes ? load<V>(row + at) : load_some<V>(row + at, some);
        }
      for (int j = 0; j < kTile; j++) transform_gradient(m + j, kWindow);
      for (int i = 0; i < kWindow; i++) transform_gradient(m + i * kWindow, 1);
      for (int p = 0; p < kPoints; p++) store(to + p * stride + z * columns + c, m[p]);
    }
}

// A block of a product, held in registers: out[r][:] (+)= sum over k of a[r * row_step + k * sum_step] * b[k * b_step + :].
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

// out (rows x columns) (+)= a b, a read with the given steps, in blocks of about equal size.
template <class V, int vectors, bool add>
void product_of(const float* a, int64_t row_step, int64_t sum_step, const float* b, int64_t terms, int64_t rows,
                int64_t columns, float* out) {
  constexpr int64_t most = kRows[vectors];
  static const Block* const blocks = blocks_of<V, vectors, add>(std::make_integer_sequence<int, most>());
  constexpr int64_t width = vectors * sizeof(V) / sizeof(float);
  int64_t parts = (rows + most - 1) / most;
  for (int64_t column = 0; column < columns; column += width)
    for (int64_t part = 0; part < parts; part++) {
      int64_t low = part * rows / parts, high = (part + 1) * rows / parts;
      blocks[high - low - 1](a + low * row_step, row_step, sum_step, b + column, columns, terms,
                             out + low * columns + column, columns);
    }
}

template <class V, bool add>
void product(const float* a, int64_t row_step, int64_t sum_step, const float* b, int64_t terms, int64_t rows,
             int64_t columns, float* out) {
  if (columns % (2 * sizeof(V) / sizeof(float)) == 0)
    product_of<V, 2, add>(a, row_step, sum_step, b, terms, rows, columns, out);
  else
    product_of<V, 1, add>(a, row_step, sum_step, b, terms, rows, columns, out);
}

// Memory of a thread for its transformed rows, kept from call to call.
float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats + 16) memory.resize(floats + 16);
  auto address = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

// Calls work(0) ... work(count - 1) on this thread and the pool's. The caller works too and waits only for what has
// begun, so that a pool whose threads are all busy cannot lock up.
void parallel(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> work) {
  struct State {
    std::function<void(int64_t)> work;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;

    void take() {
      for (int64_t index; (index = next.fetch_add(1)) < count;) {
        work(index);
        if (done.fetch_add(1) + 1 == count) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }
  };
  auto state = std::make_shared<State>();
  state->work = std::move(work);
  state->count = count;
  int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; i++) pool.Schedule([state] { state->take(); });
  state->take();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == count; });
}

template <class V>
void convolve(ffi::ThreadPool& pool, const std::vector<Volume>& inputs, const float* weights, int64_t columns,
              int64_t channels, float* output) {
  int64_t all_channels = 0;
  for (const Volume& input : inputs) all_channels += input.channels;
  int64_t terms = 3 * all_channels;
  Plan plan(inputs[0], all_channels, columns, pool.num_threads());
  parallel(pool, plan.pieces(), [&](int64_t index) {
    Piece piece(plan, index);
    int64_t stride_in = stride_of((plan.run + 2) * all_channels), stride_out = stride_of(plan.run * columns);
    float* in = scratch(piece.count * kPoints * (stride_in + stride_out));
    float* out = in + piece.count * kPoints * stride_in;
    for (int64_t t = 0; t < piece.count; t++)
      input_rows<V>(inputs, plan, piece.first + t, piece, all_channels, stride_in, in + t * kPoints * stride_in);
    for (int p = 0; p < kPoints; p++)
      for (int64_t t = 0; t < piece.count; t++)
        product<V, false>(in + (t * kPoints + p) * stride_in, all_channels, 1, weights + p * terms * columns, terms,
                          piece.length, columns, out + (t * kPoints + p) * stride_out);
    for (int64_t t = 0; t < piece.count; t++)
      output_rows<V>(plan, piece.first + t, piece, columns, stride_out, out + t * kPoints * stride_out, channels,
                     output);
  });
}

template <class V>
void correlate(ffi::ThreadPool& pool, const Volume& input, const Volume& gradient, int64_t columns, int64_t slices,
               float* output) {
  int64_t terms = 3 * input.channels, size = kPoints * terms * columns;
  Plan plan(input, input.channels, columns, slices);
  // A slice sums its share of the pieces in order, so that the result does not depend on which thread took it.
  parallel(pool, slices, [&](int64_t slice) {
    float* total = output + slice * size;
    std::memset(total, 0, size * sizeof(float));
    int64_t stride_in = stride_of((plan.run + 2) * input.channels), stride_out = stride_of(plan.run * columns);
    float* in = scratch(plan.group * kPoints * (stride_in + stride_out));
    float* out = in + plan.group * kPoints * stride_in;
    for (int64_t index = slice * plan.pieces() / slices; index < (slice + 1) * plan.pieces() / slices; index++) {
      Piece piece(plan, index);
      for (int64_t t = 0; t < piece.count; t++) {
        input_rows<V>({input}, plan, piece.first + t, piece, input.channels, stride_in, in + t * kPoints * stride_in);
        gradient_rows<V>(gradient, plan, piece.first + t, piece, columns, stride_out, out + t * kPoints * stride_out);
      }
      for (int p = 0; p < kPoints; p++)
        for (int64_t t = 0; t < piece.count; t++)
          product<V, true>(in + (t * kPoints + p) * stride_in, 1, input.channels,
                           out + (t * kPoints + p) * stride_out, piece.length, terms, columns,
                           total + p * terms * columns);
    }
  });
}

Volume volume_of(const ffi::Buffer<ffi::F32>& buffer) {
  auto d = buffer.dimensions();
  return {buffer.typed_data(), d[0], d[1], d[2], d[3], d[4]};
}

ffi::Error convolve_call(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> weights, ffi::RemainingArgs arguments,
                         ffi::ResultBuffer<ffi::F32> output) {
  std::vector<Volume> inputs;
  for (size_t i = 0; i < arguments.size(); i++) {
    auto input = arguments.get<ffi::Buffer<ffi::F32>>(i);
    if (!input.has_value()) return input.error();
    inputs.push_back(volume_of(*input));
  }
  int64_t columns = weights.dimensions()[2], channels = output->dimensions()[4];
  auto call = columns % kLanes == 0 ? convolve<Widest> : convolve<Vector8>;
  call(pool, inputs, weights.typed_data(), columns, channels, output->typed_data());
  return ffi::Error::Success();
}

ffi::Error correlate_call(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> input, ffi::Buffer<ffi::F32> gradient,
                          ffi::ResultBuffer<ffi::F32> output) {
  auto d = output->dimensions();
  auto call = d[3] % kLanes == 0 ? correlate<Widest> : correlate<Vector8>;
  call(pool, volume_of(input), volume_of(gradient), d[3], d[0], output->typed_data());
  return ffi::Error::Success();
}

}  // namespace

// The multiple that so many channels are to be rounded up to.
extern "C" int lanes_for(int channels) { return channels > 8 ? kLanes : 8; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(Convolve, convolve_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(Correlate, correlate_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
