"""A request of a client that has one prompt and one negative prompt."""

from dataclasses import dataclass

from cldm.request import Request


@dataclass(frozen=True)
class WholePrompt(Request):
    """A request whose prompt stands alone: `Request` joins a_prompt to it, with a comma even if a_prompt is empty."""

    @property
    def prompts(self) -> tuple[str, str]:
        return self.prompt, self.n_prompt
