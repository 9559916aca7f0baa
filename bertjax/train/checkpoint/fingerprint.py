"""Checksums that detect a flipped bit in sharded arrays, on any topology, and in JSON."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

_UINTS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


class Damaged(Exception):
    """A checkpoint differs from what was saved; the message says how."""


def fingerprint(array: jax.Array) -> jax.Array:
    """Computes a checksum of an array's bits that doesn't depend on its sharding.

    The bits of each element are mixed with its index in the global array by MurmurHash3's
    finalizer, a bijection, so that any change of a single element changes the checksum. They are
    summed modulo 2**32, in any order with the same result.

    Args:
        array: any shape; bool, or non-complex numbers of 1, 2, 4 or 8 bytes.

    Returns:
        uint32 [].
    """
    if array.dtype == jnp.bool_:
        bits = array.astype(jnp.uint32)
    else:
        unsigned = _UINTS[array.dtype.itemsize]  # an array of 8 bytes gets a last axis of two
        bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    index = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    # A reshape to one dimension would gather sharded arrays, so add one iota per dimension.
    for axis in reversed(range(bits.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += iota * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    mixed = bits + index * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


@jax.jit
def _examine(array: jax.Array) -> jax.Array:
    """Returns [fingerprint, 1 if all is finite else 0], uint32 [2]. It compiles once per shape."""
    finite = jnp.isfinite(array).all()  # always, for integers
    return jnp.stack([fingerprint(array), finite.astype(jnp.uint32)])


def describe(arrays: dict[str, jax.Array]) -> tuple[dict[str, list], list[str]]:
    """Describes arrays by name.

    Returns:
        {name: [dtype, shape, fingerprint in hex]} as JSON values, and the names of arrays that hold
        an infinity or a NaN.
    """
    described, not_finite = {}, []
    for name, array in arrays.items():
        # One array at a time: on fake CPU devices, concurrent sums over devices can take all
        # threads of a small machine and wait for each other forever.
        value, finite = jax.device_get(_examine(array))
        described[name] = [str(array.dtype), list(array.shape), f"{int(value):08x}"]
        if not finite:
            not_finite.append(name)
    return described, not_finite


def differences(saved: dict[str, list], wanted: dict[str, Any]) -> list[str]:
    """Lists in words which names, dtypes or shapes of `describe`'s result differ from `wanted`."""
    there = {name: f"{dtype}{shape}" for name, (dtype, shape, _) in saved.items()}
    here = {name: f"{x.dtype}{list(x.shape)}" for name, x in wanted.items()}
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]


def seal(fields: dict[str, Any]) -> dict[str, Any]:
    """Adds a checksum to a JSON object, whose tuples become lists, as JSON reads them back."""
    plain = json.loads(json.dumps(fields))
    return {**plain, "sha256": _digest(plain)}


def unseal(sealed: Any, what: str) -> dict[str, Any]:
    """Returns the sealed fields of `what`; raises `Damaged` if the checksum is wrong."""
    if not isinstance(sealed, dict):
        raise Damaged(f"{what} is not a JSON object")
    fields = {key: value for key, value in sealed.items() if key != "sha256"}
    if sealed.get("sha256") != _digest(fields):
        raise Damaged(f"{what} does not have the checksum it was saved with")
    return fields


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
