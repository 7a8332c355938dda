# SPDX-License-Identifier: Apache-2.0
"""How devices are named in the configuration; each reader raises `TypeError` or `ValueError` with the reason."""

import re
from typing import Any


def serials(value: Any) -> tuple[str, ...]:
    """An array of serial numbers."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('must be an array of strings, such as ["667788"]')
    for item in value:
        if not re.fullmatch(r"[!-~]{1,64}", item):
            raise ValueError("each must be a serial number of 1 to 64 printable ASCII characters without blanks")
        if value.count(item) > 1:
            raise ValueError(f"{item} is listed twice")
    return tuple(value)


def usb_ids(value: Any) -> tuple[tuple[int, int], ...]:
    """An array of USB ids: vendor and product."""
    if not isinstance(value, list) or not all(
        isinstance(item, str) and re.fullmatch("[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}", item) for item in value
    ):
        raise ValueError('must be an array of USB ids, such as ["1a2b:0001"]')
    ids = [(int(item[:4], 16), int(item[5:], 16)) for item in value]
    if (0, 0) in ids:
        raise ValueError("0000:0000 is no device's USB id")
    if len(set(ids)) < len(ids):
        raise ValueError("a USB id is listed twice")
    return tuple(ids)


def decimal(value: Any) -> str:
    """A serial number that is a number, or none."""
    if not (isinstance(value, str) and re.fullmatch("[0-9]{0,32}", value)):
        raise ValueError("must be a decimal number in quotation marks")
    return value
