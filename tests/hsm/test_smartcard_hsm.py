# SPDX-License-Identifier: Apache-2.0
"""A SmartCard-HSM is asked in exactly the commands that cost nothing, and reset by one INITIALIZE DEVICE."""

import pytest

from appliance.errors import (
    DeviceError,
    DeviceRefused,
    DeviceTimeout,
    NotThisFamily,
    ProtocolError,
    ResetUnsupported,
    SecretRefused,
)
from appliance.hsm.drivers import smartcard_hsm
from appliance.hsm.drivers.smartcard_hsm import SmartcardHsmDriver
from appliance.hsm.model import Attachment, Credential, HsmState, Secret
from appliance.hsm.usb import UsbBus
from tests.support.scripted_usb import AUTOMATIC_VOLTAGE, SHORT_APDU, Fault
from tests.support.smartcard_hsm_script import (
    DKEK,
    ENUMERATE,
    GNUK,
    INITIALIZE,
    NITROKEY,
    NITROKEY_SERIAL,
    OTHER_PICO,
    PICO,
    READ_CERTIFICATE,
    READ_LABEL,
    SELECT,
    SO_PIN,
    SO_TRIES,
    STICK,
    USER_TRIES,
    certificate,
    probing,
    resetting,
    scripted,
)

DRIVER = SmartcardHsmDriver(UsbBus())
BOARD = "E6609103C32B7A2A"
SHORT = SHORT_APDU | AUTOMATIC_VOLTAGE
WRONG = "0000000000000001"


# Serial numbers


@pytest.mark.parametrize(
    ("serial", "normal"),
    [
        ("", ""),
        ("   ", ""),
        (NITROKEY_SERIAL, "DENK0403514"),
        ("DENK04035140000", "DENK0403514"),
        ("DENK04035140001", "DENK0403514"),  # ten certificates later
        ("DENK0403514", "DENK0403514"),
        (" denk0403514\n", "DENK0403514"),
        ("DENK0400000", "DENK0400000"),  # zeros of its own
        ("DENK04000000000", "DENK0400000"),
        ("DENK0000000", "DENK0000000"),
        ("0000", "0000"),
        ("E6609103C32B0000", "E6609103C32B0000"),  # a board's number
        ("e6609103c32b7a2a", BOARD),
        ("DE609103C320000", "DE609103C32"),  # no board has fifteen digits
        ("55511822300123", "55511822300123"),
        ("667788", "667788"),
    ],
)
def test_serials_are_normalised(serial: str, normal: str) -> None:
    """Blanks, case and what follows the number on USB do not matter; zeros of the number itself do."""
    assert DRIVER.normalise(serial) == normal
    assert DRIVER.normalise(normal) == normal


@pytest.mark.parametrize(
    ("usb_id", "usb_serial", "serial"),
    [
        (NITROKEY, NITROKEY_SERIAL, "DENK0403514"),
        (STICK, "55511822300123", ""),  # the reader's
        (PICO, BOARD.lower(), BOARD),
        (PICO, "E6609103C32B0000", "E6609103C32B0000"),
        (NITROKEY, "", ""),
    ],
)
def test_usb_alone_suggests_a_serial(usb_id: tuple[int, int], usb_serial: str, serial: str) -> None:
    """But none where USB only knows the reader's."""
    assert DRIVER.serial_from_usb(Attachment("/sys/x", 1, 2, 3, *usb_id, usb_serial)) == serial


@pytest.mark.parametrize(
    ("usb_id", "usb_serial", "holder", "serial", "model"),
    [
        (NITROKEY, NITROKEY_SERIAL, "DENK040351400001", "DENK0403514", "Nitrokey HSM"),
        (NITROKEY, "DENK04035140000", "DENK040351400002", "DENK0403514", "Nitrokey HSM"),  # another certificate
        (NITROKEY, "DENK0200000", "DENK02000001", "DENK020", "Nitrokey HSM"),  # a short number, and its filling
        (NITROKEY, "", "DENK040351400001", "DENK0403514", "Nitrokey HSM"),
        (STICK, "55511822300123", "DECC010000100001", "DECC0100001", "SmartCard-HSM"),
        (PICO, BOARD, "ESPICOHSMTR00001", BOARD, "Pico HSM"),
        (PICO, BOARD, "DENK040351400001", "DENK0403514", "Pico HSM"),  # provisioned
        (PICO, "", "ESPICOHSMTR00001", "", "Pico HSM"),
        (OTHER_PICO, BOARD, "ESPICOHSMTR00001", BOARD, "Pico HSM"),
        (OTHER_PICO, BOARD, "ESTERMHSM00001", BOARD, "Pico HSM"),  # of the first versions
        (NITROKEY, BOARD, "ESP1A2B3C4D00001", "ESP1A2B3C4D", "Pico HSM"),  # provisioned, and under another's id
        (GNUK, BOARD, "ESPICOHSMTR00001", BOARD, "Pico HSM"),
        (STICK, "55511822300123", "DENK010000100001", "DENK0100001", "SmartCard-HSM"),
        (NITROKEY, "E6609103C32B0000", "ESPICOHSMTR00001", "E6609103C32B0000", "Pico HSM"),  # under another's id
    ],
)
def test_the_serial_is_found(usb_id: tuple[int, int], usb_serial: str, holder: str, serial: str, model: str) -> None:
    """In the certificate of the device, or on USB where all devices have one certificate; no two disagree."""
    script = probing(cvc=certificate(holder) + "6282")
    with scripted(script, usb_id=usb_id, serial=usb_serial) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.model, probe.obstacle, probe.conflict) == (serial, model, "", "")


def test_two_serials_are_shown_and_neither_is_reset() -> None:
    """A stick whose USB side tells another number than its card is no device to be sure of."""
    with scripted(probing(), serial="DENK04035150000") as (connection, _):
        probe = connection.probe()

    conflict = "USB says DENK0403515, the card says DENK0403514"
    assert probe.serial == "DENK0403514"
    assert probe.conflict == conflict
    assert probe.obstacle == f"{conflict}: it is reset under neither number"


@pytest.mark.parametrize("told", ["010000000000000000000000", "6F00", BOARD, "DENK"])
def test_what_is_no_number_on_usb_is_told_and_stops_no_reset(told: str) -> None:
    """Where its controller could not read the card, a stick says something else: the person is told, and decides."""
    with scripted(probing(), serial=told) as (connection, _):
        probe = connection.probe()

    assert (probe.serial, probe.obstacle) == ("DENK0403514", "")
    assert probe.conflict == f"USB says {told}, the card says DENK0403514"


@pytest.mark.parametrize("answer", ["6A82", "9000", "7F2100" + "9000"])
def test_without_a_certificate_usb_tells_the_serial(answer: str) -> None:
    """A device that has none is called as USB has it."""
    with scripted(probing(cvc=answer)) as (connection, _):
        assert connection.probe().serial == "DENK0403514"


# The probe


def test_a_device_in_factory_state_is_zeroized() -> None:
    """It holds its own key only, and all tries are left."""
    with scripted(probing()) as (connection, _):
        probe = connection.probe()

    assert (probe.state, probe.shortcomings, probe.obstacle, probe.firmware) == (HsmState.ZEROIZED, (), "", "3.5")
    assert probe.details == (
        ("PIN tries left", "user 3, SO 15"),
        ("Keys", "none"),
        ("Other objects", "none"),
        ("DKEK", "none"),
    )
    assert probe.credential == Credential("SO PIN", "[0-9A-Fa-f]{16}", "The SO PIN has 16 hexadecimal digits.", 15)


@pytest.mark.parametrize(
    ("script", "shortcomings"),
    [
        (probing(objects="C400CC00" + "9000"), []),
        (probing(objects="CC002F022F03" + "9000"), []),
        (probing(objects="C400CC000000" + "9000"), []),  # filled up
        (probing(objects="CC00CC01" + "9000"), ["one key is present"]),
        (probing(objects="C4 01 CE01 CC00 CC01 CC02" + "9000"), ["2 keys are present", "2 other objects are present"]),
        (probing(objects="CC00C901" + "9000"), ["one other object is present"]),
        (probing(so="63CE"), ["the SO PIN has 14 tries left, not 15"]),
        (probing(so="6983"), ["the SO PIN has 0 tries left, not 15"]),
        (probing(user="63C2"), ["the user PIN has 2 tries left, not 3"]),
        (probing(user="63C8"), ["the user PIN has 8 tries left, not 3"]),
        (probing(user="6983"), ["the user PIN has 0 tries left, not 3"]),
        (probing(user="6984"), ["the user PIN is a transport PIN"]),
        (probing(user="6981"), ["the user PIN is in a state of its own (status 6981)"]),
    ],
)
def test_what_speaks_against_factory_state(script: list[tuple[str, str]], shortcomings: list[str]) -> None:
    """Each trace of use is named, and with the first of them the device counts as initialized."""
    with scripted(script) as (connection, _):
        probe = connection.probe()

    assert list(probe.shortcomings) == shortcomings
    assert probe.state is (HsmState.INITIALIZED if shortcomings else HsmState.ZEROIZED)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("0101 0000000000000000 9000", "1 share, 1 missing"),
        ("0302 0000000000000000 9000", "3 shares, 2 missing"),
        ("0302 9000", "3 shares, 2 missing"),  # cut off
        ("03 9000", "3 shares"),
        ("0100 ECC92C62E3F6189E 9000", "1 share, key check value ECC92C62E3F6189E"),
        ("0100 0000000000000000 9000", "1 share"),  # a Pico HSM to which nobody has logged in
        ("0000 2AFA121E8764A1E3 9000", "no shares, key check value 2AFA121E8764A1E3"),  # random
        ("0000 0000000000000000 AABB 9000", "no shares"),  # one that devices agree upon, with its identifier
    ],
)
def test_a_dkek_speaks_against_factory_state(answer: str, told: str) -> None:
    """Whether it is complete or not: it is told to people, and only a reset destroys it."""
    with scripted(probing(dkek=answer)) as (connection, _):
        probe = connection.probe()

    assert (probe.state, probe.shortcomings) == (HsmState.INITIALIZED, (f"a DKEK is set up ({told})",))
    assert dict(probe.details)["DKEK"] == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("6D00", "none"),
        ("6A86", "none"),
        ("6B00", "none"),
        ("6E00", "not told (status 6E00)"),
        ("6982", "not told (status 6982)"),  # the first versions of the Pico HSM, and the next
        ("6986", "not told (status 6986)"),
    ],
)
def test_no_dkek_is_factory_state(answer: str, told: str) -> None:
    """Of a device that has none, and of one that is not asked in this way."""
    with scripted(probing(dkek=answer)) as (connection, _):
        probe = connection.probe()

    assert (probe.state, probe.shortcomings, dict(probe.details)["DKEK"]) == (HsmState.ZEROIZED, (), told)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (["6A88", "6A88", "0100 ECC92C62E3F6189E 9000"], "1 share, key check value ECC92C62E3F6189E"),
        (["6A88", "6A86"], "none"),
        (["6A88"] * 16, "none"),
        ([f"0000 {'00' * 8} 9000", "0100 ECC92C62E3F6189E 9000"], "1 share, key check value ECC92C62E3F6189E"),
        ([f"0000 {'00' * 8} 9000", "6A88", "9000", "6A86"], "none"),  # a Pico HSM
        ([f"0000 {'00' * 8} 9000"] * 16, "none"),
        (["9000", "6982"], "not told (status 6982)"),
    ],
)
def test_each_key_domain_is_looked_into(answers: list[str], told: str) -> None:
    """Up to one with a DKEK, to the last one, or until the device has told of enough of them."""
    script = probing()
    place = script.index((DKEK, "6D00"))
    script[place : place + 1] = [(f"805200{domain:02X}00", answer) for domain, answer in enumerate(answers)]
    with scripted(script) as (connection, _):
        assert dict(connection.probe().details)["DKEK"] == told


def test_a_device_that_was_never_initialised_wants_no_pin() -> None:
    """There is none yet, and nothing to protect."""
    with scripted(probing(so="6A88", user="6A88")) as (connection, _):
        probe = connection.probe()

    assert (probe.state, probe.credential, probe.obstacle) == (HsmState.ZEROIZED, None, "")
    assert probe.details[0] == ("PIN tries left", "never initialised")


@pytest.mark.parametrize(
    ("so", "obstacle"),
    [
        ("63C4", ""),
        ("63C3", "its SO PIN has 3 of 15 tries left, and with none it could never be reset again: less than 4"),
        ("63C1", "its SO PIN has 1 of 15 tries left"),
        ("63C0", "its SO PIN is blocked: it can never be reset again"),
        ("6983", "its SO PIN is blocked: it can never be reset again"),
        ("6982", "its SO PIN is in a state of its own (status 6982)"),
    ],
)
def test_the_last_tries_are_not_spent(so: str, obstacle: str) -> None:
    """The probe says how many there are, and a reset stops before it sends anything that could cost one."""
    with scripted(probing(so=so)) as (connection, _):
        assert connection.probe().obstacle.startswith(obstacle)
    if obstacle:
        script = [*resetting(so=so)[:-1], (READ_CERTIFICATE, certificate() + "6282")]
        with scripted(script) as (connection, _), pytest.raises(ResetUnsupported, match=obstacle[:20]):
            connection.factory_reset(lambda _: None, Secret(SO_PIN))


def test_no_count_is_told_where_nothing_is_counted() -> None:
    """A Pico HSM takes whatever it is given: whoever types a SO PIN is not told of tries."""
    with scripted(probing(), usb_id=PICO, serial=BOARD) as (connection, _):
        credential = connection.probe().credential

    assert credential is not None
    assert credential.tries_left is None


@pytest.mark.parametrize("so", ["63C3", "63C0", "6983"])
@pytest.mark.parametrize(
    ("usb_id", "holder"), [(PICO, "DENK040351400001"), (OTHER_PICO, "DENK040351400001"), (NITROKEY, "ESPICOHSMTR00001")]
)
def test_a_pico_is_reset_whatever_its_counter_says(usb_id: tuple[int, int], holder: str, so: str) -> None:
    """It takes any SO PIN, which becomes its own: no wrong one makes it useless."""
    cvc = certificate(holder) + "6282"
    with scripted(probing(so=so, cvc=cvc), usb_id=usb_id, serial=BOARD) as (connection, _):
        assert connection.probe().obstacle == ""
    *before, initialize = resetting(so=so)
    script = [*before, (READ_CERTIFICATE, cvc), initialize]
    with scripted(script, usb_id=usb_id, serial=BOARD) as (connection, _):
        connection.factory_reset(lambda _: None, Secret(SO_PIN))


@pytest.mark.parametrize(
    ("select", "firmware"),
    [
        ("6F06850400010103", "1.3"),
        ("6F22 81020000 820138 83020000 840BE82B0601040181C31F0201 8A0105 85050001FF0606", "6.6"),  # pico-hsm
        ("6F03850101", ""),
        ("6F7F85", ""),  # cut off
        ("", ""),
    ],
)
def test_the_firmware_version_ends_the_properties(select: str, firmware: str) -> None:
    """In the file control parameters; one that tells none has none."""
    with scripted(probing(select=select + "9000")) as (connection, _):
        assert connection.probe().firmware == firmware


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("3012 020102 0403 313233 8008" + b"Backup 1".hex() + "6282", "Backup 1"),
        ("3003 020102" + "9000", ""),
        ("3004 8002 1B5B" + "9000", "?["),
        ("30FF" + "9000", ""),  # nonsense
        ("6982", ""),
        ("6A88", ""),
    ],
)
def test_the_label_is_read_with_care(answer: str, label: str) -> None:
    """It is only a name: where it cannot be read there is none, and no terminal obeys it."""
    with scripted(probing(label=answer)) as (connection, _):
        assert connection.probe().label == label


def test_a_reader_for_short_commands_is_enough() -> None:
    """The certificate is then read in parts, up to one that is not full."""
    whole = bytes.fromhex(certificate()) + bytes(300)
    script = probing(label="6A82")
    script[1:3] = [
        ("00B12F020454020000 00", whole[:256].hex() + "9000"),
        ("00B12F020454020100 00", whole[256:].hex() + "6282"),
        ("8058000000", "CC00" + "9000"),
    ]
    script[-1] = ("00B12F030454020000 00", "6A82")
    with scripted(script, features=SHORT) as (connection, _):
        assert connection.probe().serial == "DENK0403514"


@pytest.mark.parametrize("status", ["6282", "6B00", "6A86"])
def test_a_file_of_full_parts_ends(status: str) -> None:
    """Whatever a card says to a question for what is behind its end."""
    script = probing(label="6A82")
    script[1:3] = [
        ("00B12F020454020000 00", (bytes.fromhex(certificate()) + bytes(256))[:256].hex() + "9000"),
        ("00B12F020454020100 00", status),
        ("8058000000", "CC00" + "9000"),
    ]
    script[-1] = ("00B12F030454020000 00", "6A82")
    with scripted(script, features=SHORT) as (connection, _):
        assert connection.probe().serial == "DENK0403514"


@pytest.mark.parametrize("status", ["6700", "6985", "6999", "6A82", "6A86", "6D00", "6E00"])
def test_another_card_is_not_of_the_family(status: str) -> None:
    """The USB id is that of a reader which may hold anything; SELECT decides."""
    with scripted([(SELECT, status)], usb_id=STICK) as (connection, _), pytest.raises(NotThisFamily):
        connection.probe()


@pytest.mark.parametrize(("step", "answer"), [(0, "6F00"), (1, "6982"), (2, "6D00")])
def test_a_card_that_fails_is_no_other_family(step: int, answer: str) -> None:
    """A fault is said as such, with the status."""
    script = probing()[: step + 1]
    script[step] = (script[step][0], answer)
    with scripted(script) as (connection, _), pytest.raises(DeviceRefused) as caught:
        connection.probe()

    assert caught.value.status == int(answer, 16)


def test_nonsense_is_a_protocol_error() -> None:
    """A certificate that cannot be is not taken for none."""
    with scripted(probing(cvc="7F21FF00" + "9000")[:2]) as (connection, _), pytest.raises(ProtocolError):
        connection.probe()


# The reset


def test_it_is_one_command() -> None:
    """INITIALIZE DEVICE with the SO PIN that was typed, and what makes the factory state; then a restart."""
    steps: list[str] = []
    with scripted(resetting()) as (connection, reader):
        connection.factory_reset(steps.append, Secret(SO_PIN))

    assert steps == ["selecting the card", "initializing", "restarting the card"]
    assert [command[0] for command in reader.commands[-3:]] == [0x63, 0x65, 0x62]


def test_a_device_without_so_pin_gets_that_of_the_factory() -> None:
    """It has to have one, and its maker says which."""
    with scripted(resetting(so="6A88")) as (connection, _):
        connection.factory_reset(lambda _: None)


def test_a_device_with_so_pin_is_not_reset_without() -> None:
    """Nothing is sent in its place."""
    with scripted(resetting()[:-1]) as (connection, _), pytest.raises(DeviceError, match="SO PIN"):
        connection.factory_reset(lambda _: None)


@pytest.mark.parametrize("status", ["6985", "6986", "6900", "63CE", "6982", "6A80", "6400"])
def test_a_refusal_that_costs_a_try_is_a_wrong_so_pin(status: str) -> None:
    """Whatever the status word: it is sent once, and what it has cost is read."""
    initialize = INITIALIZE.replace(SO_PIN, WRONG)
    script = [*resetting(status, initialize=initialize), (SO_TRIES, "63CE")]
    with scripted(script) as (connection, _), pytest.raises(SecretRefused, match=f"wrong .*{status}") as caught:
        connection.factory_reset(lambda _: None, Secret(WRONG))

    assert WRONG not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "after", "sentence"),
    [
        ("6985", "63CF", "refuses to be initialized"),
        ("6982", "63CF", "secure lock"),
        ("6983", "63CF", "blocked"),
        ("6985", "6A88", "refuses to be initialized"),
    ],
)
def test_a_refusal_that_costs_nothing_is_no_wrong_so_pin(status: str, after: str, sentence: str) -> None:
    """The device has said no for another reason."""
    script = [*resetting(status), (SO_TRIES, after)]
    with scripted(script) as (connection, _), pytest.raises(DeviceRefused, match=sentence) as caught:
        connection.factory_reset(lambda _: None, Secret(SO_PIN))

    assert not isinstance(caught.value, SecretRefused)


def test_a_reset_that_broke_off_is_no_refusal() -> None:
    """A Pico HSM says so when it has set the PINs already, and perhaps destroyed what it held."""
    script = [*resetting("6400"), (SO_TRIES, "63CF")]
    with scripted(script) as (connection, _), pytest.raises(ProtocolError, match=r"broke .* off"):
        connection.factory_reset(lambda _: None, Secret(SO_PIN))


@pytest.mark.parametrize("status", ["6C00", "6C10"])
def test_it_is_never_sent_twice(status: str) -> None:
    """Not even to a card that wants another length of the answer."""
    script = [*resetting(status), (SO_TRIES, "63CF")]
    with scripted(script) as (connection, _), pytest.raises(DeviceRefused):
        connection.factory_reset(lambda _: None, Secret(SO_PIN))


def test_silence_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that does not answer in time may be at work: what it did is not known."""
    monkeypatch.setattr(smartcard_hsm, "RESET_TIMEOUT", 0.1)
    with scripted(resetting()) as (connection, reader):
        reader.faults[len(reader.commands) + 4] = Fault.TIMEOUT
        with pytest.raises(DeviceTimeout):
            connection.factory_reset(lambda _: None, Secret(SO_PIN))


def test_the_longest_time_that_a_device_takes_is_waited_for() -> None:
    """A nearly full one takes thirty seconds and more without a sign of life."""
    assert smartcard_hsm.RESET_TIMEOUT >= 60


def test_the_questions_are_those_of_the_manual() -> None:
    """Extended commands for what may be long; none of them costs a try."""
    with scripted(probing()) as (connection, reader):
        connection.probe()

    sent = [command[10:].hex().upper() for command in reader.commands if command[0] == 0x6F]
    expected = [SELECT, READ_CERTIFICATE, ENUMERATE, SO_TRIES, USER_TRIES, DKEK, READ_LABEL]
    assert sent == [text.replace(" ", "") for text in expected]
