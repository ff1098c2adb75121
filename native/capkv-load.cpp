#include "capkv-load.h"

#include "ggml-backend.h"

#include <string>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <dlfcn.h>
#endif

// the file that this function is in, in UTF-8; "" if the system does not say
static std::string capkv_own_file() {
#if defined(_WIN32)
    HMODULE module = nullptr;
    if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                            (LPCWSTR) (void *) &capkv_own_file, &module)) {
        return "";
    }
    std::wstring path(32768, L'\0'); // the longest path of Windows
    path.resize(GetModuleFileNameW(module, &path[0], (DWORD) path.size()));

    std::string res(WideCharToMultiByte(CP_UTF8, 0, path.data(), (int) path.size(), nullptr, 0, nullptr, nullptr), '\0');
    WideCharToMultiByte(CP_UTF8, 0, path.data(), (int) path.size(), &res[0], (int) res.size(), nullptr, nullptr);
    return res;
#else
    Dl_info info;
    return dladdr((void *) &capkv_own_file, &info) && info.dli_fname ? info.dli_fname : "";
#endif
}

void capkv_load_backends(void) {
    if (ggml_backend_reg_count() > 0) {
        return;
    }
    const std::string file = capkv_own_file();
    const size_t      end  = file.find_last_of("/\\");
    if (end != std::string::npos) {
        ggml_backend_load_all_from_path(file.substr(0, end).c_str());
    }
}
