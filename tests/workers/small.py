"""What one worker does wrong, and what the others make of it: small.py MODE."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from krepes import Auditor, BarlowTwins
from krepes import workers as module
from krepes.encoders import MLP
from krepes.errors import DataError, NonFiniteError
from krepes.workers import started

if __name__ == "__main__":
    module.BEAT, module.SILENT = 0.3, 2.0
    with started() as workers:
        if sys.argv[1] == "stops":
            if workers.rank == 1:
                raise DataError("there is no file samples.npy here")
            workers.add(torch.zeros(3))
        elif sys.argv[1] == "differs":
            workers.agree({"torch": "2", "the data": ("aaa", "bbb")[workers.rank]})
        elif sys.argv[1] == "alone":
            if workers.rank == 1:
                workers.share_error("a part", DataError("out of luck"))
            workers.add(torch.zeros(3))
        elif sys.argv[1] == "together":
            workers.share_error("a part", DataError("the same for all"))
            found = workers.map([1, 2, 3], lambda i: i + workers.rank * 0)
            assert found == [1, 2, 3]
            assert workers.all(workers.rank) == [0, 1]
            print("went on")
        elif sys.argv[1] == "vanishes":
            workers.add(torch.zeros(3))
            if workers.rank == 1:  # its connections stay open, as those of a machine without power
                os.kill(os.getpid(), signal.SIGSTOP)
            workers.add(torch.zeros(3))
        elif sys.argv[1] == "long":  # longer than the others are waited for in silence, and alive
            if workers.rank == 1:
                time.sleep(3 * module.SILENT)
            workers.add(torch.zeros(3))
            print("went on")
        elif sys.argv[1] == "memory":
            if workers.rank == 1:
                taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (taken + 48 * 2**20, resource.RLIM_INFINITY))
            x = torch.randn(9000, 8)
            auditor = Auditor(MLP(8, (256, 256), 32).eval(), BarlowTwins(), landmarks=400)
            auditor.fit(x, lambda batch, generator: batch + torch.randn(batch.shape, generator=generator))
        elif sys.argv[1] == "sums":

            def work() -> None:
                if workers.rank == 1:
                    raise NonFiniteError("sample 7 is not finite")

            try:
                workers.together(work)
            except NonFiniteError as error:
                print(f"met by {workers.rank}: {error}")
            workers.add(torch.zeros(3))
