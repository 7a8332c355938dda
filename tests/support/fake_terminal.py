# SPDX-License-Identifier: Apache-2.0
"""A terminal at which a script types."""

from collections.abc import Callable, Sequence

from appliance.errors import EndOfFile

Answer = str | BaseException | Callable[[], str]


class FakeTerminal:
    """Answers each question from a list; shows what a screen would, the secret answers aside."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.screen = ""
        self.secrets_asked = 0

    async def write(self, text: str) -> None:
        self.screen += text

    async def readline(
        self,
        prompt: str,
        *,
        secret: bool = False,
        history: bool = False,
        complete: Callable[[str], Sequence[str]] | None = None,
    ) -> str:
        self.screen += prompt
        self.secrets_asked += secret
        answer = self.answers.pop(0) if self.answers else EndOfFile()
        if isinstance(answer, BaseException):
            raise answer
        typed = answer if isinstance(answer, str) else answer()
        self.screen += "\n" if secret else f"{typed}\n"
        return typed
