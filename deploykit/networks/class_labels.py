"""Class labels: the names of a model's classes, from a text file."""

from pathlib import Path

from deploykit.util.errors import DeployError


def read_class_labels(path: str | Path, num_classes: int) -> tuple[str, ...]:
    """Read class names from a text file with one name per line, in the order of the model's outputs.

    Raises:
        DeployError: The file cannot be read, or does not have one name per class.
    """
    try:
        labels = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} cannot be read as a text file of labels.",
            code="labels-invalid",
            fix="give a UTF-8 text file with one class name per line",
        ) from error
    if len(labels) != num_classes or not all(labels):
        raise DeployError(
            f"{path} has {len(labels)} lines, {labels.count('')} of them empty; the model has {num_classes} "
            "classes.",
            code="labels-invalid",
            fix="give one name per line, in the order of the model's outputs",
        )
    return labels
