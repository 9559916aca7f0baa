"""Tests of extracting prose from installed documentation."""

import itertools
import warnings

import pytest

from bertjax.demo import documentation
from bertjax.demo.documentation import Passage, installed_documentation, is_prose, prose

FIRST = "This function computes the sum of the values in the array that you give."
OTHER = "It returns a new array, which has the same shape as the one that was given to it."


def test_headings_code_and_parameters_of_numpy_are_left_out():
    docstring = f"""Return the sum of the values over an axis.

    {FIRST}
    {OTHER}

    Parameters
    ----------
    a : array_like, shape (n, m)
        The array from which the sum is taken
        over the axis.
    axis, keepdims : int, optional
        Axis along which the sum is computed.

    Returns
    -------
    total
        The sum of all values in the array.

    .. versionadded:: 1.2
       This has to be left out of the text.

    See Also
    --------
    numpy.mean, numpy.prod

    Examples
    --------
    >>> total(np.array([1, 2]))
    3 is what the function returns to you

    The next line is prose again, as it is not a part of the example::

        for the_code in all_of(the_words): this is not prose

    ====== ======
    a      the table of the values is here
    ====== ======

    The heading of the section that is to come
    ------------------------------------------
    .. note:: x

       A note is prose that has to be read by the user of this.
    """
    assert prose(docstring) == [
        "Return the sum of the values over an axis.",
        f"{FIRST} {OTHER}",
        "The array from which the sum is taken over the axis.",
        "Axis along which the sum is computed.",
        "The sum of all values in the array.",
        "The next line is prose again, as it is not a part of the example:",
        "A note is prose that has to be read by the user of this.",
    ]


def test_fields_of_google_and_sphinx_give_their_descriptions():
    docstring = """Computes the sum of the values over an axis.

    Args:
      values (list of int): The values from which the sum is taken
        over all of the axes.
      *axes: The axes that the sum is computed of.

    :param values: the values that the sum is taken of, in order
    :type values: a list of the values that the sum is of
    :returns: the sum of the values in the list

    ```python
    this is the code and not the text of it
    ```
    - first of the points that are on the list,
      which has two lines
    * the second of the points on the list
    1. a third point of the same list is here
    """
    assert prose(docstring) == [
        "Computes the sum of the values over an axis.",
        "The values from which the sum is taken over all of the axes.",
        "The axes that the sum is computed of.",
        "the values that the sum is taken of, in order",
        "a list of the values that the sum is of",
        "the sum of the values in the list",
        "first of the points that are on the list, which has two lines",
        "the second of the points on the list",
        "a third point of the same list is here",
    ]


def test_markup_is_removed():
    docstring = (
        "See :func:`numpy.sum` and :class:`~jax.Array`, or ``the`` *sum* of the "
        "`guide <http://x.y>`_ [1]_ that is at https://example.org/a?b with **all** "
        "the `values` in it [Knuth]_."
    )
    assert prose(docstring) == [
        "See numpy.sum and jax.Array, or the sum of the guide that is at with all the values in it."
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Too short.",
        "x = f(y) + g(z) for the x in the y",
        "Beta distribution Dirichlet Wishart Poisson Gamma binomial",
        "Diese Funktion berechnet die Summe aller Werte des Feldes und gibt sie zurück.",
        "- - - the - - - of - - - and",
        "| the | of | and | in | table |",
    ],
)
def test_what_is_not_english_prose(text):
    assert not is_prose(text)
    assert prose(text) == []


def test_prose():
    assert is_prose(FIRST) and is_prose(OTHER)
    assert is_prose("(This is said in brackets, but it's prose.)")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes an empty standard library and one package; returns a function that adds files."""

    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())

    package = tmp_path / "site" / "jax"
    package.mkdir(parents=True)
    monkeypatch.setattr(documentation, "PACKAGES", ("jax", "not_installed_at_all"))
    monkeypatch.setattr(documentation, "_MIN_BYTES", 10)
    monkeypatch.setattr(documentation.sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()

    def find_spec(name):
        if name != "jax":
            return None
        return type("Spec", (), {"submodule_search_locations": [str(package)]})

    monkeypatch.setattr(documentation.importlib.util, "find_spec", find_spec)
    return write


def test_docstrings_of_modules_classes_and_functions_in_order(installed):
    third = "The third of the texts, which is in a method of a class."
    installed(
        "lib/a.py",
        f'"""{FIRST}"""\nclass A:\n    """{OTHER}"""\n    def f(self):\n        """{third}"""\n'
        '        """This string is not a docstring of anything that there is."""\n',
    )
    installed(
        "site/jax/sub/b.py", f'if True:\n    async def f():\n        """{FIRST[:-1]} here."""\n'
    )
    assert installed_documentation() == [
        Passage("python", "a.py", FIRST),
        Passage("python", "a.py", OTHER),
        Passage("python", "a.py", third),
        Passage("jax", "jax/sub/b.py", f"{FIRST[:-1]} here."),
    ]


def test_each_paragraph_comes_once_in_all(installed):
    installed("lib/a.py", f'"""{FIRST}\n\n{OTHER}\n"""\n')
    installed("lib/b.py", f'"""{OTHER}"""\n')
    installed("site/jax/c.py", f'"""{FIRST.upper().capitalize()}\n\n{FIRST} It is more.\n"""\n')
    assert installed_documentation() == [
        Passage("python", "a.py", f"{FIRST}\n\n{OTHER}"),
        Passage("jax", "jax/c.py", f"{FIRST} It is more."),
    ]


def test_the_topics_of_help_are_read_from_the_literal(installed):
    installed(
        "lib/pydoc_data/topics.py",
        f"topics = {{'assert': 'The \"assert\" statement\\n'\n 'x\\n\\n{FIRST}\\n',\n 'n': 1}}\n",
    )
    assert installed_documentation() == [Passage("python", "pydoc_data/topics.py", FIRST)]


def test_tests_vendored_copies_and_hidden_files_are_skipped(installed):
    for name in (
        "lib/test/a.py",
        "lib/site-packages/a.py",
        "lib/idlelib/a.py",
        "lib/pip/_vendor/a.py",
        "lib/.a.py",
        "site/jax/tests/a.py",
        "site/jax/a_test.py",
        "site/jax/test_a.py",
        "site/jax/a.pyi",
    ):
        installed(name, f'"""{FIRST}"""\n')
    assert installed_documentation() == []
    installed("site/jax/contest.py", f'"""{FIRST}"""\n')
    assert len(installed_documentation()) == 1


def test_files_that_are_not_python_are_skipped(installed):
    installed("lib/a.py", f'"""{FIRST}"""\nprint "Python 2"\n')
    installed("lib/b.py", f'"""{FIRST}"""\n'.encode() + b"\xff\0")
    installed("lib/c.py", f'"""{FIRST}"""\nx = ' + "(" * 5000)
    installed("lib/d.py", b"")
    installed("lib/e.py", f'"""{OTHER}"""\n')
    assert [passage.file for passage in installed_documentation()] == ["e.py"]


def test_nothing_is_imported_and_no_warnings_are_shown(installed):
    installed("lib/a.py", f'"""{FIRST}\\d {OTHER}"""\nraise SystemExit("was imported")\n')
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert len(installed_documentation()) == 1
    assert shown == []


def test_files_with_little_documentation_are_not_parsed(installed):
    installed("lib/a.py", f'"""{FIRST}"""\n' + "x = 1\n" * 100)
    assert installed_documentation() == []


def test_the_order_of_passages_is_fixed(monkeypatch):
    library = documentation.sysconfig.get_path("stdlib")
    monkeypatch.setattr(documentation, "PACKAGES", ())
    monkeypatch.setattr(documentation.sysconfig, "get_path", lambda name: f"{library}/concurrent")
    passages = installed_documentation()
    assert len(passages) > 1 and passages == installed_documentation()


def test_this_machines_standard_library(monkeypatch):
    monkeypatch.setattr(documentation, "PACKAGES", ())
    passages = installed_documentation()
    assert {passage.package for passage in passages} == {"python"}
    # Python 3.11 has 162,000 words.
    assert sum(len(passage.text.split()) for passage in passages) > 80_000
    check(passages)


@pytest.mark.slow
def test_this_machines_documentation():
    passages = installed_documentation()
    # All dependencies of bertjax together have 1.3 million words.
    assert sum(len(passage.text.split()) for passage in passages) > 500_000
    assert {"python", "jax", "numpy"} <= {passage.package for passage in passages}
    check(passages)


def check(passages):
    assert any(passage.file == "pydoc_data/topics.py" for passage in passages)
    paragraphs = [part for passage in passages for part in passage.text.split("\n\n")]
    assert len({part.lower() for part in paragraphs}) == len(paragraphs)
    assert all(part == " ".join(part.split()) and is_prose(part) for part in paragraphs)
    assert not any(part.startswith(">>>") or "----" in part for part in paragraphs)
    # The passages of a file are contiguous.
    files = [(passage.package, passage.file) for passage in passages]
    changes = sum(before != after for before, after in itertools.pairwise(files))
    assert changes == len(set(files)) - 1
