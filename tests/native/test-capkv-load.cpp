// where libllama looks for ggml's backends, when they are libraries of their own

#include "tiny-calls.h"

static size_t                   g_n_backends = 0;
static std::vector<std::string> g_searched; // folders; "" is ggml's own search

extern "C" size_t ggml_backend_reg_count(void) {
    return g_n_backends;
}

extern "C" void ggml_backend_load_all_from_path(const char * dir_path) {
    g_searched.push_back(dir_path ? dir_path : "");
    g_n_backends += dir_path != nullptr;
}

extern "C" void ggml_backend_load_all(void) {
    g_searched.push_back("");
}

// the folder of the libllama that this program uses
static std::string own_folder() {
    Dl_info info;
    CHECK(dladdr(dlsym(RTLD_NEXT, "llama_backend_init"), &info));

    const std::string file = info.dli_fname;
    return file.substr(0, file.rfind('/'));
}

int main() {
    llama_backend_init();
    CHECK(g_searched == std::vector<std::string>({ own_folder() }));

    llama_backend_init();
    CHECK(g_searched.size() == 1 && "backends that are there are not looked for again");
}
