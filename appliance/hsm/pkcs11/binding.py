# SPDX-License-Identifier: Apache-2.0
"""The functions of a PKCS#11 library, through ctypes; for the child process only: any of them can hang or crash.

The layout is that of PKCS#11 2.40 on Linux, where a structure is packed as the C compiler does it. The vendor's own
functions (CA_...) are found by name.
"""

import ctypes
import os
import signal
from collections.abc import Mapping
from typing import Any

ULONG = ctypes.c_ulong
POINTER = ctypes.c_void_p

RW_SESSION = 0x02  # CKF_RW_SESSION
SERIAL_SESSION = 0x04  # CKF_SERIAL_SESSION
SECURITY_OFFICER = 0  # CKU_SO
LABEL_SIZE = 32  # bytes
BATCH = 64  # object handles asked for at once
MOST_SLOTS = 1024
MOST_OBJECTS = 100_000  # beyond them nobody counts
CLASS = 0x00  # CKA_CLASS
# Objects that are the module's own and not the token's (PKCS#11 3.0, 4.3, 4.5 and 4.13).
HARDWARE_FEATURE, MECHANISM, PROFILE = 0x05, 0x07, 0x09
PR_SET_PDEATHSIG = 1  # prctl(2)

# CKR_SLOT_ID_INVALID, _DEVICE_ERROR, _DEVICE_REMOVED, _TOKEN_NOT_PRESENT, _TOKEN_NOT_RECOGNIZED: of one slot
NO_TOKEN = (0x03, 0x30, 0x32, 0xE0, 0xE1)


class Version(ctypes.Structure):
    """``CK_VERSION``."""

    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class SlotInfo(ctypes.Structure):
    """``CK_SLOT_INFO``."""

    _fields_ = (
        ("description", ctypes.c_ubyte * 64),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("flags", ULONG),
        ("hardware", Version),
        ("firmware", Version),
    )


class TokenInfo(ctypes.Structure):
    """``CK_TOKEN_INFO``."""

    _fields_ = (
        ("label", ctypes.c_ubyte * 32),
        ("manufacturer", ctypes.c_ubyte * 32),
        ("model", ctypes.c_ubyte * 16),
        ("serial", ctypes.c_ubyte * 16),
        ("flags", ULONG),
        ("max_sessions", ULONG),
        ("sessions", ULONG),
        ("max_rw_sessions", ULONG),
        ("rw_sessions", ULONG),
        ("max_pin", ULONG),
        ("min_pin", ULONG),
        ("total_public", ULONG),
        ("free_public", ULONG),
        ("total_private", ULONG),
        ("free_private", ULONG),
        ("hardware", Version),
        ("firmware", Version),
        ("time", ctypes.c_ubyte * 16),
    )


class Attribute(ctypes.Structure):
    """``CK_ATTRIBUTE``."""

    _fields_ = (("kind", ULONG), ("value", POINTER), ("size", ULONG))


# The place of each function in CK_FUNCTION_LIST, and its parameters.
STANDARD: Mapping[str, tuple[int, tuple[Any, ...]]] = {
    "C_Initialize": (0, (POINTER,)),
    "C_Finalize": (1, (POINTER,)),
    "C_GetSlotList": (4, (ctypes.c_ubyte, POINTER, POINTER)),
    "C_GetSlotInfo": (5, (ULONG, POINTER)),
    "C_GetTokenInfo": (6, (ULONG, POINTER)),
    "C_InitToken": (9, (ULONG, ctypes.c_char_p, ULONG, ctypes.c_char_p)),
    "C_OpenSession": (12, (ULONG, ULONG, POINTER, POINTER, POINTER)),
    "C_CloseSession": (13, (ULONG,)),
    "C_Login": (18, (ULONG, ULONG, ctypes.c_char_p, ULONG)),
    "C_Logout": (19, (ULONG,)),
    "C_GetAttributeValue": (24, (ULONG, ULONG, POINTER, ULONG)),
    "C_FindObjectsInit": (26, (ULONG, POINTER, ULONG)),
    "C_FindObjects": (27, (ULONG, POINTER, ULONG, POINTER)),
    "C_FindObjectsFinal": (28, (ULONG,)),
}
VENDOR: Mapping[str, tuple[Any, ...]] = {
    "CA_FactoryReset": (ULONG, ULONG),
    "CA_GetFirmwareVersion": (ULONG, POINTER, POINTER, POINTER),
    "CA_GetTokenInsertionCount": (ULONG, POINTER),
}


class FunctionList(ctypes.Structure):
    """The beginning of ``CK_FUNCTION_LIST``."""

    _fields_ = (("version", Version), ("functions", POINTER * 29))


class Unloadable(Exception):
    """The file is no library, or no PKCS#11 library."""


class Missing(Exception):
    """The library has no such function."""


class Failed(Exception):
    """A function did not return CKR_OK."""

    def __init__(self, function: str, value: int) -> None:
        super().__init__(function, value)
        self.function = function
        self.value = value


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however deep a library hangs by then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that was said
        os._exit(1)


class Library:
    """One loaded and initialised library."""

    def __init__(self, path: str) -> None:
        """Raises `Unloadable` or `Failed`."""
        try:
            self._handle = ctypes.CDLL(path)
            get = self._handle.C_GetFunctionList
        except (OSError, AttributeError) as error:
            raise Unloadable(str(error)) from error
        get.restype = ULONG
        pointer = ctypes.POINTER(FunctionList)()
        _check("C_GetFunctionList", get(ctypes.byref(pointer)))
        if not pointer:
            raise Unloadable("it gives no list of functions")
        self._functions = pointer.contents.functions
        self._call("C_Initialize", None)

    def tokens(self) -> list[dict[str, Any]]:
        """Every token that is in a slot; one that was taken out meanwhile, or fails, hides no other."""
        tokens = []
        for slot in self._slots():
            try:
                tokens.append(self._token(slot))
            except Failed as failure:
                if failure.value not in NO_TOKEN:
                    raise
        return tokens

    def insertions(self, slot: int) -> int:
        """How often a token was put into the slot."""
        count = ULONG()
        self._call("CA_GetTokenInsertionCount", slot, ctypes.byref(count))
        return count.value

    def firmware(self, slot: int) -> str:
        """The firmware version in full; CK_TOKEN_INFO has two numbers of it."""
        numbers = (ULONG(), ULONG(), ULONG())
        self._call("CA_GetFirmwareVersion", slot, *map(ctypes.byref, numbers))
        return ".".join(str(number.value) for number in numbers)

    def factory_reset(self, slot: int) -> None:
        """Back to factory settings, without a login."""
        self._call("CA_FactoryReset", slot, 0)

    def init_token(self, slot: int, pin: str, label: str) -> None:
        """Destroy every object and the user's PIN; the security officer's stays, or is set where there was none."""
        text = pin.encode()
        self._call("C_InitToken", slot, text, len(text), label.encode().ljust(LABEL_SIZE))

    def open_session(self, slot: int) -> int:
        """A session in which the security officer can log in."""
        session = ULONG()
        self._call("C_OpenSession", slot, SERIAL_SESSION | RW_SESSION, None, None, ctypes.byref(session))
        return session.value

    def log_in(self, session: int, pin: str) -> None:
        """Log the security officer in."""
        text = pin.encode()
        self._call("C_Login", session, SECURITY_OFFICER, text, len(text))

    def log_out(self, session: int) -> None:
        """Log out, and end the session."""
        self._call("C_Logout", session)
        self._call("C_CloseSession", session)

    def objects(self, slot: int) -> int:
        """How many objects of the token a session without a login sees."""
        session, handles, found, total = ULONG(), (ULONG * BATCH)(), ULONG(), 0
        self._call("C_OpenSession", slot, SERIAL_SESSION, None, None, ctypes.byref(session))
        self._call("C_FindObjectsInit", session, None, 0)
        while total < MOST_OBJECTS:
            self._call("C_FindObjects", session, handles, BATCH, ctypes.byref(found))
            if not found.value:
                break
            total += sum(self._is_the_tokens(session, handle) for handle in handles[: found.value])
        self._call("C_FindObjectsFinal", session)
        self._call("C_CloseSession", session)
        return total

    def _is_the_tokens(self, session: Any, handle: int) -> bool:
        """Whether an object is on the token; one that does not tell its class is."""
        kind = ULONG()
        attribute = Attribute(CLASS, ctypes.addressof(kind), ctypes.sizeof(kind))
        try:
            self._call("C_GetAttributeValue", session, handle, ctypes.byref(attribute), 1)
        except Failed:
            return True
        return kind.value not in (HARDWARE_FEATURE, MECHANISM, PROFILE)

    def finalize(self) -> None:
        """Let go of everything."""
        self._call("C_Finalize", None)

    def _slots(self) -> list[int]:
        slots, count = (ULONG * MOST_SLOTS)(), ULONG(MOST_SLOTS)
        self._call("C_GetSlotList", 1, slots, ctypes.byref(count))
        return list(slots[: count.value])

    def _token(self, number: int) -> dict[str, Any]:
        slot, token = SlotInfo(), TokenInfo()
        self._call("C_GetSlotInfo", number, ctypes.byref(slot))
        self._call("C_GetTokenInfo", number, ctypes.byref(token))
        return {
            "slot": number,
            "slot_flags": slot.flags,
            "slot_description": _text(slot.description),
            "label": _text(token.label),
            "model": _text(token.model),
            "serial": _text(token.serial),
            "flags": token.flags,
            "firmware": _version(token.firmware),
            "shortest_pin": token.min_pin,
        }

    def _call(self, name: str, *arguments: Any) -> None:
        _check(name, self._function(name)(*arguments))

    def _function(self, name: str) -> Any:
        if name in STANDARD:
            place, parameters = STANDARD[name]
            address = self._functions[place]
        else:
            parameters = VENDOR[name]
            try:
                address = ctypes.cast(getattr(self._handle, name), POINTER).value
            except AttributeError:
                address = None
        if not address:
            raise Missing(name)
        return ctypes.CFUNCTYPE(ULONG, *parameters)(address)


def _check(function: str, value: int) -> None:
    if value:
        raise Failed(function, value)


def _text(field: Any) -> str:
    """A text of fixed length, padded with blanks; some libraries end it with a zero instead."""
    return bytes(field).partition(b"\0")[0].decode("utf-8", "replace").strip()


def _version(version: Any) -> str:
    return f"{version.major}.{version.minor}"
