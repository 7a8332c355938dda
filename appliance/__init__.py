# SPDX-License-Identifier: Apache-2.0
"""The open local console for network-HSM appliances."""

__version__ = "0.1.0"
