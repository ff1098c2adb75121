"""patches/vulkan-headers.patch: ggml-vulkan.cpp makes its instance with headers that have VK_EXT_layer_settings, and without.

Neither Vulkan nor its headers are needed: the lines that make the instance are compiled with declarations that stand in for them.
"""

import re
import subprocess

import pytest
from compile_commands import build_folder

#: what the lines use of vulkan.hpp 1.3.239
HEADER = """
#include <cstdint>
#include <vector>

typedef uint32_t VkBool32;

namespace vk {
    struct ApplicationInfo {};
    struct InstanceCreateFlags {};

    struct InstanceCreateInfo {
        const void * pNext;

        typedef const std::vector<const char *> & names;

        InstanceCreateInfo(InstanceCreateFlags, const ApplicationInfo *, names, names, const void * pNext = nullptr) : pNext(pNext) {}
    };
}
"""
#: what newer headers have as well
EXTENSION = """
#define VK_EXT_layer_settings 1

namespace vk {
    enum class LayerSettingTypeEXT { eBool32 };

    struct LayerSettingEXT { const char * layer; const char * name; LayerSettingTypeEXT type; uint32_t n; const void * values; };

    struct LayerSettingsCreateInfoEXT { LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &) {} };
}
"""
MAIN = """
int main() {
    const bool layer_settings = true;

    std::vector<const char *> layers, extensions;
    vk::ApplicationInfo app_info;
%s
    return instance_create_info.pNext ? 1 : 2;
}
"""


def instance_code() -> str:
    """The lines of ggml_vk_instance_init() from the settings to the instance's parameters, with the directives around them."""
    source = (build_folder() / "llama.cpp" / "ggml" / "src" / "ggml-vulkan" / "ggml-vulkan.cpp").read_text(encoding="utf-8")
    settings = r"\n((?:#ifdef.*\n)? *VkBool32 enable_best_practice (?:.*\n)*?"
    instance = r" *vk::InstanceCreateInfo instance_create_info\(.*\n(?:#else\n.*\n#endif\n)?)"
    return re.search(settings + instance, source)[1]


@pytest.mark.parametrize("extension, status", [(EXTENSION, 1), ("", 2)], ids=["newer headers", "Debian 12's headers"])
def test_the_instance_has_the_settings_where_the_headers_have_them(tmp_path, extension, status):
    (tmp_path / "instance.cpp").write_text(HEADER + extension + MAIN % instance_code(), encoding="utf-8")
    compiler = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", (build_folder() / "CMakeCache.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
    made = subprocess.run([compiler, "-std=c++17", "instance.cpp", "-o", "instance"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert subprocess.run([tmp_path / "instance"]).returncode == status
