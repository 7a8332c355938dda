# SPDX-License-Identifier: Apache-2.0
"""The process in which a PKCS#11 library is loaded: python -I -m appliance.hsm.pkcs11.child PARENT DESCRIPTOR.

It answers one JSON object a line on the inherited socket, and ends when that is closed or when its parent ends. What
is secret comes over the socket, never in the arguments or the environment.
"""

import json
import socket
import sys
from typing import Any

from appliance.hsm.pkcs11.binding import Failed, Library, Missing, Unloadable, end_with_parent


def main(parent: str, descriptor: str) -> None:
    """Serve the parent until it closes the socket."""
    end_with_parent(int(parent))
    with socket.socket(fileno=int(descriptor)) as line:
        line.set_inheritable(False)  # programs that the library starts do not hold it open
        requests = line.makefile("rb")
        library: Library | None = None
        for request in requests:
            library, answer = _answer(library, json.loads(request))
            line.sendall(json.dumps(answer).encode() + b"\n")
        if library is not None:
            library.finalize()


def _answer(library: Library | None, request: dict[str, Any]) -> tuple[Library | None, dict[str, Any]]:
    call, arguments = request["call"], request["arguments"]
    try:
        if call == "load":
            return Library(*arguments), {"result": None}
        return library, {"result": getattr(library, call)(*arguments)}
    except Unloadable as problem:
        return library, {"unloadable": str(problem)}
    except Missing as problem:
        return library, {"missing": str(problem)}
    except Failed as problem:
        return library, {"failed": problem.function, "value": problem.value}


if __name__ == "__main__":
    main(*sys.argv[1:])
