from pathlib import Path

import click

from deploykit.bench.compare import IGNORABLE_FIELDS, compare_records
from deploykit.bench.record_file import read_record
from deploykit.cli.output import json_option, print_json


@click.command(name="compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--ignore", metavar="NAME,NAME", help=f"Conditions that may differ: {', '.join(IGNORABLE_FIELDS)}."
)
@json_option
def command(first: Path, second: Path, ignore: str | None, as_json: bool) -> None:
    """Compare the figures of the records FIRST and SECOND, which must be measured the same way.

    \b
    Example:
      deploykit compare records/fp32.json records/int8.json
    """
    records = read_record(first), read_record(second)
    found = compare_records(*records, ignore=ignore.split(",") if ignore else ())
    if as_json:
        print_json(
            {
                "first": first,
                "second": second,
                "comparison": found,
                "clear": found.is_significant,
                "remarks": {"first": records[0].caveats, "second": records[1].caveats},
            }
        )
        return
    for path, record, value in zip((first, second), records, (found.first, found.second), strict=True):
        print(f"{path}: {value:.4g} {found.figure}, {record.engine.name} on {record.machine.name}")
    ratio = found.ratio
    verdict = "" if found.is_significant else "; the difference is within the uncertainty"
    print(f"second / first: {ratio}{verdict}")
    if found.ignored:
        print(f"differs, and is ignored: {', '.join(found.ignored)}")
    for path, record in zip((first, second), records, strict=True):
        for caveat in record.caveats:
            print(f"{path}: {caveat}")
