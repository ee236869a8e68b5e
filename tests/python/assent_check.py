"""Plays participant and initiator with no SDK, against a coordinator whose URL is given. See run.sh."""

import sys
import traceback

import grpc

import checks_ending
import checks_failures
import checks_reading
from lab import MESSAGE_MAX, WAIT_MAX, Lab

CHECKS = [*checks_ending.CHECKS, *checks_failures.CHECKS, *checks_reading.CHECKS]


def main(url, names):
    unknown = set(names) - {check.__name__ for check in CHECKS}
    if unknown:
        print(f"no such check: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [check for check in CHECKS if not names or check.__name__ in names]
    options = [("grpc.max_receive_message_length", MESSAGE_MAX)]
    with grpc.insecure_channel(url.removeprefix("http://"), options) as channel:
        grpc.channel_ready_future(channel).result(WAIT_MAX)
        failed = [check for check in chosen if not passes(check, channel)]
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def passes(check, channel):
    try:
        with Lab(channel) as lab:
            check(lab)
    except Exception as error:
        print(f"FAIL {check.__name__}: {why(error)}", flush=True)
        traceback.print_exc()
        return False
    print(f"ok {check.__name__}", flush=True)
    return True


def why(error):
    if isinstance(error, grpc.RpcError):
        return f"{error.code()}: {error.details()}"
    return f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: assent_check.py URL [CHECK...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
