// the devices of a model that runs on RPC servers

#include "capkv-error.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

static std::vector<std::string> capkv_split(const std::string & text, char separator) {
    std::vector<std::string> res;
    for (size_t beg = 0, end = 0; end != std::string::npos; beg = end + 1) {
        end = text.find(separator, beg);
        res.push_back(text.substr(beg, end == std::string::npos ? end : end - beg));
    }
    return res;
}

// the RPC backend ends the process where a name is not of this form
static bool capkv_is_endpoint(const std::string & name) {
    const size_t colon = name.find(':');
    if (colon == 0 || colon == std::string::npos) {
        return false;
    }
    const std::string port = name.substr(colon + 1);
    return !port.empty() && port.size() <= 5 && port.find_first_not_of("0123456789") == std::string::npos &&
        std::stoi(port) >= 1 && std::stoi(port) <= 65535;
}

static std::vector<ggml_backend_dev_t> capkv_rpc_find(const char * servers) {
    if (!servers) {
        throw capkv_error("capkv_rpc_devices: NULL is not allowed");
    }

    const auto names = capkv_split(servers, ',');
    for (const auto & name : names) {
        if (!capkv_is_endpoint(name)) {
            throw capkv_error("rpc_servers = " + std::string(servers) + ": allowed is HOST:PORT, several with commas between them");
        }
    }

    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    if (!rpc) {
        throw capkv_error("rpc_servers = " + std::string(servers) + ": these libraries were built without RPC (-DGGML_RPC=ON in CMAKE_ARGS builds it)");
    }
    // by its name, since the backend may be a library that is loaded at run time
    auto add_server = (ggml_backend_reg_t (*)(const char *)) ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server");

    std::vector<ggml_backend_dev_t> res;
    for (const auto & name : names) {
        ggml_backend_reg_t reg = add_server(name.c_str());
        if (!reg) {
            throw capkv_error("rpc_servers: the server " + name + " has no devices");
        }
        for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); ++i) {
            res.push_back(ggml_backend_reg_dev_get(reg, i));
        }
    }
    return res;
}

// the devices of this machine that llama.cpp takes by itself: a GPU that two backends have counts once, and one with the processor's
// memory where there is no other
static std::vector<ggml_backend_dev_t> capkv_local_gpus() {
    auto is_same = [](ggml_backend_dev_t a, ggml_backend_dev_t b) {
        ggml_backend_dev_props x;
        ggml_backend_dev_props y;
        ggml_backend_dev_get_props(a, &x);
        ggml_backend_dev_get_props(b, &y);
        return a == b || (x.device_id && y.device_id && strcmp(x.device_id, y.device_id) == 0);
    };

    std::vector<ggml_backend_dev_t> gpus;
    std::vector<ggml_backend_dev_t> shared;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);

        const auto type = ggml_backend_dev_type(dev);
        if (type == GGML_BACKEND_DEVICE_TYPE_GPU && strcmp(ggml_backend_reg_name(reg), "RPC") != 0 &&
                std::none_of(gpus.begin(), gpus.end(), [&](ggml_backend_dev_t other) { return is_same(dev, other); })) {
            gpus.push_back(dev);
        }
        if (type == GGML_BACKEND_DEVICE_TYPE_IGPU && (shared.empty() || ggml_backend_dev_backend_reg(shared.back()) == reg)) {
            shared.push_back(dev);
        }
    }
    return gpus.empty() ? shared : gpus;
}

int32_t capkv_rpc_devices(const char * servers, void ** devices, int32_t n_max) {
    return capkv_guard(-1, [&] {
        auto res = capkv_rpc_find(servers);

        for (ggml_backend_dev_t dev : capkv_local_gpus()) {
            res.push_back(dev);
        }
        if (res.size() > llama_max_devices()) {
            throw capkv_error("rpc_servers = " + std::string(servers) + ": " + std::to_string(res.size()) + " devices with those of this machine; allowed are " + std::to_string(llama_max_devices()));
        }
        for (int32_t i = 0; devices && i < n_max && i < (int32_t) res.size(); ++i) {
            devices[i] = res[i];
        }
        return (int32_t) res.size();
    });
}
