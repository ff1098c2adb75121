#pragma once

#include "capkv.h"

#include <string>

// a budget as text: a number of tokens ("1024"), a memory size ("256MiB") or a share of the context ("10%")

// sets the three fields of the budget; false if the value is not allowed
//   range: what is allowed for its unit; left as it is if the unit is not known
bool capkv_budget_read(const std::string & value, capkv_params & params, std::string & range);

// the text that capkv_budget_read() reads
std::string capkv_budget_write(const capkv_params & params);
