"""Numbers of links, for masks of any kind, against attention that is asked again."""

import torch
from hypothesis import given

from tests.properties.strategies import HEADS, Masks, close, masks, normal, qkv, seeds
from wqkv import AttentionMap, Dense, attention


@given(masks(), seeds)
def test_an_effect_is_what_attention_without_the_key_says(drawn: Masks, seed: int) -> None:
    """Attention's output is linear here, so first order is the whole effect."""
    (mask,), query_len, key_len, offset = drawn
    with torch.no_grad():
        q, k, v = qkv(seed, query_len, key_len, n_kv_head=1)
        out, lse = attention(q, k, v, mask=mask, query_offset=offset, return_lse=True)
        (g,) = normal(seed + 1, tuple(out.shape))
        m = AttentionMap(3 * q, k, scale=5**-0.5 / 3, mask=mask, query_offset=offset)
        effects = m.effects(v, out, g)
        for j in range(key_len):
            only = torch.zeros(1, 1, 1, key_len, dtype=torch.bool)
            only[..., j] = True
            hidden = mask & ~Dense(only)
            rest = attention(q, k, v, mask=hidden, query_offset=offset, return_lse=True)
            lonely = (rest.lse == -torch.inf) & (lse > -torch.inf)
            change = ((rest.out - out) * g).sum(-1).masked_fill(lonely, torch.nan)
            torch.testing.assert_close(
                effects[:, :, :, j], change, rtol=1e-9, atol=1e-9, equal_nan=True
            )
            torch.testing.assert_close(
                effects.group([j]), change, rtol=1e-9, atol=1e-9, equal_nan=True
            )


@given(masks(), seeds)
def test_zeroed_values_add_up_to_the_head(drawn: Masks, seed: int) -> None:
    (mask,), query_len, key_len, offset = drawn
    q, k, v = (x.detach() for x in qkv(seed, query_len, key_len))
    m = AttentionMap(q, k, mask=mask, query_offset=offset)
    out = m.times(v)
    (g,) = (x.detach() for x in normal(seed + 1, tuple(out.shape)))
    close(m.effects(v, out, g, how="zero").total(), -(g * out).sum(-1))
    close(m.gradients(v, out, g).total(), torch.zeros_like(m.lse))


@given(masks(count=2), seeds)
def test_divergence_and_keys_that_count(drawn: Masks, seed: int) -> None:
    (mask, other), query_len, key_len, offset = drawn
    q, k, _ = (x.detach() for x in qkv(seed, query_len, key_len, n_kv_head=1))
    m, flat = (AttentionMap(q * x, k, mask=mask, query_offset=offset) for x in (1, 0))
    seen = drawn.dense(mask).sum(-1).double()
    close(flat.effective(), seen)
    close(m.kl(flat), (seen.clamp(min=1).log() - m.entropy()) * (seen > 0))
    found = flat.coverage(0.5)
    half = (seen / 2).ceil()
    assert bool(((found.least <= half) & (half <= found.most)).all())
    hidden = (drawn.dense(mask) & ~drawn.dense(other)).any(-1)
    theirs = AttentionMap(q, k, mask=other, query_offset=offset)
    assert bool((m.kl(theirs).isinf() == hidden).all())
    assert m.largest().shape == (len(q), HEADS)
