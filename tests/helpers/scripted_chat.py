"""capkv-chat on a tiny model that gives the replies in the variable REPLIES, with | between them, a byte each PAUSE seconds."""

import os
import sys
import time

from capkv_edge.chat.cli import main
from capkv_edge.llama.llama import Llama

replies = os.environ.get("REPLIES", "").split("|")


def generate(self, tokens, **options):
    for byte in replies.pop(0).encode():
        time.sleep(float(os.environ.get("PAUSE", "0")))
        yield byte + 3
        self.eval([byte + 3])
    yield 2


if __name__ == "__main__":
    Llama.generate = generate
    sys.exit(main())
