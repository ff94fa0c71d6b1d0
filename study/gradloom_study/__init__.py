"""Real networks trained in the machine's arithmetic, to learn what its savings cost in accuracy.

Needs the extra ``gradloom[study]``. Every rule is `gradloom_golden`'s: imported where it works on a
few numbers, repeated on PyTorch tensors where it works on millions, and then held to it by tests.
"""
