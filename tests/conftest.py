"""What every test of the suite starts from."""

import signal


def pytest_configure() -> None:
    """Programs that tests start can be interrupted, also where the suite itself runs in a shell's background: there
    SIGINT is ignored, and what is ignored is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
