// The 3x3x3 convolution on a CPU: Winograd's minimal filtering F(4x4, 3x3) over X and Y (Lavin and Gray 2015,
// arXiv:1509.09308, section 4.1), direct along Z.
//
//   convolve:   kernel (3, 3, 3, C_in, C_out), input (B, X, Y, Z, C_in), ... -> output (B, X, Y, Z, C_out)
//   correlate:  input (B, X, Y, Z, C_in), gradient (B, X, Y, Z, C_out) -> gradient of the kernel (3, 3, 3, C_in, C_out)
//
// A tile is 4 x 4 output rows along Z. Its 6 x 6 input rows become 36 transformed rows, each of which meets a matrix of
// its own, the transformed kernel (36, 3 C_in, N): in a row, the three neighbours along Z and their channels lie side
// by side, so that the product needs no copy. N is C_out rounded up to whole vectors, zero beyond. Several inputs stand
// for their concatenation along the channels.
//
// The work is cut into pieces that fit the second-level cache; threads take them from XLA's own pool.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "parallel.h"
#include "plan.h"
#include "product.h"
#include "vectors.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

template <class V>
void convolve(ffi::ThreadPool& pool, const std::vector<Volume>& inputs, const float* kernel, bool flip_kernel,
              int64_t channels, float* output) {
  constexpr int64_t lanes = sizeof(V) / sizeof(float);
  int64_t all_channels = 0;
  for (const Volume& input : inputs) all_channels += input.channels;
  int64_t terms = 3 * all_channels, columns = round_up(channels, lanes);
  int64_t stride = stride_of(terms * columns);
  std::unique_ptr<float[]> weights = allocate(kPoints * stride);
  kernel_to_weights<V>(pool, kernel, flip_kernel, all_channels, channels, columns, stride, weights.get());
  Plan plan(inputs[0], all_channels, columns, lanes, pool.num_threads());
  parallel(pool, plan.pieces() * plan.ranges, [&](int64_t index) {
    Piece piece(plan, index / plan.ranges);
    int64_t first = index % plan.ranges * plan.range, width = std::min(plan.range, columns - first);
    int64_t stride_in = stride_of((plan.run + 2) * all_channels), stride_out = stride_of(plan.run * width);
    float* in = scratch(piece.count * kPoints * (stride_in + stride_out));
    float* out = in + piece.count * kPoints * stride_in;
    for (int64_t t = 0; t < piece.count; t++)
      input_rows<V>(inputs, plan, piece.first + t, piece, all_channels, stride_in, in + t * kPoints * stride_in);
    for (int p = 0; p < kPoints; p++)
      for (int64_t t = 0; t < piece.count; t++)
        product<V, false>(in + (t * kPoints + p) * stride_in, all_channels, 1,
                          weights.get() + p * stride + first, columns, terms, piece.length, width,
                          out + (t * kPoints + p) * stride_out, width);
    for (int64_t t = 0; t < piece.count; t++)
      output_rows<V>(plan, piece.first + t, piece, width, stride_out, out + t * kPoints * stride_out, first, channels,
                     output);
  });
}

template <class V>
void correlate(ffi::ThreadPool& pool, const Volume& input, const Volume& gradient, float* output) {
  constexpr int64_t lanes = sizeof(V) / sizeof(float);
  int64_t terms = 3 * input.channels, columns = round_up(gradient.channels, lanes);
  int64_t stride = stride_of(terms * columns);
  // A slice sums its share of the pieces in order. Slices and pieces follow from the sizes alone, so that the result
  // depends neither on the number of threads nor on which of them took what.
  int64_t voxels = input.batch * input.X * input.Y * input.Z;
  int64_t most = std::clamp<int64_t>(voxels / kVoxelsOfSlice, 2, kSlices);
  Plan plan(input, input.channels, columns, lanes, most);
  int64_t slices = std::min(plan.pieces(), most);
  plan.split_columns(columns, lanes, (pool.num_threads() + slices - 1) / slices);
  std::unique_ptr<float[]> totals = allocate(slices * kPoints * stride);
  parallel(pool, slices * plan.ranges, [&](int64_t task) {
    int64_t slice = task / plan.ranges, first = task % plan.ranges * plan.range;
    int64_t width = std::min(plan.range, columns - first);
    float* total = totals.get() + slice * kPoints * stride + first;
    for (int p = 0; p < kPoints; p++)
      for (int64_t row = 0; row < terms; row++)
        std::memset(total + p * stride + row * columns, 0, width * sizeof(float));
    int64_t stride_in = stride_of((plan.run + 2) * input.channels), stride_out = stride_of(plan.run * width);
    float* in = scratch(plan.group * kPoints * (stride_in + stride_out));
    float* out = in + plan.group * kPoints * stride_in;
    for (int64_t index = slice * plan.pieces() / slices; index < (slice + 1) * plan.pieces() / slices; index++) {
      Piece piece(plan, index);
      for (int64_t t = 0; t < piece.count; t++) {
        input_rows<V>({input}, plan, piece.first + t, piece, input.channels, stride_in, in + t * kPoints * stride_in);
        gradient_rows<V>(gradient, plan, piece.first + t, piece, width, stride_out, first,
                         out + t * kPoints * stride_out);
      }
      for (int p = 0; p < kPoints; p++)
        for (int64_t t = 0; t < piece.count; t++)
          product<V, true>(in + (t * kPoints + p) * stride_in, 1, input.channels,
                           out + (t * kPoints + p) * stride_out, width, piece.length, terms, width,
                           total + p * stride, columns);
    }
  });
  weights_to_kernel<V>(pool, totals.get(), slices, terms, gradient.channels, columns, stride, output);
}

Volume volume_of(const ffi::Buffer<ffi::F32>& buffer) {
  auto d = buffer.dimensions();
  return {buffer.typed_data(), d[0], d[1], d[2], d[3], d[4]};
}

// Does the work; what it throws, which XLA's own code cannot take, becomes an error.
template <class Work>
ffi::Error guarded(Work work) {
  try {
    work();
    return ffi::Error::Success();
  } catch (const OutOfMemory& wanted) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "Out of memory allocating " + std::to_string(wanted.bytes) + " bytes for a convolution");
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "Out of memory in a convolution");
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, error.what());
  }
}

ffi::Error convolve_call(ffi::ThreadPool pool, bool flip_kernel, ffi::Buffer<ffi::F32> kernel,
                         ffi::RemainingArgs arguments, ffi::ResultBuffer<ffi::F32> output) {
  for (size_t i = 0; i < arguments.size(); i++)
    if (auto input = arguments.get<ffi::Buffer<ffi::F32>>(i); !input.has_value()) return input.error();
  return guarded([&] {
    std::vector<Volume> inputs;
    for (size_t i = 0; i < arguments.size(); i++)
      inputs.push_back(volume_of(*arguments.get<ffi::Buffer<ffi::F32>>(i)));
    int64_t channels = output->dimensions()[4];
    auto call = channels > 8 ? convolve<Widest> : convolve<Vector8>;
    call(pool, inputs, kernel.typed_data(), flip_kernel, channels, output->typed_data());
  });
}

ffi::Error correlate_call(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> input, ffi::Buffer<ffi::F32> gradient,
                          ffi::ResultBuffer<ffi::F32> output) {
  auto call = output->dimensions()[4] > 8 ? correlate<Widest> : correlate<Vector8>;
  return guarded([&] { call(pool, volume_of(input), volume_of(gradient), output->typed_data()); });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(Convolve, convolve_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<bool>("flip_kernel")
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(Correlate, correlate_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
