# SPDX-License-Identifier: Apache-2.0
"""A sysfs and a udev of the test's own: libumockdev, by its C interface.

A process that uses this must have been started under ``umockdev-wrapper``, and a `Testbed` must be there before libudev
is loaded. No more than ten events may be unread at a time: the kernel's queue for a Unix socket is that short, and
libumockdev 0.17 aborts the process on the next one.
"""

import ctypes
import os
from collections.abc import Mapping

MOST_UNREAD = 10

_Strings = ctypes.POINTER(ctypes.c_char_p)


def wrapped() -> bool:
    """Whether this process was started under umockdev-wrapper; without it nothing is intercepted."""
    return "umockdev" in os.environ.get("LD_PRELOAD", "")


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL("libumockdev.so.0")
    library.umockdev_testbed_new.restype = ctypes.c_void_p
    library.umockdev_testbed_add_devicev.restype = ctypes.c_void_p
    library.umockdev_testbed_add_devicev.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        _Strings,
        _Strings,
    ]
    for name, strings in {"uevent": 2, "remove_device": 1, "set_property": 3}.items():
        getattr(library, f"umockdev_testbed_{name}").argtypes = [ctypes.c_void_p] + [ctypes.c_char_p] * strings
    library.g_object_unref.argtypes = [ctypes.c_void_p]
    return library


class Testbed:
    """The devices of one test; `close` removes them all."""

    __test__ = False  # the name is umockdev's, not pytest's

    def __init__(self) -> None:
        self._library = _load()
        self._bed = self._library.umockdev_testbed_new()

    def add(self, name: str, attributes: Mapping[str, bytes | str], properties: Mapping[str, str]) -> str:
        """Plug in a device of the USB subsystem, which udev announces; its place in sysfs."""
        path: int = self._library.umockdev_testbed_add_devicev(
            self._bed, b"usb", name.encode(), None, _pairs(attributes), _pairs(properties)
        )
        return ctypes.string_at(path).decode()

    def say(self, sys_path: str, action: str) -> None:
        """Have udev announce something about a device."""
        self._library.umockdev_testbed_uevent(self._bed, sys_path.encode(), action.encode())

    def set_property(self, sys_path: str, name: str, value: str) -> None:
        """Change what the next announcement carries."""
        self._library.umockdev_testbed_set_property(self._bed, sys_path.encode(), name.encode(), value.encode())

    def unplug(self, sys_path: str) -> None:
        """Pull a device out: announced, then gone, as umockdev before 0.18.4 does not do by itself."""
        self.say(sys_path, "remove")
        self.lose(sys_path)

    def lose(self, sys_path: str) -> None:
        """Have a device gone from sysfs, unannounced."""
        self._library.umockdev_testbed_remove_device(self._bed, sys_path.encode())

    def close(self) -> None:
        """Remove everything."""
        self._library.g_object_unref(self._bed)


def _pairs(values: Mapping[str, bytes | str]) -> "ctypes.Array[ctypes.c_char_p]":
    """Names and values as the NULL-terminated list of strings that the library takes."""
    flat = [part if isinstance(part, bytes) else part.encode() for pair in values.items() for part in pair]
    return (ctypes.c_char_p * (len(flat) + 1))(*flat, None)
