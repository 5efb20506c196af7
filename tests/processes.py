"""``graticule`` and functions as processes that start at once: forks of a server that has loaded the libraries.

A test that kills a process, or runs several, need not wait until each has imported PyTorch.
"""

import multiprocessing
import os
import sys

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["graticule.cli", "graticule.training.train", "graticule.inference.parts"])


def start(function, *given, said, **environment):
    """A process that calls ``function`` with ``given``; what it says goes to the file ``said``."""
    process = CONTEXT.Process(target=_run, args=(function, given, said, environment))
    process.start()
    return process


def command(*words, said, **environment):
    """``graticule`` with these words, as a process."""
    return start(_command, *map(str, words), said=said, **environment)


def ended(process, seconds=120):
    """Its exit status; fails where it does not end."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a process did not end within {seconds} s")
    return process.exitcode


def _command(*words):
    from graticule.cli import main

    sys.argv = ["graticule", *words]
    main()


def _run(function, given, said, environment):
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    function(*given)
