"""Writes TF1 checkpoints without TensorFlow, for the tests of what reads them.

Written from the descriptions of the formats (LevelDB's doc/table_format.md and TensorFlow's
tensor_bundle.proto), with nothing of the reader's. TensorFlow 2.21's tf.train.load_checkpoint read
its files, of one and of three shards, with equal arrays (2026-11-25).
"""

import json
import struct

import ml_dtypes
import numpy as np

_NUMBERS = {
    np.dtype(np.float32): 1,
    np.dtype(np.float64): 2,
    np.dtype(np.int32): 3,
    np.dtype(np.uint8): 4,
    np.dtype(np.int64): 9,
    np.dtype(np.bool_): 10,
    np.dtype(ml_dtypes.bfloat16): 14,
    np.dtype(np.float16): 19,
}


def _table():
    """The table of CRC32C, whose reflected polynomial is 0x1EDC6F41."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def masked_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


def varint(number):
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(digits) + bytes([number])


def field(number, value):
    """Encodes a field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(pairs, restart_interval):
    data, restarts, last = b"", [], b""
    for count, (key, value) in enumerate(pairs):
        shared = 0
        if count % restart_interval:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        else:
            restarts.append(len(data))
        rest = key[shared:]
        data += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        last = key
    restarts = restarts or [0]
    return data + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(pairs, compression=0, pairs_in_a_block=20):
    """Returns an index file with sorted (key, value) pairs."""
    out = bytearray()

    def put(content):
        handle = varint(len(out)) + varint(len(content))
        stored = content + bytes([compression])
        out.extend(stored + struct.pack("<I", masked_crc32c(stored)))
        return handle

    handles = []
    for start in range(0, len(pairs), pairs_in_a_block):
        some = pairs[start : start + pairs_in_a_block]
        handles.append((some[-1][0], put(block(some, 16))))
    meta = put(block([], 16))
    footer = meta + put(block(handles, 1))
    return bytes(out) + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def header(shards=1, big_endian=False):
    endianness = field(2, 1) if big_endian else b""
    return field(1, shards) + endianness + field(3, field(1, 1))


def entry(array, shard, offset, extra=b""):
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    data = array.tobytes()
    return (
        field(1, _NUMBERS[array.dtype])
        + field(2, shape)
        + (field(3, shard) if shard else b"")
        + (field(4, offset) if offset else b"")
        + field(5, len(data))
        + varint(6 << 3 | 5)
        + struct.pack("<I", masked_crc32c(data))
        + extra
    )


def write_bundle(prefix, tensors, shards=1, **options):
    """Writes PREFIX.index and PREFIX.data-*, with options of the format."""
    extra = options.pop("extra", {})
    files = [bytearray() for _ in range(shards)]
    entries = {}
    for number, (name, value) in enumerate(sorted(tensors.items())):
        shard = number % shards
        array = np.asarray(value)
        offset = len(files[shard])
        entries[name.encode()] = entry(array, shard, offset, extra.get(name, b""))
        files[shard].extend(array.tobytes())
    pairs = [(b"", header(shards, options.pop("big_endian", False))), *sorted(entries.items())]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    (prefix.parent / f"{prefix.name}.index").write_bytes(table(pairs, **options))
    for number, data in enumerate(files):
        path = prefix.parent / f"{prefix.name}.data-{number:05}-of-{shards:05}"
        path.write_bytes(bytes(data))


def _paths(tree, parents=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, (*parents, name))
        else:
            yield (*parents, name), np.asarray(value, np.float32)


def google_variables(tree, slot=None):
    """Returns {Google's name: array} of parameters or moments, without the reader's code."""
    named = {}
    for path, array in _paths(tree):
        part, *rest = path
        if part in ("nsp", "classifier", "qa_outputs"):
            scope = {"nsp": "cls/seq_relationship/", "qa_outputs": "cls/squad/"}.get(part, "")
            leaf = "output_weights" if rest == ["kernel"] else "output_bias"
            name, array = scope + leaf, array.T
        elif path == ("mlm", "bias"):
            name = "cls/predictions/output_bias"
        else:
            words = {
                "embeddings": ["bert", "embeddings"],
                "encoder": ["bert", "encoder"],
                "pooler": ["bert", "pooler", "dense"],
                "mlm": ["cls", "predictions"],
            }[part]
            for word in rest:
                if word in ("query", "key", "value"):
                    words.append("self")
                if word in ("intermediate", "output", "transform"):
                    words += [word, "dense"]
                elif word.endswith("layer_norm"):
                    # A LayerNorm lies in the scope of the layer whose output it normalizes.
                    under = {"mlm": ["transform"], "embeddings": []}.get(part, ["output"])
                    words += ["attention"] * word.startswith("attention")
                    words += [*under, "LayerNorm"]
                elif word != "embedding":
                    words.append({"scale": "gamma"}.get(word, word))
            if words[-2] == "LayerNorm" and words[-1] == "bias":
                words[-1] = "beta"
            name = "/".join(words)
        named[f"{name}/{slot}" if slot else name] = np.ascontiguousarray(array)
    return named


def write_google(
    directory,
    params,
    config,
    tokens=None,
    *,
    mu=None,
    nu=None,
    step=None,
    change=None,
    name="bert_model.ckpt",
    **options,
):
    """Writes a directory like Google's archives, with moments and a step if they are given.

    `change` is given the weights by Google's names and returns those to write.
    """
    tensors = google_variables(params)
    tensors = change(tensors) if change is not None else tensors
    for tree, slot in ((mu, "adam_m"), (nu, "adam_v")):
        tensors |= google_variables(tree, slot) if tree is not None else {}
    if step is not None:
        tensors["global_step"] = np.int64(step)
    write_bundle(directory / name, tensors, **options)
    fields = {**config.to_dict(), "pooler_type": "first_token_transform"}
    (directory / "bert_config.json").write_text(json.dumps(fields))
    if tokens is not None:
        (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return directory
