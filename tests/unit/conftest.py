"""Attention functions of others, which the tests of record/ register with transformers."""

import pytest


@pytest.fixture
def registered():
    """Register an attention function for a test: (name, function, mask function)."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    names = []

    def register(name, function, mask=sdpa_mask):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)
        names.append(name)
        return name

    yield register
    for name in names:
        del AttentionInterface._global_mapping[name]
        del AttentionMaskInterface._global_mapping[name]
