"""Which tokens stand beside patches, in front of them or behind."""

import pytest
import torch
from torch import nn

from wqkv.record.inputs.special_tokens import special_tokens


def module(library=None, **tokens):
    """A module that holds parameters of these shapes, of a class of a library."""
    found = type("Tower", (nn.Module,), {"__module__": f"{library or 'own'}.models"})()
    for name, shape in tokens.items():
        found.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    return found


@pytest.mark.parametrize(
    ("library", "tokens", "before", "after"),
    [
        (None, {"pos_embed": (1, 5, 7)}, [], []),
        (None, {"cls_token": (1, 1, 7)}, ["[CLS]"], []),
        (None, {"class_embedding": (7,)}, ["[CLS]"], []),
        (None, {"cls_token": (0, 7)}, [], []),  # as vit-pytorch has it where it takes the mean
        ("transformers", {"cls_token": (1, 3, 7)}, ["[CLS 0]", "[CLS 1]", "[CLS 2]"], []),
        (
            "timm",
            {"reg_token": (1, 2, 7), "cls_token": (1, 1, 7)},
            ["[CLS]", "[REG 0]", "[REG 1]"],
            [],
        ),
        (
            "transformers",
            {"distillation_token": (1, 1, 7), "cls_token": (1, 1, 7)},
            ["[CLS]", "[DIST]"],
            [],
        ),
        ("transformers", {"detection_tokens": (1, 2, 7)}, [], ["[DET 0]", "[DET 1]"]),
        ("vit_pytorch", {"register_tokens": (2, 7)}, [], ["[REG 0]", "[REG 1]"]),
    ],
)
def test_where_they_stand(library, tokens, before, after):
    found = special_tokens([nn.Module(), module(library, **tokens)])
    assert [label for axis in found.before for label in axis.labels] == before
    assert [label for axis in found.after for label in axis.labels] == after
    assert found.total == len(before + after)


def test_of_a_class_that_extends_one_of_a_library():
    base = type(module("timm"))
    own = type("Own", (base,), {})()
    own.reg_token = nn.Parameter(torch.zeros(1, 1, 7))
    assert special_tokens([own]).total == 1


def test_registers_of_a_library_that_was_not_looked_at():
    assert special_tokens([module("elsewhere", register_tokens=(1, 2, 7))]) is None
