# SPDX-License-Identifier: Apache-2.0
"""A PKCS#11 library does its work in a process of its own, and whatever it does there costs one call and no process."""

import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from appliance.errors import (
    DeviceError,
    DeviceGone,
    DeviceRefused,
    DeviceTimeout,
    ProtocolError,
    SecretRefused,
)
from appliance.hsm.model import Secret
from appliance.hsm.pkcs11 import client
from appliance.hsm.pkcs11.client import Library, MissingFunction, Token, loaded
from tests.support.pty_child import running
from tests.support.vendor_module import (
    BOUND,
    SERIAL,
    SO_PIN,
    SOFTHSM,
    USER_PIN,
    VendorModule,
    children,
    needs_softhsm,
    softhsm,
    tool,
)

pytestmark = needs_softhsm


def only(library: Library) -> Token:
    """The one token there is."""
    [token] = library.tokens()
    return token


def test_a_token_tells_what_it_is(vendor: VendorModule) -> None:
    """Slot, label, serial number and PIN lengths come out of the library, without the padding."""
    with loaded(vendor.library) as library:
        token = only(library)
        firmware, insertions = library.firmware(token.slot), library.insertions(token.slot)

    assert (token.label, token.serial, token.slot_description) == ("vault", SERIAL, "Luna UHD Slot")
    assert (token.model, token.shortest_pin) == ("SoftHSM v2", 4)
    assert (firmware, insertions) == ("6.24.3", 1)


def test_softhsm_itself_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that has none of the vendor's functions works, and says what it lacks."""
    softhsm(tmp_path, monkeypatch)
    with loaded(SOFTHSM) as library:
        token = next(token for token in library.tokens() if token.label == "vault")
        with pytest.raises(MissingFunction, match="no function CA_FactoryReset"):
            library.factory_reset(token.slot)
        library.init_token(token.slot, Secret(SO_PIN), "blank")
        assert library.objects(token.slot) == 0
    listed = tool("--list-slots")
    assert ("vault" in listed, "blank" in listed) == (False, True)


def test_objects_are_counted(vendor: VendorModule) -> None:
    """What a session without a login sees is counted: the key, and what was written beside it."""
    for number in range(2):
        tool("--write-object", "/dev/null", "--type", "data", "--label", str(number), "--login", "--pin", USER_PIN)
    with loaded(vendor.library) as library:
        assert library.objects(only(library).slot) == 3


def test_a_wrong_so_pin_is_refused(vendor: VendorModule) -> None:
    """The token says no, it keeps what it holds, and the error does not quote the PIN."""
    with loaded(vendor.library) as library, pytest.raises(SecretRefused) as raised:
        library.init_token(only(library).slot, Secret("a-wrong-one"), "blank")

    assert str(raised.value) == "the SO PIN is wrong (A00000 : CKR_PIN_INCORRECT)"
    assert vendor.keys() == 1


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("03", DeviceGone, "does not know the token's slot any more (30000 : CKR_SLOT_ID_INVALID)"),
        ("30", DeviceError, "reports a fault of its own (300000 : CKR_DEVICE_ERROR)"),
        ("32", DeviceGone, "the token was removed (320000 : CKR_DEVICE_REMOVED)"),
        ("B6", DeviceRefused, "another program has a session with the token (B60000 : CKR_SESSION_EXISTS)"),
        ("E0", DeviceGone, "the token is not in its slot any more (E00000 : CKR_TOKEN_NOT_PRESENT)"),
        ("8000001C", DeviceRefused, "too often (8000001C : LUNA_RET_SO_LOGIN_FAILURE_THRESHOLD)"),
        ("80000026", DeviceRefused, "recovered first (80000026 : LUNA_RET_MTK_ZEROIZED)"),
        ("8000002B", DeviceTimeout, "did not answer the library in time (8000002B : LUNA_RET_DEVICE_TIMEOUT)"),
        ("80000030", DeviceRefused, "in its present state (80000030 : LUNA_RET_OPERATION_NOT_ALLOWED)"),
        ("80000031", DeviceRefused, "CA_FactoryReset failed (80000031 : LUNA_RET_LICENSE_CAPACITY_EXCEEDED)"),
        (
            "8000006E",
            DeviceRefused,
            "secure transport mode, and has to be recovered from it first (8000006E : LUNA_RET",
        ),
        ("77", DeviceRefused, "the library's CA_FactoryReset failed (770000 : CKR_UNKNOWN)"),
        ("80000FFF", DeviceRefused, "the library's CA_FactoryReset failed (80000FFF : LUNA_RET_UNKNOWN)"),
    ],
)
def test_a_return_code_is_named(vendor: VendorModule, code: str, kind: type[DeviceError], text: str) -> None:
    """Each code is an error of ours, with a sentence and its name in the layout of the vendor's shell."""
    vendor.tell("fault-CA_FactoryReset", code)
    with loaded(vendor.library) as library, pytest.raises(DeviceError) as raised:
        library.factory_reset(only(library).slot)

    assert type(raised.value) is kind
    assert text in str(raised.value)


def test_a_library_that_crashes_costs_the_call(vendor: VendorModule) -> None:
    """The error says in which call and of what it died; every further call fails at once."""
    vendor.tell("fault-CA_FactoryReset", "crash")
    with loaded(vendor.library) as library:
        slot = only(library).slot
        with pytest.raises(ProtocolError, match=r"the library crashed \(factory_reset: SIGSEGV\)"):
            library.factory_reset(slot)
        with pytest.raises(ProtocolError, match="the library crashed"):
            library.tokens()


def test_a_library_that_hangs_is_killed(vendor: VendorModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over the call fails; what is asked after that fails at once."""
    monkeypatch.setattr(client, "RESET_TIMEOUT", 0.2)
    vendor.tell("fault-CA_FactoryReset", "hang")
    with loaded(vendor.library) as library:
        slot = only(library).slot
        with pytest.raises(DeviceTimeout, match=r"the library does not answer \(factory_reset\)"):
            library.factory_reset(slot)
        with pytest.raises(ProtocolError, match=r"the library crashed \(tokens: SIGKILL\)"):
            library.tokens()


@pytest.mark.parametrize(("fault", "error"), [("hang", DeviceTimeout), ("crash", ProtocolError), ("05", DeviceError)])
def test_a_library_that_fails_to_initialise_leaves_nothing(
    vendor: VendorModule, fault: str, error: type[DeviceError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs, crashes or fails in C_Initialize is an error of ours, and its process is gone."""
    if fault == "hang":  # else it is to have the time that it needs
        monkeypatch.setattr(client, "LOAD_TIMEOUT", 2.0)
    vendor.tell("fault-C_Initialize", fault)
    with ExitStack() as stack, pytest.raises(error):
        stack.enter_context(loaded(vendor.library))

    assert vendor.calls("C_Initialize") == 1


@pytest.mark.parametrize("fault", ["hang", "crash", "05"])
def test_a_library_that_does_not_let_go_is_killed(vendor: VendorModule, fault: str) -> None:
    """What a library does in C_Finalize costs nothing: the work is done."""
    vendor.tell("fault-C_Finalize", fault)
    with loaded(vendor.library) as library:
        only(library)

    assert vendor.calls("C_Finalize") == 1


@pytest.mark.parametrize("fault", ["0", "crash"])
def test_what_a_library_starts_ends_with_it(vendor: VendorModule, fault: str) -> None:
    """A process that the library has started does not outlive it, however it ends."""
    vendor.tell("helper")
    vendor.tell("fault-C_Finalize", fault)
    with loaded(vendor.library):
        helper = os.pidfd_open(int((vendor.folder / "helper").read_text()))

    assert ended(helper)


def test_without_descriptors_no_process_is_left(vendor: VendorModule) -> None:
    """When the daemon can open nothing more, a library is not started, and one that runs still ends."""
    before = children()
    vendor.tell("fault-C_Finalize", "hang")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as undone:
        with loaded(vendor.library):
            undone.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        with pytest.raises(DeviceError, match="cannot be started: Too many open files"), loaded(vendor.library):
            pass
    assert children() == before


@pytest.mark.parametrize("code", ["03", "30", "32", "E0", "E1"])
def test_a_slot_that_does_not_tell_is_no_token(vendor: VendorModule, code: str) -> None:
    """A token that was taken out between the list and the question, or is broken, is not there; the rest works."""
    with loaded(vendor.library) as library:
        slot = only(library).slot
        vendor.tell("fault-C_GetTokenInfo", code)
        assert library.tokens() == ()
        assert library.objects(slot) > 0


@pytest.mark.parametrize("path", ["/nonexistent/libCryptoki2_64.so", "/etc/passwd"])
def test_what_is_no_library_is_said(path: str) -> None:
    """The reason is the loader's."""
    with ExitStack() as stack, pytest.raises(DeviceError, match=f"the library cannot be loaded: {path}"):
        stack.enter_context(loaded(Path(path)))


def test_a_library_without_pkcs11_is_said() -> None:
    """Any other library is refused by name."""
    with ExitStack() as stack, pytest.raises(DeviceError, match=r"cannot be loaded: .*C_GetFunctionList"):
        stack.enter_context(loaded(Path("libm.so.6")))


def test_a_hung_library_ends_with_us(vendor: VendorModule) -> None:
    """When the daemon is killed, a process that hangs in the library is killed with it."""
    vendor.tell("fault-C_Initialize", "hang")
    load = "import sys, pathlib; from appliance.hsm.pkcs11.client import loaded; loaded(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", f"{load}.__enter__()", str(vendor.library)]
    with running(command) as daemon:
        child = hanging_child(daemon.pid, vendor)
        daemon.kill()
        assert ended(child)


def hanging_child(parent: int, vendor: VendorModule) -> int:
    """A descriptor for the child of a process, once it is in C_Initialize."""
    vendor.reached("C_Initialize")
    [child] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return os.pidfd_open(int(child))


def ended(watch: int) -> bool:
    """Whether the process ends; it is killed if it does not."""
    try:
        if select.select([watch], [], [], BOUND)[0]:
            return True
        signal.pidfd_send_signal(watch, signal.SIGKILL)
        return False
    finally:
        os.close(watch)


@pytest.mark.parametrize(
    ("function", "use"), [("C_InitToken", partial(Library.init_token, label="")), ("C_Login", Library.log_in)]
)
def test_no_secret_is_in_the_process_list(
    vendor: VendorModule,
    function: str,
    use: Callable[[Library, int, Secret], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the SO PIN is in use, neither arguments nor environment of the process hold it, nor does the error."""
    vendor.tell(f"fault-{function}", "hang")
    before = set(children())
    with loaded(vendor.library) as library, ThreadPoolExecutor() as pool:
        slot = only(library).slot
        [child] = set(children()) - before
        for limit in ("RESET_TIMEOUT", "CALL_TIMEOUT"):
            monkeypatch.setattr(client, limit, 2.0)
        call = pool.submit(use, library, slot, Secret("very-secret"))
        vendor.reached(function)
        seen = b"".join(Path(f"/proc/{child}/{name}").read_bytes() for name in ("cmdline", "environ"))
        error = call.exception(BOUND)

    assert b"appliance.hsm.pkcs11.child" in seen
    assert b"very-secret" not in seen
    assert isinstance(error, DeviceTimeout)
    assert "very-secret" not in repr(error)
