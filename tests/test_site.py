"""The documents as a site: they build strictly, nothing in them is fetched from elsewhere, and every
component and recipe is there."""

import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lapflow.config.loading import recipes
from lapflow.plugins.kinds import BUILTIN
from lapflow.plugins.registry import config_model

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("site")


def hook(name):
    """The module of a hook, which lies in docs/ and not in the package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = """
import sys
from lapflow.cli.doctor import EXTRAS
from tests.test_extras import hide
hide(but=EXTRAS["docs"])
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as by `make docs`: of the optional packages only those of the extra `docs` are
    there."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_every_page_of_the_documents_is_in_the_site(site):
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "api").glob("*.md")]:
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()


def test_nothing_is_fetched_when_a_page_is_read(site):
    fetched = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""")
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text()), page.name


def test_every_component_is_there_with_every_option(site):
    page = (site / "components.html").read_text()
    for kind, names in BUILTIN.items():
        for name in names:
            start = page.index(f'id="{kind}-{name}"')
            section = page[start : page.find("<h3", start)]
            for option, field in config_model(kind, name).model_fields.items():
                assert f"<code>{option}</code>" in section, f"{kind} {name} {option}"
                assert not field.description or field.description.split()[0] in html.unescape(section)


def test_every_recipe_is_there(site):
    page = (site / "recipes.html").read_text()
    assert all(f"<code>{name}</code>" in page for name in recipes())


def test_the_reference_has_what_is_exported(site):
    import lapflow

    page = (site / "api" / "lapflow.html").read_text()
    assert all(re.search(rf'id="lapflow\.[a-z_.]+\.{name}"', page) for name in lapflow.__all__)


def test_links_that_leave_the_documents_lead_to_pages_or_show_the_path():
    outside = hook("outside")
    docs = ROOT / "docs"
    assert (
        outside.relinked("[it](../examples/lapgan/README.md)", docs / "plugins.md", "plugins.md")
        == "[it](examples/lapgan.md)"
    )
    assert (
        outside.relinked("[it](../core.md#there)", docs / "api" / "x.md", "api/x.md")
        == "[it](../core.md#there)"
    )
    assert (
        outside.relinked("[flow](../lapflow/flows/flow.py)", docs / "x.md", "x.md")
        == "flow (`lapflow/flows/flow.py`)"
    )
    assert (
        outside.relinked("![picture](pictures/grid.png)", docs / "x.md", "x.md")
        == "![picture](pictures/grid.png)"
    )


def test_the_navigation_is_the_index():
    navigation = hook("navigation")
    index = (
        "# Home\n\n- [a](a.md), and [b](b.md)\n\n## More\n\n- [web](https://x.org)\n- "
        "[c](../examples/c/README.md)\n"
    )
    assert navigation.navigation(index) == ["index.md", "a.md", {"More": ["examples/c.md"]}]


def test_a_formula_is_not_read_as_markdown():
    assert hook("components").plain("s*_k < 1, `a_b`") == r"s\*\_k &lt; 1, `a_b`"


def test_formulas_are_drawn(site):
    page = (site / "mathematics.html").read_text()
    assert page.count("<math") > 100
    assert "<mfrac>" in page
    assert "arithmatex" not in page, "a formula was left as it was written"
    assert "merror" not in page
    prose = re.sub(r"<(math|code)\b.*?</\1>", "", page, flags=re.S)
    assert not re.search(r"\$|\\[a-z]+", re.sub(r"<(script|style)\b.*?</\1>", "", prose, flags=re.S)), (
        "LaTeX that is not drawn"
    )
