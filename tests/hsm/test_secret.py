# SPDX-License-Identifier: Apache-2.0
"""A device that wants its SO PIN before it resets itself: a wrong one costs one try and nothing else."""

from pathlib import Path

import pytest

from appliance.errors import DeviceError, DeviceGone
from appliance.hsm.model import HsmState, Outcome, Secret
from appliance.hsm.reset import Report
from tests.support.fake_driver import FakeToken
from tests.support.manager_house import HERE, Build, House

RIGHT, WRONG = "right-PIN", "other-PIN"  # neither can be in a hash by chance


async def careful(build: Build, state: HsmState = HsmState.INITIALIZED) -> tuple[House, FakeToken]:
    """A manager with one token that wants its SO PIN."""
    made = build()
    token = made.source.plug(HERE, FakeToken("A1", state, tries=3, secret=RIGHT))
    await made.manager.start()
    await made.settled()
    return made, token


async def test_the_right_one_resets(build: Build) -> None:
    """With its SO PIN the device is reset, and no try is spent."""
    made, token = await careful(build)

    assert await made.reset(secret=Secret(RIGHT)) == Report(Outcome.DONE, "", "A1")
    assert (token.state, token.tries) == (HsmState.ZEROIZED, 3)


@pytest.mark.parametrize("state", [HsmState.INITIALIZED, HsmState.ZEROIZED])
async def test_a_wrong_one_costs_one_try(build: Build, state: HsmState) -> None:
    """The reset is not done, also not of a device that looks blank; it says what is left, and nothing stays begun."""
    made, token = await careful(build, state)
    report = await made.reset(secret=Secret(WRONG))

    assert report == Report(Outcome.NOT_DONE, "the SO PIN is wrong (status 6985); tries left: 2", "A1")
    assert (token.state, token.tries) == (state, 2)
    assert made.on_disk() == []
    assert [record["outcome"] for record in made.records("reset-outcome")] == ["not done"]


async def test_a_wrong_one_leaves_an_interrupted_reset_interrupted(build: Build) -> None:
    """What an earlier reset has done is as open after a wrong SO PIN as before; the right one completes it."""
    made, token = await careful(build)
    token.fail("activate", DeviceGone("it was unplugged"))
    interrupted = await made.reset(secret=Secret(RIGHT))
    del token.hooks["activate"]
    await made.settled()
    token.become(HsmState.INITIALIZED)
    await made.manager.refresh(made.device())
    refused = await made.reset(secret=Secret(WRONG))

    assert (interrupted.outcome, refused.outcome) == (Outcome.UNKNOWN, Outcome.NOT_DONE)
    assert [intent.serial for intent in made.manager.interrupted()] == ["A1"]
    await made.settled()
    assert (await made.reset(secret=Secret(RIGHT))).outcome is Outcome.DONE
    assert made.manager.interrupted() == ()


async def test_without_one_nothing_begins(build: Build) -> None:
    """A device that has come to want an SO PIN since it was shown is left alone."""
    made, token = await careful(build)

    with pytest.raises(DeviceError, match="it wants its SO PIN"):
        await made.reset()
    assert token.tries == 3
    assert made.records("reset-intent") == []


async def test_no_secret_is_on_record(build: Build, tmp_path: Path) -> None:
    """Neither the right nor the wrong one is in any file of the state folder."""
    made, _ = await careful(build)
    await made.reset(secret=Secret(WRONG))
    await made.reset(secret=Secret(RIGHT))
    kept = contents(tmp_path)

    assert b"reset-outcome" in kept
    assert RIGHT.encode() not in kept
    assert WRONG.encode() not in kept


def contents(folder: Path) -> bytes:
    """Everything in the files below a folder."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_secret_shows_nothing() -> None:
    """Whatever shows values does not show it."""
    secret = Secret(RIGHT)

    assert RIGHT not in f"{secret} {secret!r} {[secret]}"
