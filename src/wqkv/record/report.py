"""What `seen.report()` says of layers: those with maps, with proofs, and those missed, and why."""

from __future__ import annotations

from collections.abc import Sequence

from wqkv.record.layer_runs import LayerRuns


def layer_lines(
    name: str, layers: Sequence[tuple[LayerRuns, str | None]], gradients: bool, nothing: str
) -> list[str]:
    """One line that counts the layers, and one for each.

    Args:
        name: the model's class.
        layers: each with the reason why it was missed; None if it has a map.
        gradients: whether they are asked for.
        nothing: why there is no layer, where there is none.
    """
    captured = sum(why is None for _, why in layers)
    again = sum(why is None and bool(one.runs[-1].captured) for one, why in layers)
    unasked = sum(not one.wanted for one, _ in layers)
    rest = f" ({unasked} not asked for)" if unasked else ""
    rest += f", {again} of them computed again and not proved of q, k and rules" if again else ""
    rest += f": {nothing}" if not layers else ""
    lines = [f"captured {captured} of {len(layers)} layers of {name}{rest}"]
    width = max((len(one.name) for one, _ in layers), default=0)
    for number, (one, why) in enumerate(layers):
        said = _mapped(one, gradients) if why is None else _missed(one, why)
        lines.append(f"{number:>3}  {one.name:<{width}}  {one.kind:<7}  {said}")
    return lines


def _missed(one: LayerRuns, why: str) -> str:
    return f"missed: {why}" if one.wanted else "not asked for"


def _mapped(one: LayerRuns, gradients: bool) -> str:
    """The last run of a layer that has a map."""
    run = one.runs[-1]
    proof = run.proof
    assert proof is not None, "a run without a proof is refused, so its layer was missed"
    rows = f"{proof.rows} rows" + (f", {proof.empty} empty" if proof.empty else "")
    made = "replayed" if run.captured else "proof"
    parts = [
        f"{list(run.shape)} {run.shown}",
        f"{made} {proof.difference:.1e}, {proof.share:.0%} of rounding ({rows})",
        *run.notes,
    ]
    if run.captured:
        parts.append(f"captured: {run.captured}")
    if run.start:
        parts.append(f"rows from {run.start} on")
    if not run.start_known:
        first = "row that was seen" if run.first.cross else "key of its cache"
        parts.append(f"counted from the first {first}, whose place in the text is not known")
    if len(one.runs) > 1:
        why = f", because {run.began}" if run.began else ""
        parts.append(f"the last of {len(one.runs)} runs{why}")
    if run.again or one.again:
        parts.append("ran again in a backward pass, which counts as the same run")
    if gradients:
        why_not = run.without_effects
        parts.append(f"no effects: {why_not}" if why_not else "effects known")
    return "  ".join(parts)
