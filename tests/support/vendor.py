# SPDX-License-Identifier: Apache-2.0
"""What the vendor's shell prints, byte for byte (LunaSH command reference of SafeNet Network HSM 6.3)."""

SUCCESS = "\nCommand Result : 0 (Success)\n"
FAILURE = "\nCommand Result : 65535 (Luna Shell execution)\n"

# token backup factoryReset, over a network connection
REFUSAL = """
Error:  'token factoryReset' can only be run from the local
console. Login as 'admin' using the serial port on
the SafeNet Network HSM before running this command.

Command Result : 0 (Success)
"""
