"""Tests names of models on the hub, and downloads from a local server in place of the hub."""

import hashlib
import http.server
import json
import socket
import threading

import jax
import pytest

from bertjax.config import BertConfig
from bertjax.errors import UserError
from bertjax.interop import hub
from bertjax.interop.huggingface import Pretrained, from_pretrained, save_pretrained
from bertjax.interop.tensors import weights_hash
from bertjax.model.bert import init_params
from bertjax.text.tokenizer import load_tokenizer

COMMIT, OLDER = "c0ffee" + "0" * 34, "0ddba11" + "0" * 33
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The endpoints of the hub that huggingface_hub requests for public models."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        self.server.requests.append(f"{self.command} /{path}")
        words = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(words[:2]), words[2:]
        if name == "someone/gated":
            return self._error(403, "GatedRepo")
        if name == "someone/breaks":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        model = self.server.models.get(name)
        if model is None:
            return self._error(401 if name == "someone/private" else 404, "RepoNotFound")
        revision = rest[1]
        commit = self.server.branches.get(revision, revision)
        if commit not in model:
            return self._error(404, "RevisionNotFound")
        files = model[commit]
        if rest[0] == "revision":
            siblings = [{"rfilename": file} for file in files]
            return self._json({"id": name, "sha": commit, "siblings": siblings})
        if rest[0] == "tree":
            return self._json(
                [
                    {"type": "file", "path": file, "size": len(data), "oid": _tag(data)}
                    for file, data in files.items()
                ]
            )
        file = "/".join(rest[2:])
        if file not in files:
            return self._error(404, "EntryNotFound")
        self._reply(files[file], **{"ETag": f'"{_tag(files[file])}"', "X-Repo-Commit": commit})

    def _json(self, value):
        self._reply(json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _error(self, code, word):
        self._reply(b"{}", code, **{"X-Error-Code": word, "X-Error-Message": word})

    def _reply(self, data, code=200, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def _tag(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        server.models, server.requests, server.branches = {}, [], {"main": COMMIT, "v1": OLDER}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def download(server, run_python, tmp_path):
    """Downloads names in a process whose hub is `server`; returns [message or source, files]."""
    code = (
        "import json, pathlib, sys\n"
        "from bertjax.errors import UserError\n"
        "from bertjax.interop import hub\n"
        "for word in sys.argv[1:]:\n"
        "    try:\n"
        "        directory, source = hub.download(hub.parse_name(word))\n"
        "        found = [f for f in pathlib.Path(directory).rglob('*') if f.is_file()]\n"
        "        names = {str(file.relative_to(directory)): file for file in found}\n"
        "        files = {name: len(file.read_bytes()) for name, file in names.items()}\n"
        "        print(json.dumps([source, files]))\n"
        "    except UserError as error:\n"
        "        print(json.dumps([str(error), None]))\n"
    )

    def run(*names, **environment):
        environment = {**_environment(server, tmp_path), **environment}
        lines = run_python("-c", code, *names, timeout=60, **environment)
        return [json.loads(line) for line in lines.splitlines()]

    return run


def _environment(server, tmp_path):
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HOME": str(tmp_path),
    }


def files_of(*names):
    return {name: name.encode() for name in ("config.json", "vocab.txt", *names)}


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("google-bert/bert-base-uncased", ("google-bert/bert-base-uncased", "main")),
        ("a/b@v1.0", ("a/b", "v1.0")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        (f"a/b@{COMMIT}", ("a/b", COMMIT)),
        ("bert-base-uncased", ("google-bert/bert-base-uncased", "main")),
        ("bert-base-chinese@v1", ("google-bert/bert-base-chinese", "v1")),
        ("distilbert-base-cased", ("distilbert/distilbert-base-cased", "main")),
    ],
)
def test_what_is_a_name(word, name):
    assert hub.parse_name(word) == name


@pytest.mark.parametrize(
    "word",
    [
        *("/a/b", "/a", "./a/b", "./a", "../a", "~/a", "~a/b", ".a/b", "a/.b", "a/../b"),
        *(
            "a",
            "",
            "a/b/c",
            "a/b/",
            "a/",
            "gs://a/b",
            "gs://a",
            "hf://a/b",
            "a//b",
            "a\\b/c",
            "C:/a",
        ),
        *("a/b@", "a/b@/x", "a/b@../x@y", "a/b c", "a/b\n", "a b/c", "a/b@v1@v2", "a@v1", "@a/b"),
    ],
)
def test_what_is_a_path_never_reaches_the_network(word, monkeypatch):
    monkeypatch.setattr(hub, "download", None)  # a call would raise a TypeError
    assert hub.parse_name(word) is None
    if "://" not in word:
        with pytest.raises(UserError):
            from_pretrained(word)


def test_what_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.parse_name("runs/pretrain") is not None
    assert hub.parse_name(tmp_path / "a") is None  # an object, not a string
    (tmp_path / "runs").mkdir()
    assert hub.parse_name("runs/pretrian") is None  # a misspelled run
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("")
    assert hub.parse_name("owner/name") is None
    (tmp_path / "bert-base-uncased").mkdir()
    assert hub.parse_name("bert-base-uncased") is hub.parse_name("bert-base-uncased@v1") is None


def test_a_name_without_an_owner_is_read_as_the_one_with_it(tmp_path, monkeypatch, tiny_model):
    directory = save_pretrained(tmp_path / "model", tiny_model)
    monkeypatch.setattr(hub, "download", lambda name: (directory, f"{name}@{COMMIT}"))
    told = []
    source = f"google-bert/bert-large-cased@{COMMIT}"
    assert from_pretrained("bert-large-cased", log=told.append).source == source
    said = "bert-large-cased is read as google-bert/bert-large-cased, its name on the hub."
    assert told == [said]
    from_pretrained("google-bert/bert-large-cased", log=pytest.fail)


def test_only_what_a_model_needs_is_downloaded(server, download):
    more = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spm.model")
    more = (*more, "added_tokens.json", "decoder_tokenizer/vocab.txt")
    other = (
        "README.md",
        "decoder_tokenizer/README.md",
        "modeling.py",
        "onnx/model.safetensors",
        "x.safetensors",
        "tf_model.h5",
    )
    worse = ("flax_model.msgpack", "pytorch_model.bin", "training_args.bin")
    server.models["someone/bert"] = {COMMIT: files_of(*more, *other, *worse, "model.safetensors")}
    [(source, files)] = download("someone/bert")
    assert source == f"someone/bert@{COMMIT}"
    assert set(files) == {"config.json", "vocab.txt", *more, "model.safetensors"}
    gets = {line.split(f"/{COMMIT}/")[1] for line in server.requests if "GET /someone" in line}
    assert gets == set(files)


def test_pickles_only_where_there_is_nothing_else(server, download):
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    cases = {  # files of a repository, and how many of them are downloaded
        "someone/shards": (("model.safetensors.index.json", *shards, "pytorch_model.bin"), 3),
        "someone/flax": (("flax_model.msgpack", "pytorch_model.bin"), 1),
        "someone/bin": (("pytorch_model.bin", "optimizer.bin"), 1),
        "someone/bins": (("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"), 2),
        "someone/tf": (("tf_model.h5",), 0),
    }
    server.models |= {name: {COMMIT: files_of(*there)} for name, (there, _) in cases.items()}
    for (there, taken), (_, files) in zip(cases.values(), download(*cases), strict=True):
        assert set(files) == {"config.json", "vocab.txt", *there[:taken]}


def test_revisions_and_the_cache(server, download):
    server.models["someone/bert"] = {
        COMMIT: files_of("model.safetensors"),
        OLDER: {**files_of("model.safetensors"), "config.json": b"older"},
    }
    sources = ["@".join(("someone/bert", commit)) for commit in (COMMIT, OLDER, OLDER, COMMIT)]
    words = ("someone/bert", "someone/bert@v1", f"someone/bert@{OLDER}", "someone/bert@main")
    results = download(*words)
    assert [source for source, _ in results] == sources
    assert [files["config.json"] for _, files in results] == [11, 5, 5, 11]
    assert len([line for line in server.requests if line.endswith("model.safetensors")]) <= 4
    # Offline, the cache gives the same files without a request.
    before = len(server.requests)
    assert download(*words, HF_HUB_OFFLINE="1") == results
    (sentence, _), (revision, _) = download("someone/other", "someone/bert@v2", HF_HUB_OFFLINE="1")
    assert len(server.requests) == before
    for word, said in (("someone/other", sentence), ("someone/bert@v2", revision)):
        assert said.startswith(f"{word}: not in the cache, and HF_HUB_OFFLINE forbids")


def test_what_can_go_wrong_is_a_sentence_each(server, download):
    server.models["someone/bert"] = {COMMIT: files_of("model.safetensors")}
    wanted = {
        "someone/none": "no such directory, and the hub has no such model",
        "someone/private": "no such directory, and the hub has no such model or it is private",
        "someone/gated": "its owner must grant access",
        "someone/bert@v9": "the model has no revision 'v9'",
        "some--one/bert": "not a valid name on the hub",
    }
    for (word, reason), (sentence, _) in zip(wanted.items(), download(*wanted), strict=True):
        assert sentence.startswith(f"{word}: ") and reason in sentence
        assert "\n" not in sentence and sentence.endswith(".")


def test_no_network_and_a_connection_that_breaks(server, download):
    [nobody] = download("someone/bert", HF_ENDPOINT="http://127.0.0.1:9")
    [breaks] = download("someone/breaks")
    assert any("someone/breaks" in line for line in server.requests)
    for name, (sentence, _) in (("someone/bert", nobody), ("someone/breaks", breaks)):
        assert sentence.startswith(f"{name}: the download failed (")
        assert sentence.endswith("try again, or give a path.") and "\n" not in sentence


def test_without_the_package_one_sentence_says_what_to_install(run_python):
    code = (
        "import sys\n"
        "sys.modules['huggingface_hub'] = None\n"
        "from bertjax.cli import run\n"
        "assert run(['embed', 'someone/bert']) == 2\n"
    )
    assert run_python("-c", f"import sys; sys.stderr = sys.stdout\n{code}") == (
        "bertjax: someone/bert: no such directory, and names on the Hugging Face hub need another "
        "package: pip install 'bertjax[hub]'.\n"
    )


def test_a_model_of_the_hub_from_the_command_line_and_in_python(server, run_python, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    config = BertConfig(
        vocab_size=5,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    params = init_params(config, jax.random.key(0))
    model = Pretrained(config, params, load_tokenizer(tmp_path))
    exported = save_pretrained(tmp_path / "out", model)
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    server.models["someone/bert"] = {COMMIT: files}
    code = (
        "import io, json, sys\n"
        "import bertjax as bj\n"
        "from bertjax.cli import run\n"
        "from bertjax.interop.tensors import weights_hash\n"
        "model = bj.from_pretrained('someone/bert')\n"
        "print(model.source, weights_hash(model.params))\n"
        "sys.stdin = io.TextIOWrapper(io.BytesIO(b'a b\\n'))\n"
        "assert run(['embed', 'someone/bert']) == 0\n"
    )
    lines = run_python("-c", code, **_environment(server, tmp_path)).splitlines()
    assert lines[0] == f"someone/bert@{COMMIT} {weights_hash(model.params)}"
    assert len(json.loads(lines[1])) == model.config.hidden_size
    assert model.source is None
