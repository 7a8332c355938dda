# SPDX-License-Identifier: Apache-2.0
"""What a PKCS#11 function returned: its name, the sentence for people, and which of our errors it is.

Names and numbers are those of PKCS#11 2.40, 4 (CKR_), and of the vendor of the Luna HSMs (LUNA_RET_).
"""

from collections.abc import Mapping

from appliance.errors import DeviceError, DeviceGone, DeviceRefused, DeviceTimeout, SecretRefused

VENDOR_DEFINED = 0x80000000
PIN_INCORRECT = 0xA0
SECRET_REFUSED = (PIN_INCORRECT, 0xA4)  # wrong; or locked, by this try or before

NAMES: Mapping[int, str] = {
    0x01: "CKR_CANCEL",
    0x02: "CKR_HOST_MEMORY",
    0x03: "CKR_SLOT_ID_INVALID",
    0x05: "CKR_GENERAL_ERROR",
    0x06: "CKR_FUNCTION_FAILED",
    0x07: "CKR_ARGUMENTS_BAD",
    0x08: "CKR_NO_EVENT",
    0x0A: "CKR_CANT_LOCK",
    0x30: "CKR_DEVICE_ERROR",
    0x31: "CKR_DEVICE_MEMORY",
    0x32: "CKR_DEVICE_REMOVED",
    0x50: "CKR_FUNCTION_CANCELED",
    0x54: "CKR_FUNCTION_NOT_SUPPORTED",
    0xA0: "CKR_PIN_INCORRECT",
    0xA1: "CKR_PIN_INVALID",
    0xA2: "CKR_PIN_LEN_RANGE",
    0xA3: "CKR_PIN_EXPIRED",
    0xA4: "CKR_PIN_LOCKED",
    0xB1: "CKR_SESSION_COUNT",
    0xB6: "CKR_SESSION_EXISTS",
    0xE0: "CKR_TOKEN_NOT_PRESENT",
    0xE1: "CKR_TOKEN_NOT_RECOGNIZED",
    0xE2: "CKR_TOKEN_WRITE_PROTECTED",
    0x150: "CKR_BUFFER_TOO_SMALL",
    0x190: "CKR_CRYPTOKI_NOT_INITIALIZED",
    0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
    0x200: "CKR_FUNCTION_REJECTED",
    0x8000001C: "LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD",
    0x80000026: "LUNA_RET_MTK_ZEROIZED",
    0x8000002B: "LUNA_RET_DEVICE_TIMEOUT",
    0x80000030: "LUNA_RET_OPERATION_NOT_ALLOWED",
    0x80000031: "LUNA_RET_LICENSE_CAPACITY_EXCEEDED",
    0x8000006E: "LUNA_RET_STM_CMD_NON_TRANSPORT",
}

# Where the name alone would leave a person without a next step.
_SENTENCES: Mapping[int, str] = {
    0x03: "the library does not know the token's slot any more",
    0x30: "the token reports a fault of its own",
    0x32: "the token was removed",
    0x54: "the library cannot do that",
    0xA0: "the SO PIN is wrong",
    0xA4: "the SO PIN is locked",
    0xB6: "another program has a session with the token",
    0xE0: "the token is not in its slot any more",
    0x8000001C: "the security officer has failed to log in too often",
    0x80000026: "its tamper key is erased, and has to be recovered first",
    0x8000002B: "the token did not answer the library in time",
    0x80000030: "the token does not allow it in its present state",
    0x8000006E: "the token is in secure transport mode, and has to be recovered from it first",
}

_GONE = (0x03, 0x32, 0xE0)
_LATE = (0x8000002B,)
_UNCLEAR = (0x02, 0x05, 0x06, 0x30, 0x31, 0x50)  # whether anything was done before it failed nobody can say


def code(value: int) -> str:
    """The code in the layout of the vendor's shell: a code of PKCS#11's own stands in the upper half of a word."""
    name = NAMES.get(value, "LUNA_RET_UNKNOWN" if value >= VENDOR_DEFINED else "CKR_UNKNOWN")
    return f"{value << 16 if value < 0x8000 else value:X} : {name}"


def error(function: str, value: int) -> DeviceError:
    """Our error for what `function` returned; `value` is not CKR_OK."""
    sentence = _SENTENCES.get(value, f"the library's {function} failed")
    if value in SECRET_REFUSED:
        return SecretRefused(sentence, value, code(value))
    kinds = ((_GONE, DeviceGone), (_LATE, DeviceTimeout), (_UNCLEAR, DeviceError))
    for values, kind in kinds:
        if value in values:
            return kind(f"{sentence} ({code(value)})")
    return DeviceRefused(sentence, value, code(value))
