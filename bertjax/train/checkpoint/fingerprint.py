"""Checksums of sharded arrays, the same on any topology, and of JSON: a flipped bit is noticed."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

_UINTS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


class Damaged(Exception):
    """What was read is not what was saved; the message says what differs."""


def fingerprint(array: jax.Array) -> jax.Array:
    """A checksum of an array's bits that does not depend on how the array is sharded.

    Every element's bits are mixed with its index in the whole array (MurmurHash3's finaliser, a
    bijection, so no change of a single element goes unnoticed) and summed modulo 2**32; the sum has
    the same value in any order, hence for any topology.

    Args:
        array: any shape; bool, or a number of 1, 2, 4 or 8 bytes that is not complex.

    Returns:
        uint32 [].
    """
    bits = _as_uint32(array)
    index = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    # One iota a dimension instead of a reshape to one dimension, which would gather sharded arrays.
    for axis in reversed(range(bits.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += iota * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    mixed = bits + index * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _as_uint32(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if array.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, _UINTS[array.dtype.itemsize]).astype(jnp.uint32)


@jax.jit
def _examine(array: jax.Array) -> jax.Array:
    """[fingerprint, 1 if every element is finite], uint32 [2]: one program a shape, not a state."""
    finite = (
        jnp.isfinite(array).all()
        if jnp.issubdtype(array.dtype, jnp.inexact)
        else jnp.ones((), jnp.bool_)
    )
    return jnp.stack([fingerprint(array), finite.astype(jnp.uint32)])


def describe(arrays: dict[str, jax.Array]) -> tuple[dict[str, list], list[str]]:
    """Dtype, shape and fingerprint of arrays, and which of them are not finite.

    Args:
        arrays: by name.

    Returns:
        {name: [dtype, shape, fingerprint in hex]}, all JSON values; the names that hold an infinity
        or a NaN.
    """
    # One after the other: on fake CPU devices, sums over devices that run side by side can take all
    # threads of a small machine and wait for each other for ever.
    found = [jax.device_get(_examine(array)) for array in arrays.values()]
    described = {
        name: [str(array.dtype), list(array.shape), f"{int(pair[0]):08x}"]
        for (name, array), pair in zip(arrays.items(), found, strict=True)
    }
    return described, [name for name, pair in zip(arrays, found, strict=True) if not pair[1]]


def differences(saved: dict[str, list], wanted: dict[str, Any]) -> list[str]:
    """Where the names, dtypes or shapes of saved arrays are not those that are wanted, in words.

    Args:
        saved: as `describe` gives it.
        wanted: anything with a dtype and a shape, by name.
    """
    there = {name: f"{dtype}{shape}" for name, (dtype, shape, _) in saved.items()}
    here = {name: f"{x.dtype}{list(x.shape)}" for name, x in wanted.items()}
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """A JSON object as it will be read back (tuples become lists), with a checksum of its own."""
    plain = json.loads(json.dumps(fields))
    return {**plain, "sha256": _digest(plain)}


def unseal(sealed: Any, what: str) -> dict[str, Any]:
    """The fields that were sealed.

    Raises:
        Damaged: they are others; `what` names the object in the message.
    """
    if not isinstance(sealed, dict):
        raise Damaged(f"{what} is not a JSON object")
    fields = {key: value for key, value in sealed.items() if key != "sha256"}
    if sealed.get("sha256") != _digest(fields):
        raise Damaged(f"{what} does not have the checksum it was saved with")
    return fields


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
