"""Publish examples/ with the site, so that links to it work on both, and print every command's help."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COMMANDS_HERE = "<!-- every command's help -->"
EXAMPLES = Path(__file__).parents[1] / "examples"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the examples as files of the site."""
    for path in sorted(EXAMPLES.rglob("*")):
        if path.suffix in {".py", ".yaml", ".sh", ".md"} and path.name != "README.md":
            name = path.relative_to(EXAMPLES.parent).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at those files, and fill in the commands' help."""
    markdown = markdown.replace("](../examples/", "](examples/")
    return markdown.replace(COMMANDS_HERE, _commands_help()) if COMMANDS_HERE in markdown else markdown


def _commands_help() -> str:
    """Return each command's `--help`, under a heading with its name."""
    import click

    from deploykit.cli.main import cli

    root = click.Context(cli, info_name="deploykit", terminal_width=100)
    parts = [f"```text\n{cli.get_help(root)}\n```"]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name) or cli
        context = click.Context(command, parent=root, info_name=name, terminal_width=100)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)
