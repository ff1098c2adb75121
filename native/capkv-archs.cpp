// the architectures that the tests run with evictions

#include "capkv-params.h"

#define CAPKV_ARCH(name) name,
static const char * const capkv_archs[] = {
#include "capkv-archs.def"
};
#undef CAPKV_ARCH

size_t capkv_n_archs(void) {
    return sizeof(capkv_archs)/sizeof(capkv_archs[0]);
}

const char * capkv_get_arch(size_t i) {
    return i < capkv_n_archs() ? capkv_archs[i] : nullptr;
}

bool capkv_arch_tested(const std::string & name) {
    for (const char * arch : capkv_archs) {
        if (name == arch) {
            return true;
        }
    }
    return false;
}
