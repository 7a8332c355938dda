# SPDX-License-Identifier: Apache-2.0
"""Tests that erase a device of somebody else's are collected only where such a device was named."""

import os

collect_ignore = [] if os.environ.get("APPLIANCE_USBIP") else ["test_foreign_firmware.py"]
