#pragma once

#include "capkv-positions.h"

#include <vector>

// which of n entries a KV head keeps, ascending: [parts.n()]
//
// The sinks, the recent entries and the pinned ones stay whatever their scores are; of the others, those with the highest scores. Returns
// false if more are pinned than there is room for: then those of them stay that score highest
//   score:  [n]
//   pinned: [n]; empty = none
bool capkv_select(const capkv_positions::parts & parts, int64_t n, const float * score, const std::vector<bool> & pinned, int32_t * keep);
