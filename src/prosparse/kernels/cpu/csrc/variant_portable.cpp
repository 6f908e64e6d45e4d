// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "simd_portable.h"
#include "steps.h"
#include "attention.h"

namespace prosparse {

extern const Variant VARIANT_PORTABLE;
const Variant VARIANT_PORTABLE = {
    "portable", gate_chunk, project_chunk, up_unit, down_tile, read, split_x, normalize, rotate, attend};

} // namespace prosparse
