// Adapters of a fused layer, as parameters of a kernel.
#pragma once

// Adapters of one fused layer at most: q, k and v.
constexpr int PARTS = 3;

// A field of parts[i]. Selected, not indexed: a parameter that is indexed would be copied to local memory.
template <class Part, class Field>
__device__ __forceinline__ Field select(const Part (&parts)[PARTS], int i, Field Part::*field) {
    const Field a = parts[0].*field, b = parts[1].*field, c = parts[2].*field;
    return i == 0 ? a : i == 1 ? b : c;
}
