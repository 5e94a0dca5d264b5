"""Every name from inside transformers that wqkv uses, looked up when it is first used.

What can be imported from `transformers` itself is documented there and not listed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from wqkv.errors import need
from wqkv.sentences.errors import mistake
from wqkv.upstream.names import find, member

TESTED = "5.20.0 to 5.24.0"
MASKS = """
and_masks bidirectional_mask_function blockwise_overlay causal_mask_function chunked_overlay
eager_mask or_masks packed_sequence_mask_function padding_mask_function prepare_padding_mask
sdpa_mask sliding_window_bidirectional_overlay sliding_window_overlay
"""

MODEL = "transformers.modeling_utils:PreTrainedModel"
ANYRES = "transformers.models.llava_next.modeling_llava_next"

#: Where each name stands.
NAMES = {
    # through which models get their attention functions and masks
    "AttentionInterface": "transformers.modeling_utils:AttentionInterface",
    "AttentionMaskInterface": "transformers.masking_utils:AttentionMaskInterface",
    "PreTrainedModel": MODEL,
    # functions that masks are made of; a mask is recognized by the code of these functions
    **{name: f"transformers.masking_utils:{name}" for name in MASKS.split()},
    # how tensors are renamed when a checkpoint is read
    "get_model_conversion_mapping": "transformers.conversion_mapping:get_model_conversion_mapping",
    "WeightConverter": "transformers.core_model_loading:WeightConverter",
    "WeightRenaming": "transformers.core_model_loading:WeightRenaming",
    "rename_source_key": "transformers.core_model_loading:rename_source_key",
    # by family, the class that has a head for the next token, also behind a picture, for masked
    # ones, or for classes
    "CAUSAL": "transformers.models.auto.modeling_auto:MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "SEQ2SEQ": (
        "transformers.models.auto.modeling_auto:MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
    ),
    "MASKED": "transformers.models.auto.modeling_auto:MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "WITH_PICTURES": (
        "transformers.models.auto.modeling_auto:MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
    ),
    "CLASSES": (
        "transformers.models.auto.modeling_auto:MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
    ),
    # the outputs that a model collects while it runs
    "active_collector": "transformers.utils.output_capturing:_active_collector",
    "BaseModelOutput": "transformers.modeling_outputs:BaseModelOutput",
    "logging": "transformers.utils.logging:",
    # how LLaVA-NeXT cuts a picture into tiles
    "anyres_shape": f"{ANYRES}:get_anyres_image_grid_shape",
    "unpad_image": f"{ANYRES}:unpad_image",
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("transformers", "hf", mistake("looking"))
    globals()[name] = find(NAMES[name], TESTED)
    return globals()[name]


def positions_of_packed_texts() -> Any:  # Any: a mask function, or None
    """The mask function for packed texts, each with positions from 0; None in transformers 5.20."""
    masking = need("transformers.masking_utils", "hf", mistake("looking"))
    return getattr(masking, "remap_positions_for_packed_sequence", None)


def can_switch(model: object) -> bool:
    """Whether the code of a model gets its attention function from AttentionInterface."""
    return bool(member(model, f"{MODEL}._can_set_attn_implementation", TESTED)())


def passed_over(model: object) -> tuple[str, ...]:
    """Patterns of the names of checkpoint tensors that the model has no place for, and ignores."""
    return tuple(member(model, f"{MODEL}._keys_to_ignore_on_load_unexpected", TESTED) or ())


def updated(cache: object) -> dict[int, bool] | None:
    """By layer, whether the keys of the other text are in the cache; None of any other cache."""
    found = getattr(cache, "is_updated", None)
    return found if isinstance(found, dict) else None


def anyres_cells(config: Any, size: list[int]) -> tuple[tuple[int, int], Tensor]:
    """How LLaVA-NeXT cuts a picture of a size (height, width) into rows and columns of tiles.

    The second value holds the cells of all tiles, numbered row by row, that are no padding.
    """
    image_size, patch_size = config.vision_config.image_size, config.vision_config.patch_size
    shape = __getattr__("anyres_shape")(size, config.image_grid_pinpoints, image_size)
    rows, columns = (n * (image_size // patch_size) for n in shape)
    cells = torch.arange(rows * columns, device="cpu").view(1, rows, columns)
    return shape, __getattr__("unpad_image")(cells, size)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Context without transformers' progress bars and warnings."""
    log: Any = __getattr__("logging")
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
