"""What one worker does wrong, and what the others make of it: small.py MODE."""

import sys

import torch

from krepes.errors import DataError, NonFiniteError
from krepes.workers import started

if __name__ == "__main__":
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
        elif sys.argv[1] == "sums":

            def work() -> None:
                if workers.rank == 1:
                    raise NonFiniteError("sample 7 is not finite")

            try:
                workers.together(work)
            except NonFiniteError as error:
                print(f"met by {workers.rank}: {error}")
            workers.add(torch.zeros(3))
