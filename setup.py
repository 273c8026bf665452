"""Builds the optional native extension; everything else about the package is in pyproject.toml.

WEIGHTSCALE_FAST_NO_EXT=1 leaves the extension out. Without a C++ compiler it is left out too, and the package works
with its `torch` backend (`weightscale info` says so); a compiler that is there and fails is an error.
"""

import os
import shutil
import sys

from setuptools import setup


def native_extension() -> dict:
    """The setup() arguments that build weightscale_fast/_C, or none."""
    if os.environ.get("WEIGHTSCALE_FAST_NO_EXT") == "1":
        return {}
    compiler = os.environ.get("CXX", "c++").split()[0]
    if sys.platform == "win32" or not shutil.which(compiler):
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    extension = CppExtension(
        "weightscale_fast._C",
        ["csrc/cpu/rwc.cpp"],
        depends=["csrc/plan.h", "csrc/cpu/chunk.h"],
        # The stable ABI of torch 2.10: the binary serves 2.10 and every later version.
        define_macros=[("TORCH_TARGET_VERSION", "0x020a000000000000"), ("TORCH_STABLE_ONLY", None)],
        extra_compile_args=["-O3", "-fvisibility=hidden"],
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=False)},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**native_extension())
