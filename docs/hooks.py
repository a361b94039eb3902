"""Publish examples/ with the site, so that links to it work on both a code host and the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

EXAMPLES = Path(__file__).parents[1] / "examples"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the examples as files of the site."""
    for path in sorted(EXAMPLES.rglob("*")):
        if path.suffix in {".py", ".yaml", ".sh", ".md"} and path.name != "README.md":
            name = path.relative_to(EXAMPLES.parent).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at those files."""
    return markdown.replace("](../examples/", "](examples/")
