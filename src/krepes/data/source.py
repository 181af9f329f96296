import hashlib
import numpy as np, torch
from krepes.errors import NonFiniteError
class Source: pass
class ArraySource(Source):
    metadata_ = None
    def __init__(self, x, ids=None, metadata=None):
        self.x = torch.as_tensor(x); self.ids = list(ids or map(str, range(len(self.x)))); self._m = metadata
        self.kind = "image" if self.x.ndim in (3, 4) else "vector"
    def __len__(self): return len(self.x)
    def batch(self, i): return self.x[list(i)]
    def metadata(self): return self._m
    def fingerprint(self): return hashlib.sha256(self.x.numpy().tobytes()).hexdigest()
def as_source(o): return o if isinstance(o, Source) else ArraySource(o)
def check_finite(b, ids):
    if b.is_floating_point() and not torch.isfinite(b).all(): raise NonFiniteError("x")
