#pragma once

#include <string>

// the process's locale may have a decimal comma: numbers are read and written without it

// the decimal number that a text begins with, and what follows it; false if there is none or a double cannot hold it
bool capkv_read_number(const std::string & text, double & value, std::string & rest);

// the shortest decimal number n with (float) (n/unit) == value
std::string capkv_write_number(float value, double unit = 1);
