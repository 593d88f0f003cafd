// Work shared among XLA's threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "xla/ffi/api/ffi.h"

// The memory that could not be had.
struct OutOfMemory {
  int64_t bytes;
};

// Throws OutOfMemory.
inline std::unique_ptr<float[]> allocate(int64_t floats) {
  std::unique_ptr<float[]> memory(new (std::nothrow) float[floats]);
  if (!memory) throw OutOfMemory{floats * static_cast<int64_t>(sizeof(float))};
  return memory;
}

// Memory of a thread for its transformed rows, kept from call to call.
inline float* scratch(int64_t floats) {
  thread_local std::unique_ptr<float[]> memory;
  thread_local int64_t size = 0;
  if (size < floats + 16) {
    memory.reset();
    size = 0;
    memory = allocate(floats + 16);
    size = floats + 16;
  }
  auto address = reinterpret_cast<uintptr_t>(memory.get());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

// Calls work(0) ... work(count - 1) on this thread and the pool's. The caller works too and waits only for what has
// begun, so that a pool whose threads are all busy cannot lock up. No exception leaves a thread: the first of them is
// thrown here when all is done or left undone.
inline void parallel(xla::ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> work) {
  struct State {
    std::function<void(int64_t)> work;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
    std::exception_ptr failure;

    void take() {
      for (int64_t index; (index = next.fetch_add(1)) < count;) {
        try {
          work(index);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!failure) failure = std::current_exception();
        }
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
  try {
    for (int64_t i = 0; i < helpers; i++) pool.Schedule([state] { state->take(); });
  } catch (const std::bad_alloc&) {  // fewer helpers do it too
  }
  state->take();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done == count; });
  if (state->failure) std::rethrow_exception(state->failure);
}
