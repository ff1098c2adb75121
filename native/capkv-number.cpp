#include "capkv-number.h"

#include <cmath>
#include <iomanip>
#include <locale>
#include <sstream>

// length of the decimal number that a text begins with, 0 if there is none
static size_t capkv_number_length(const std::string & text) {
    auto digits = [&](size_t i) {
        while (i < text.size() && text[i] >= '0' && text[i] <= '9') {
            ++i;
        }
        return i;
    };
    auto sign = [&](size_t i) { return i < text.size() && (text[i] == '+' || text[i] == '-') ? i + 1 : i; };

    const size_t beg = sign(0);

    size_t end = digits(beg);
    size_t n   = end - beg;
    if (end < text.size() && text[end] == '.') {
        const size_t frac = end + 1;
        end = digits(frac);
        n  += end - frac;
    }
    if (n == 0) {
        return 0;
    }
    if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
        const size_t exp = sign(end + 1);
        if (digits(exp) > exp) {
            end = digits(exp);
        }
    }
    return end;
}

bool capkv_read_number(const std::string & text, double & value, std::string & rest) {
    const size_t n = capkv_number_length(text);

    std::istringstream in(text.substr(0, n));
    in.imbue(std::locale::classic());

    value = 0.0;
    in >> value;

    rest = text.substr(n);

    // too large or too small for a double, and not just zero
    const bool out_of_range = !std::isnormal(value) && text.substr(0, text.find_first_of("eE")).find_first_of("123456789") < n;

    return n > 0 && !in.fail() && !out_of_range;
}

std::string capkv_write_number(float value, double unit) {
    std::string res;

    // every number of 6 digits survives in a float, and 9 digits tell all floats apart
    for (int n_digits = 6; n_digits <= 9; ++n_digits) {
        std::ostringstream out;
        out.imbue(std::locale::classic());
        out << std::setprecision(n_digits) << value*unit;
        res = out.str();

        double      back;
        std::string rest;
        if (capkv_read_number(res, back, rest) && (float) (back/unit) == value) {
            break;
        }
    }
    return res;
}
