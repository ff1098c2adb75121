"""scripts/dev/test_vulkan.sh names what is missing before it builds anything."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_missing_packages_are_named(tmp_path):
    for name in ("dirname", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    hidden = ("VULKAN_SDK", "VK_DRIVER_FILES", "VK_ICD_FILENAMES")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"PATH": str(tmp_path), "CXX": "no-compiler"}
    done = subprocess.run([ROOT / "scripts" / "dev" / "test_vulkan.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    needed, install = done.stderr.splitlines()
    assert needed.startswith("capkv: not here, and needed for Vulkan: libvulkan-dev spirv-headers glslc")
    assert install.startswith("       Debian, Ubuntu: apt install libvulkan-dev spirv-headers glslc")
