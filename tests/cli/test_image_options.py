import click
import pytest
from click.testing import CliRunner
from refusals import refuses

from deploykit.cli.image_options import ImageOptions, image_options
from deploykit.data.preprocessing import INTERPOLATIONS, Overrides

seen: list[ImageOptions] = []


@click.command
@click.option("--above", default="a")
@image_options
@click.option("--below", default="b")
def command(above: str, below: str, image_options: ImageOptions) -> None:
    """Of its own."""
    assert (above, below) == ("a", "b")
    seen.append(image_options)


def parse(*arguments: str) -> ImageOptions:
    seen.clear()
    CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    (options,) = seen
    return options


def test_without_options_the_model_decides():
    assert parse() == ImageOptions(skip_bad=False, overrides=Overrides())


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--skip-bad"], ImageOptions(skip_bad=True)),
        (["--mean", "0.5,0.25,0"], ImageOptions(overrides=Overrides(mean=(0.5, 0.25, 0)))),
        (["--std", " 1, 2e-1 ,.3"], ImageOptions(overrides=Overrides(std=(1, 0.2, 0.3)))),
        (["--crop-padding", "0"], ImageOptions(overrides=Overrides(crop_padding_px=0))),
        *(
            (["--interpolation", name], ImageOptions(overrides=Overrides(interpolation=name)))
            for name in INTERPOLATIONS
        ),
    ],
)
def test_each_option_sets_what_it_names(arguments, options):
    assert parse(*arguments) == options


@pytest.mark.parametrize("text", ["", "0.5", "0.5,0.5", "1,1,1,1", "a,b,c", "1;1;1", "1,,1"])
@pytest.mark.parametrize("option", ["--mean", "--std"])
def test_a_value_that_is_not_three_numbers_is_refused_with_the_options_name(option, text):
    with refuses("invalid-option-value") as caught:
        parse(option, text)
    assert f"{option} 0.5,0.5,0.5" in caught.value.fix


@pytest.mark.parametrize(
    ("option", "text"), [("--crop-padding", "-1"), ("--crop-padding", "x"), ("--interpolation", "area")]
)
def test_an_invalid_value_is_refused_with_the_options_name(option, text):
    with pytest.raises(click.UsageError) as caught:
        parse(option, text)
    assert option in caught.value.format_message()
    assert text in caught.value.format_message()


def test_help_lists_them_with_the_commands_other_options():
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "Of its own." in shown
    for option in (
        "--above",
        "--below",
        "--skip-bad",
        "--mean R,G,B",
        "--std R,G,B",
        "--interpolation",
        "--crop-padding PX",
    ):
        assert option in shown
