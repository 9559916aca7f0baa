"""Extracts English prose from the Python documentation installed on this machine.

The prose comes from docstrings of the standard library and of bertjax's dependencies, and from the
topics of `help("topics")`. Sources are parsed with `ast`; nothing is imported or run.
"""

import ast
import gc
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

_PACKAGE_LINE = (
    "jax flax optax orbax numpy scipy sklearn matplotlib tensorflow_datasets grain array_record "
    "etils tyro tqdm tokenizers sentencepiece sentencex safetensors "  # dependencies of bertjax
    "absl huggingface_hub rich fsspec treescope joblib PIL narwhals fontTools pyparsing packaging "
    "dateutil click opt_einsum humanize docstring_parser tensorstore ml_dtypes msgpack attr psutil "
    "requests urllib3 pip"
)
PACKAGES = tuple(_PACKAGE_LINE.split())
"""Import names of packages whose docstrings are read, if installed, after the standard library."""

STANDARD_LIBRARY = "python"
"""Value of `Passage.package` for the standard library."""

_TOPICS = "pydoc_data/topics.py"
_SKIPPED = frozenset(
    {"__pycache__", "_vendor", "idlelib", "lib2to3", "site-packages", "dist-packages"}
    | {"test", "testing", "tests"}
)
# Files with fewer docstrings take most of the parsing time and hold little of the text.
_MIN_SHARE = 0.25
_MIN_BYTES = 500
_TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""' + rb"|'''(.*?)'''", re.DOTALL)

_MIN_WORDS = 5
_MIN_PLAIN_WORDS = 0.75
_MIN_FUNCTION_WORDS = 0.15
_MAX_SYMBOLS = 0.05
_WITHOUT_SYMBOLS = str.maketrans("", "", r"=_{}<>[]|\#@$%^~+*/()")
_PLAIN_WORD = re.compile(r"(?<!\S)[(\"']?[A-Za-z]+(?:[-'’][A-Za-z]+)*[)\"']?[,.;:!?]?[)\"']?(?!\S)")
_FUNCTION_WORD_LINE = (
    "a all an and are as at be been but by can do does for from has have if in into is it its may "
    "must no not of on only or should so such than that the their then there these this to used "
    "was when where which will with you"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LINE.split())

_UNDERLINE = re.compile(r"([=\-~^\"'*#+.`])\1{2,}")
_TABLE = re.compile(r"[+|].*[+|]|[^\w\s]{5,}|[=\-+|: ]{5,}|.*\S(?: {3,}\S.*){2,}|.* \| .* \| .*")
_BORDER = re.compile(r"=+(?: +=+)+")
_BULLET = re.compile(r"(?:[-*+•–]|\(?(?:\d{1,2}|[a-z])[.)])\s+(?=\S)")
_NUMPY_FIELD = re.compile(r"[*\w`'\"][\w.*,` '\"-]{0,80} : .*")
_NUMPY_SIGNATURE = re.compile(r"[*\w.]+(?:, [*\w.]+)*")
_GOOGLE_FIELD = re.compile(r"[*`]*[A-Za-z_][\w.]*`*(?: ?\([^)]*\))?:\s+(?=\S)")
_SPHINX_FIELD = re.compile(r":(\w+)(?:\s[^:]*)?:\s*")
_DIRECTIVE = re.compile(r"\.\. ([\w:-]+)::")
_SECTION = re.compile(
    r"(?:Args?|Arguments?|Attributes?|Examples?|Keyword Args?|Keyword Arguments?|Methods?|Notes?|"
    r"Other Parameters|Parameters?|Raises?|References?|Returns?|See [Aa]lso|Usage|Usage Examples?|"
    r"Warnings?|Yields?):?"
)
_ADMONITIONS = frozenset(
    {"admonition", "attention", "caution", "danger", "hint"}
    | {"important", "note", "seealso", "tip", "warning"}
)

# A substring that every match contains, the pattern, and its replacement.
_MARKUP = (
    (":`", re.compile(r":[\w:+-]+:`[~!.]*([^`<]*?)\s*(?:<[^`>]*>)?`"), r"\1"),  # :func:`name`
    ("`", re.compile(r"`+[~!.]?([^`]*?)\s*(?:<[^`>]*>)?`+_*"), r"\1"),  # ``code``, `text <url>`_
    ("]", re.compile(r"\s*\[(?:[#\w]{1,3}\]_?|[\w ]+\]_)"), ""),  # footnotes: [1], [name]_
    ("*", re.compile(r"\*{1,2}(\w(?:[^*]*\w)?)\*{1,2}"), r"\1"),  # *emphasis*
    ("|", re.compile(r"\|(\w+)\|"), r"\1"),
    ("://", re.compile(r"<?https?://\S+"), ""),
)


class Passage(NamedTuple):
    """The prose of one docstring, or of one topic of `help`."""

    package: str  # import name, or "python" for the standard library
    file: str  # path of the module below the directory of packages: "jax/_src/numpy/linalg.py"
    text: str  # paragraphs, each on one line, separated by blank lines


def installed_documentation() -> list[Passage]:
    """Returns the prose of the installed documentation, each paragraph once.

    It skips tests, vendored copies and files with little documentation. Within docstrings it skips
    code, doctests, tables, headings, and the names and types of parameters. The passages are
    ordered by package, path and position in the file: the same files give the same list.
    """
    # Syntax trees are millions of small objects without cycles, and collecting garbage among them
    # would double the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(_passages())
    finally:
        if collecting:
            gc.enable()


def _passages() -> Iterator[Passage]:
    seen: set[str] = set()
    for package, name, path in _modules():
        for docstring in _documentation(name, path):
            paragraphs = []
            for paragraph in prose(docstring):
                key = paragraph.lower()
                if key not in seen:
                    seen.add(key)
                    paragraphs.append(paragraph)
            if paragraphs:
                yield Passage(package, name, "\n\n".join(paragraphs))


def prose(docstring: str) -> list[str]:
    """Returns the paragraphs of English prose in a docstring, without markup."""
    paragraphs = (
        _without_markup(paragraph)
        for paragraph in _paragraphs(docstring)
        if paragraph.count(" ") >= _MIN_WORDS - 1
    )
    return [paragraph for paragraph in paragraphs if is_prose(paragraph)]


def is_prose(text: str) -> bool:
    """Whether a paragraph reads as English sentences rather than as code, a list or a formula."""
    words = text.lower().split()
    if len(words) < _MIN_WORDS or not (text[0].isalnum() or text[0] in "\"'("):
        return False
    if len(text) - len(text.translate(_WITHOUT_SYMBOLS)) > _MAX_SYMBOLS * len(text):
        return False
    if len(_PLAIN_WORD.findall(text)) < _MIN_PLAIN_WORDS * len(words):
        return False
    return sum(map(_FUNCTION_WORDS.__contains__, words)) >= _MIN_FUNCTION_WORDS * len(words)


def _modules() -> Iterator[tuple[str, str, epath.Path]]:
    """Yields (package, relative path, path) of every source file to read, in a fixed order."""
    standard = epath.Path(sysconfig.get_path("stdlib"))
    for path in _sources(standard):
        yield STANDARD_LIBRARY, path.relative_to(standard).as_posix(), path
    for package in PACKAGES:
        try:
            spec = importlib.util.find_spec(package)  # imports nothing for a top-level name
        except (ImportError, ValueError):
            continue
        for location in (spec and spec.submodule_search_locations) or ():
            root = epath.Path(location)
            for path in _sources(root):
                yield package, f"{package}/{path.relative_to(root).as_posix()}", path


def _sources(directory: epath.Path) -> Iterator[epath.Path]:
    for path in sorted(directory.iterdir(), key=lambda entry: entry.name):
        name = path.name
        if name in _SKIPPED or name.startswith(("test_", ".", "conftest")):
            continue
        if name.endswith(".py") and not name.endswith(("_test.py", "_tests.py")):
            yield path
        elif "." not in name and path.is_dir():
            yield from _sources(path)


def _documentation(name: str, path: epath.Path) -> list[str]:
    try:
        source = path.read_bytes()
    except OSError:  # a broken link, or no permission
        return []
    quoted = sum(len(match[0]) for match in _TRIPLE_QUOTED.finditer(source))
    if name != _TOPICS and (quoted < _MIN_BYTES or quoted < _MIN_SHARE * len(source)):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in other packages
            tree = ast.parse(source)
        return list(_topics(tree) if name == _TOPICS else _docstrings(tree))
    except (SyntaxError, ValueError, RecursionError):  # templates, or code for other Pythons
        return []


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If,
) -> Iterator[str]:
    if not isinstance(node, ast.If):
        yield ast.get_docstring(node, clean=False) or ""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            yield from _docstrings(child)


def _topics(tree: ast.Module) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            values = [getattr(value, "value", None) for value in statement.value.values]
            yield from (value for value in values if isinstance(value, str))


def _paragraphs(docstring: str) -> Iterator[str]:
    """Yields paragraphs with joined lines, without code, tables, headings and field names."""
    current: list[str] = []
    start = 0  # the indentation of the paragraph
    for line in _without_code(inspect.cleandoc(docstring)):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if _UNDERLINE.fullmatch(text):
            del current[-1:]  # it was a heading
            text = ""
        left_out = not text or _TABLE.fullmatch(text) or _SECTION.fullmatch(text)
        if left_out or _NUMPY_FIELD.fullmatch(text):
            yield " ".join(current)
            current = []
            continue
        marker = _BULLET.match(text) or _SPHINX_FIELD.match(text)
        if indent and not marker:
            marker = _GOOGLE_FIELD.match(text)
        below = len(current) == 1 and indent > start  # only names ("axis", "x, y") are above it
        if marker or indent < start or (below and _NUMPY_SIGNATURE.fullmatch(current[0])):
            yield " ".join(current)
            current = []
        if not current:
            start = indent
        current.append(text[marker.end() :] if marker else text)
    yield " ".join(current)


def _without_code(text: str) -> Iterator[str]:
    """Yields the lines outside doctests, fenced and literal blocks, and directives."""
    block: int | None = None  # the indentation of the line that introduces a skipped block
    fenced = False
    until_blank = False  # inside a doctest or a table
    for line in text.expandtabs().split("\n"):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if stripped.startswith(("```", "~~~")) and not set(stripped) <= {"~"}:
            fenced = not fenced
            yield ""
            continue
        if fenced:
            continue
        if block is not None:
            if not stripped or indent > block:
                continue
            block = None
            yield ""
        if until_blank or stripped.startswith((">>>", "In [")) or _BORDER.fullmatch(stripped):
            until_blank = bool(stripped)
            yield ""
        elif stripped.startswith(".. "):
            directive = _DIRECTIVE.match(stripped)
            if directive is None or directive[1] not in _ADMONITIONS:
                block = indent
            yield ""
        elif stripped.endswith("::"):
            block = indent
            yield line.rstrip()[:-1]
        else:
            yield line


def _without_markup(text: str) -> str:
    for needed, pattern, replacement in _MARKUP:
        if needed in text:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())
