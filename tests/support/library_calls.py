# SPDX-License-Identifier: Apache-2.0
"""Calls of a PKCS#11 library, in a process that they may crash: python -m tests.support.library_calls LIBRARY CALLS.

CALLS is JSON, a list of names and arguments: numbers, null for NULL, and names of `_Process.named`. The library is
initialised before them; the code that each returned is printed, one a line.
"""

import ctypes
import json
import sys
from typing import Any

ULONG = ctypes.c_ulong
ENTRIES = {  # the places in CK_FUNCTION_LIST
    "C_Initialize": 0,
    "C_Finalize": 1,
    "C_GetInfo": 2,
    "C_GetSlotList": 4,
    "C_GetSlotInfo": 5,
    "C_GetTokenInfo": 6,
    "C_GetMechanismList": 7,
    "C_GetMechanismInfo": 8,
    "C_InitToken": 9,
    "C_InitPIN": 10,
    "C_OpenSession": 12,
    "C_CloseAllSessions": 14,
    "C_GetSessionInfo": 15,
    "C_Login": 18,
    "C_Logout": 19,
    "C_GetAttributeValue": 24,
    "C_FindObjectsInit": 26,
    "C_FindObjects": 27,
    "C_SignInit": 42,
    "C_Sign": 43,
    "C_GenerateKeyPair": 59,
}
ROOM = 4096  # bytes
ATTRIBUTE = 3 * 8  # bytes
RW_SERIAL_SESSION = 0x06  # CKF_RW_SESSION, CKF_SERIAL_SESSION


class _List(ctypes.Structure):
    _fields_ = (("version", ULONG), ("entries", ctypes.c_void_p * 68))


class _Process:
    """A process with the library, and a session with the token in the first slot."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._list = ctypes.POINTER(_List)()
        self._library.C_GetFunctionList(ctypes.byref(self._list))
        session = ULONG()
        self.call("C_Initialize", None)
        self.call("C_OpenSession", 0, RW_SERIAL_SESSION, None, None, session)
        self.named: dict[str, Any] = {
            "session": session.value,
            "room": ctypes.create_string_buffer(ROOM),
            "attributes": ctypes.create_string_buffer(ATTRIBUTE * 2000),  # empty ones, more than a message has room for
            "nowhere": (ULONG * 3)(0, 0, 5),  # an attribute with a length, and no value
            "length": ULONG(64),  # of a signature
            "ECDSA": (ULONG * 3)(0x1041, 0, 0),
            "EC_KEY_PAIR_GEN": (ULONG * 3)(0x1040, 0, 0),
        }

    def call(self, name: str, *arguments: Any) -> int:
        """The code that it returns."""
        if name in ENTRIES:
            function = ctypes.CFUNCTYPE(ULONG)(self._list.contents.entries[ENTRIES[name]])
        else:
            function = getattr(self._library, name)
        return int(function(*(ULONG(each) if isinstance(each, int) else _pointer(each) for each in arguments)))


def _pointer(to: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(to if to is None else ctypes.addressof(to))


def main(path: str, calls: str) -> None:
    """Make them one after another."""
    process = _Process(path)
    for name, *arguments in json.loads(calls):
        code = process.call(name, *(process.named[each] if isinstance(each, str) else each for each in arguments))
        print(code, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
