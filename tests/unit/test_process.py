"""Only the process that was meant is ever stopped."""

import os
import subprocess
import sys
from dataclasses import replace

from fastcache.embedded import process


def sleeper(
    code: str = "import time; print('ready', flush=True); time.sleep(600)",
) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_a_living_process_has_an_identity_and_an_ended_one_has_none() -> None:
    child = sleeper()
    identity = process.identify(child.pid)
    assert identity is not None
    assert process.lives(identity)
    assert process.age_seconds(identity) < 60
    child.kill()
    child.wait()
    assert not process.lives(identity)


def test_a_zombie_is_as_good_as_gone() -> None:
    child = sleeper("print('ready', flush=True)")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.identify(child.pid) is None
    child.wait()


def test_a_process_that_only_inherited_the_number_is_left_alone() -> None:
    child = sleeper()
    identity = process.identify(child.pid)
    assert identity is not None
    earlier = replace(identity, start_ticks=identity.start_ticks - 1)
    other_boot = replace(identity, boot="another")
    assert process.stop([earlier, other_boot], grace_seconds=1) == []
    assert child.poll() is None
    assert process.stop([identity], grace_seconds=10) == []
    assert child.wait() == -15


def test_one_that_will_not_leave_is_ended_by_force_and_named() -> None:
    child = sleeper(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(600)"
    )
    identity = process.identify(child.pid)
    assert identity is not None
    assert process.stop([identity], grace_seconds=0.2) == [identity]
    assert child.wait() == -9


def test_one_that_looks_for_somebody_to_hand_over_to_is_told_that_there_is_nobody() -> None:
    child = sleeper(
        "import signal, time; told = [];"
        "signal.signal(signal.SIGTERM, lambda *_: told.append(1));"
        "print('ready', flush=True)\nwhile len(told) < 2: time.sleep(0.01)"
    )
    identity = process.identify(child.pid)
    assert identity is not None
    assert process.stop([identity], grace_seconds=30, hand_over_seconds=0.1) == []
    assert child.wait() == 0
