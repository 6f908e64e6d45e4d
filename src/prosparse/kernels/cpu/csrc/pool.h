// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace prosparse {

using Body = void (*)(void* context, int64_t item);

// Call body(context, i) once for every i in [0, count), on up to `num_threads` threads, the caller
// among them; return when all are done. Which thread takes which item is left open.
void parallel_for(int num_threads, int64_t count, Body body, void* context);

// Call body(context) in this thread, and meanwhile let its calls of `parallel_for` find up to
// `num_threads` threads that spin: for many short calls in a row.
void with_team(int num_threads, void (*body)(void* context), void* context);

// Whether to use the threads of the OpenMP runtime in this process, if there is one, or our own.
void use_openmp(bool wanted);
bool uses_openmp();

// The child of a fork has none of the threads that its parent had.
void forget_threads();

} // namespace prosparse
