"""Clients of a server: each sends one request for a picture after another, over a connection of its own.

benchmarks.serving starts this module as a few processes, so that Python's lock does not limit the clients.
"""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

PROCESSES = 4


@dataclass(frozen=True)
class Answers:
    """seconds: of each picture. errors: one text for each request without a picture."""

    seconds: list[float]
    errors: list[str]


@dataclass(frozen=True)
class Load:
    """What clients send, and when.

    picture: a file in base64. begin, end: of time.monotonic(); answers between them count.
    numbers: one for each client; clients of different numbers send different seeds and prompts.
    """

    port: int
    picture: str
    begin: float
    end: float
    numbers: list[int]


class Client:
    """One connection."""

    def __init__(self, port: int, picture: str, number: int) -> None:
        self.picture, self.number, self.sent = picture, number, 0
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def send(self) -> str:
        """Send one request. Return the reason if there is no picture, else an empty string."""
        self.sent += 1
        values = {"input_image": self.picture, "prompt": f"bird {self.number}", "seed": 1000 * self.number + self.sent}
        try:
            self.connection.request("POST", "/v1/pictures", json.dumps(values), {"Content-Type": "application/json"})
            response = self.connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()  # the next request opens it again
            return repr(error)
        return "" if response.status == 200 else f"status {response.status}: {content[:300].decode(errors='replace')}"

    def timed(self) -> tuple[float, str]:
        """Send one request, and return its seconds and what `send` returns."""
        start = time.perf_counter()
        error = self.send()
        return time.perf_counter() - start, error


def run(load: Load) -> Answers:
    """Send requests with a thread for each client until the end."""

    def work(number: int) -> list[tuple[float, str]]:
        client, answers = Client(load.port, load.picture, number), []
        while time.monotonic() < load.end:
            answer = client.timed()
            if load.begin <= time.monotonic() <= load.end:
                answers.append(answer)
            if answer[1]:
                time.sleep(0.1)
        return answers

    with ThreadPoolExecutor(len(load.numbers)) as pool:
        found = [answer for answers in pool.map(work, load.numbers) for answer in answers]
    return Answers([seconds for seconds, error in found if not error], [error for _, error in found if error])


def spread(load: Load) -> Answers:
    """Return the answers to clients in several processes. Raise OSError if a process fails."""
    shares = [load.numbers[first::PROCESSES] for first in range(min(PROCESSES, len(load.numbers)))]
    command = [sys.executable, "-m", "benchmarks.clients"]
    with ThreadPoolExecutor(len(shares)) as pool:
        answers = list(
            pool.map(lambda numbers: _elsewhere(command, Load(**{**asdict(load), "numbers": numbers})), shares)
        )
    return Answers([one for part in answers for one in part.seconds], [one for part in answers for one in part.errors])


def _elsewhere(command: Sequence[str], load: Load) -> Answers:
    done = subprocess.run(command, input=json.dumps(asdict(load)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"a process of clients ended with status {done.returncode}: {done.stderr[-300:]}")
    return Answers(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(run(Load(**json.load(sys.stdin))))))
