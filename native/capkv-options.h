#pragma once

#include "capkv.h"

#include <string>

// the options of a budget: the one table that declares them, and what loops over it

// a field whose option was not given, and whose default depends on the context: capkv_params_resolve() sets it
static constexpr uint32_t CAPKV_UNSET = UINT32_MAX;

// all of these throw capkv_error if a value is not allowed, which names the option, the value and what is allowed

capkv_params capkv_options_default();
capkv_params capkv_options_from_env(); // LLAMA_ARG_KV_BUDGET and so on, for the others the default

void capkv_params_set_or_throw(capkv_params & params, const std::string & name, const std::string & value);

// each field is one that a text could have set: a struct can hold others
void capkv_options_check_or_throw(const capkv_params & params);

// the default of an option that is left CAPKV_UNSET, where that is a number
uint32_t capkv_options_open_default(const char * name);
