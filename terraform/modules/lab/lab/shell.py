"""Running other programs, and Python code, also inside a lab's network namespace."""

import ctypes
import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .settings import Lab, LabError

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def run(*command: str | Path, check: bool = True, text: str | None = None) -> str:
    """Run a program to its end and return what it printed; a failure tells the command and its output."""
    argv = [str(word) for word in command]
    done = subprocess.run(
        argv, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if check and done.returncode:
        raise LabError(f"{shlex.join(argv)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def run_inside(lab: Lab, *command: str | Path, check: bool = True, text: str | None = None) -> str:
    """The same inside the lab's network namespace."""
    return run("nsenter", f"--net={lab.namespace_file}", *command, check=check, text=text)


def call_inside(lab: Lab, function: Callable[[], T]) -> T:
    """Call a function in a thread that has joined the lab's network namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        namespace = os.open(lab.namespace_file, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            results.append(function())
        except BaseException as error:  # handed to the caller below
            errors.append(error)
        finally:
            os.close(namespace)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
