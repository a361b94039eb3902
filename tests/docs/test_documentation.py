"""The documentation names what exists."""

import ast
import re
from pathlib import Path

import deploykit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Problems that the command line itself reports.
COMMAND_LINE_CODES = {"usage", "out-of-memory", "system-error", "internal-error"}


def codes_in_source() -> set[str]:
    codes: set[str] = set()
    for path in Path(deploykit.__file__).parent.rglob("*.py"):
        module = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value
            for node in module.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.keyword) and node.arg == "code":
                value = constants.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
                found = (each.value for each in ast.walk(value or node) if isinstance(each, ast.Constant))
                codes |= {each for each in found if isinstance(each, str) and each}
    return codes


def test_troubleshooting_explains_every_error_code_and_no_others():
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    first_cells = (line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    documented = [code for cell in first_cells for code in re.findall(r"`([a-z0-9-]+)`", cell)]
    assert sorted(documented) == sorted(set(documented))
    assert set(documented) == codes_in_source() | COMMAND_LINE_CODES


def test_the_api_reference_lists_every_public_name():
    listed = re.findall(r"^::: deploykit\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    functions_and_classes = {name for name in deploykit.__all__ if name != "__version__"}
    assert set(listed) >= functions_and_classes


def test_every_path_that_the_documentation_names_exists():
    pages = [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    missing = [
        f"{page.name}: {path}"
        for page in pages
        for path in re.findall(
            r"`((?:deploykit|tests|benchmarks|examples|docs)/[\w./-]+)`", page.read_text("utf-8")
        )
        if not (ROOT / path).exists()
    ]
    assert not missing


def test_every_module_that_decisions_names_exists():
    text = (DOCS / "decisions.md").read_text("utf-8")
    rooms = "|".join(path.name for path in (ROOT / "deploykit").iterdir() if path.is_dir())
    missing = [
        path
        for path in re.findall(rf"`((?:{rooms})/[\w./]+)`", text)
        if not (ROOT / "deploykit" / path).exists()
    ]
    assert not missing
