"""For every test: one thread, and a hypothesis profile chosen by HYPOTHESIS_PROFILE, else by CI."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)  # two threads on shared cores make timings jump

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))
