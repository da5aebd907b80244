"""Write many keys, or read them: run inside a lab's network.

    python3 keys.py HOST PORT PASSWORD_FILE write|read COUNT

Prints as JSON which were refused, are missing or hold something else.
"""

import json
import sys
from pathlib import Path

import redis


def main() -> None:
    host, port, password_file, what, count = sys.argv[1:]
    password = Path(password_file).read_text().strip()
    client = redis.Redis(host=host, port=int(port), password=password, socket_timeout=20)
    wrong = []
    for first in range(0, int(count), 100):
        numbers = range(first, min(first + 100, int(count)))
        pipe = client.pipeline(transaction=False)
        for number in numbers:
            if what == "write":
                pipe.set(f"kept:{number}", f"value {number}")
            else:
                pipe.get(f"kept:{number}")
        for number, said in zip(numbers, pipe.execute(), strict=True):
            if said not in (True, f"value {number}".encode()):
                wrong.append([number, repr(said)])
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
