"""Takes part until its standard input ends, for `assent participant check`. See run.sh."""

import os
import sys
import threading
import time

import grpc

from dialled import DialledParticipant
from session import SessionParticipant
from stock import Stock

GOODS = 10_000
RECONNECT_INTERVAL = 0.05
# Of its own accord gRPC would wait up to two minutes.
RECONNECT_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]


def main(how, *arguments):
    if how == "dialled":
        participant = DialledParticipant("shop/stock", Stock(GOODS))
        participant.start()
        print(participant.endpoint, flush=True)
    else:
        threading.Thread(target=keep_session, args=arguments, daemon=True).start()
    sys.stdin.read()
    # Whatever is under way ends with it.
    os._exit(0)


def keep_session(url, name):
    """Opens a session, and again whenever it is lost."""
    with grpc.insecure_channel(url.removeprefix("http://"), RECONNECT_OPTIONS) as channel:
        participant = SessionParticipant(channel, name, Stock(GOODS), inquires=True)
        while True:
            try:
                participant.connect()
                participant.wait_until_lost()
            except grpc.RpcError as error:
                print(f"no session: {error.code()}", file=sys.stderr)
            time.sleep(RECONNECT_INTERVAL)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("dialled", "session"):
        sys.exit("usage: participate.py dialled | session URL NAME")
    main(*sys.argv[1:])
