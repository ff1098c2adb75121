#include "capkv-capacity.h"

const std::vector<capkv_capacity> & capkv_capacities::get() const {
    if (sums) {
        for (size_t i = 0; i < values.size(); ++i) {
            const auto & s = (*sums)[i];

            capkv_capacity cap;
            for (size_t h = 0; h < s.all.size(); h += s.d*s.d) {
                // the ridge of all entries counts for those that were kept too
                const double r = capkv_ridge_of(s.d, s.all.data() + h, s.ridge);

                cap.all  += capkv_capacity_of(s.d, s.all .data() + h, r);
                cap.kept += capkv_capacity_of(s.d, s.kept.data() + h, r);
            }
            values[i] = cap;
        }
        sums.reset();
    }
    return values;
}

size_t capkv_capacities::n_bytes() const {
    size_t res = 0;
    for (size_t i = 0; sums && i < sums->size(); ++i) {
        res += ((*sums)[i].all.size() + (*sums)[i].kept.size())*sizeof(float);
    }
    return res;
}
