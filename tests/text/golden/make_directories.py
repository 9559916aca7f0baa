"""Writes directories.json beside it: the ids that transformers gives the tokenizers of
tokenizer_directories.py.

    python make_directories.py a.json     in an environment with transformers 4
    python make_directories.py b.json     in one with transformers 5
    python make_directories.py a.json b.json

transformers 5 decides, and 4 where 5 can't read a directory or doesn't read the additional special
tokens of special_tokens_map.json, which 4 wrote.
"""

import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import tokenizer_directories as made  # noqa: E402 - where it lies is known only now


def ids_of(files):
    """Returns the ids of all texts, or the reason why there are none."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        for name, data in {"config.json": b'{"model_type": "bert"}', **files}.items():
            pathlib.Path(folder, name).write_bytes(data)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            return [tokenizer(*texts)["input_ids"] for texts in made.INPUTS]
        except Exception as error:  # noqa: BLE001 - of many kinds
            return f"{type(error).__name__}: {error}"


def write(output):
    import transformers

    ids = {name: ids_of(files) for name, files in made.directories()}
    about = {"transformers": transformers.__version__, "ids": ids}
    pathlib.Path(output).write_text(json.dumps(about))


def merge(four, five):
    four, five = (json.loads(pathlib.Path(path).read_text()) for path in (four, five))
    rows, chosen, disagree = [], {}, 0
    for name, ids in five["ids"].items():
        older = four["ids"][name]
        disagree += ids != older
        if isinstance(ids, str) or ("additional_special_tokens" in name and "map" in name):
            ids = older
        if isinstance(ids, list) and ids not in rows:
            rows.append(ids)
        chosen[name] = rows.index(ids) if isinstance(ids, list) else None
    print(f"{len(chosen)} directories, {len(rows)} different results, {disagree} differ by version")
    made_by = [four["transformers"], five["transformers"]]
    text = json.dumps({"made_by": made_by, "directories": chosen, "ids": rows})
    (HERE / "directories.json").write_text(text.replace("]], [[", "]],\n[[") + "\n")


if __name__ == "__main__":
    merge(*sys.argv[1:]) if len(sys.argv) > 2 else write(sys.argv[1])
