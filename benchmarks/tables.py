"""Tables as Markdown spells them."""


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def heading(*cells: str) -> str:
    """The two lines a table begins with; the first column is of words, the others of numbers."""
    return f"{row(*cells)}\n{row(':---', *(['---:'] * (len(cells) - 1)))}"
