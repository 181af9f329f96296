"""The paper's tables on real data: one command each, `python -m paper NAME` in the folder benchmarks."""
