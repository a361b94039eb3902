import pytest

from deploykit.onnx_tools.products import Product
from deploykit.quantize.calibration.method_choice import ErrorSum
from deploykit.quantize.float_fallback import (
    DEFAULT_FLOAT_BUDGET,
    FALLBACK_MIN_INT8_SHARE,
    FloatFallback,
    choose_float_fallback,
)
from deploykit.quantize.placement import DequantizedInput, Placement


def product(name: str, macs: int, *, reads: str | None = None) -> Product:
    return Product(
        op="MatMul",
        output=name,
        activation=reads or f"{name}.in",
        weight=f"{name}.w",
        weight_shape=(macs, 1),
        channel_axis=1,
        is_matrix_product=True,
    )


def placement_of(
    *products: Product, inputs: tuple[DequantizedInput, ...] = (), macs: int = 1000
) -> Placement:
    return Placement(policy="pointwise", products=products, dequantized_inputs=inputs, ties=(), macs=macs)


def noise_of(**errors: float) -> dict[str, ErrorSum]:
    """The mean error of each tensor over four images, by the name of the product that reads it."""
    return {f"{name}.in": ErrorSum(total=4 * error, images=4) for name, error in errors.items()}


# 980 of 1000 are in INT8; the rest is the stem's, say.
LAYERS = placement_of(
    product("a", 20), product("b", 30), product("c", 40), product("d", 50), product("rest", 840)
)


def test_the_noisiest_for_its_work_goes_first():
    # Noise over work: a 5e-4, b 1e-3, c 2.5e-4, d 4e-4, rest 1.2e-5. 80 may go: b and a; then d no longer
    # fits, and neither does c.
    rest, fallback = choose_float_fallback(
        LAYERS, noise_of(a=0.01, b=0.03, c=0.01, d=0.02, rest=0.01), float_budget=0.08
    )
    assert fallback.outputs == ("b", "a")
    assert [node.output for node in rest.products] == ["c", "d", "rest"]
    assert fallback.macs_share == pytest.approx(0.05)
    assert fallback.noise_share == pytest.approx(0.04 / 0.08)


def test_the_order_is_by_noise_over_work_and_not_by_noise():
    # d makes most noise, and costs five times a's work: a goes, and d does not fit beside it.
    _, fallback = choose_float_fallback(LAYERS, noise_of(a=0.02, d=0.03), float_budget=0.06)
    assert fallback.outputs == ("a",)


def test_a_tensor_that_exceeds_the_budget_is_skipped_for_one_that_fits():
    # By noise over work: c, d, a. c takes 40 of 65; d (50) would be too much, a (20) fits.
    _, fallback = choose_float_fallback(LAYERS, noise_of(c=0.06, d=0.06, a=0.01), float_budget=0.065)
    assert fallback.outputs == ("c", "a")


@pytest.mark.parametrize(
    ("float_budget", "outputs"),
    [
        (0.0, ()),
        (0.019, ()),
        (0.021, ("a",)),
        (0.051, ("a", "b")),
        (0.091, ("a", "b", "c")),
        (1.0, ("a", "b", "c", "d")),
    ],
)
def test_the_float_budget_is_not_exceeded(float_budget, outputs):
    rest, fallback = choose_float_fallback(
        LAYERS, noise_of(a=0.4, b=0.3, c=0.2, d=0.1), float_budget=float_budget
    )
    assert fallback.outputs == outputs
    assert fallback.macs_share <= float_budget
    assert LAYERS.int8_share - rest.int8_share == pytest.approx(fallback.macs_share)


def test_the_default_budget_is_a_tenth():
    assert DEFAULT_FLOAT_BUDGET == 0.1
    _, fallback = choose_float_fallback(LAYERS, noise_of(a=0.4, b=0.3, c=0.2, d=0.1))
    assert fallback.outputs == ("a", "b", "c")


def test_three_quarters_of_the_work_stay_in_int8_whatever_the_budget():
    even = placement_of(*(product(f"p{number}", 100) for number in range(10)))
    noise = noise_of(**{f"p{number}": 0.1 for number in range(10)})
    rest, fallback = choose_float_fallback(even, noise, float_budget=1.0)
    assert FALLBACK_MIN_INT8_SHARE == 0.75
    assert len(fallback.outputs) == 2
    assert rest.int8_share == pytest.approx(0.8)


@pytest.mark.parametrize("in_int8", [750, 740, 100])
def test_there_is_no_fallback_if_little_is_in_int8(in_int8):
    small = placement_of(product("a", 1), product("rest", in_int8 - 1))
    rest, fallback = choose_float_fallback(small, noise_of(a=0.5, rest=0.1))
    assert rest is small
    assert fallback == FloatFallback()


@pytest.mark.parametrize(
    "noise",
    [{}, noise_of(a=0, b=0, c=0, d=0, rest=0), noise_of(unknown=0.3)],
    ids=["not measured", "silent", "of others"],
)
def test_there_is_no_fallback_without_noise(noise):
    rest, fallback = choose_float_fallback(LAYERS, noise)
    assert rest is LAYERS
    assert fallback == FloatFallback(outputs=(), macs_share=0, noise_share=0)


def test_a_tensor_under_a_hundredth_of_the_noise_stays_in():
    _, fallback = choose_float_fallback(LAYERS, noise_of(a=0.009, b=0.011, rest=0.98))
    assert fallback.outputs == ("b",)


def test_a_tensor_moves_with_all_its_readers_and_their_work():
    shared = placement_of(
        product("left", 30, reads="x"), product("right", 40, reads="x"), product("rest", 900)
    )
    noise = {"x": ErrorSum(total=0.5, images=1), "rest.in": ErrorSum(total=0.1, images=1)}
    _, too_much = choose_float_fallback(shared, noise, float_budget=0.05)
    assert too_much == FloatFallback()
    rest, fallback = choose_float_fallback(shared, noise, float_budget=0.08)
    assert fallback.outputs == ("left", "right")
    assert fallback.macs_share == pytest.approx(0.07)
    assert [node.output for node in rest.products] == ["rest"]


def test_other_int8_readers_of_the_tensor_move_to_float_with_it():
    sums = (
        DequantizedInput(tensor="a.in", output="sum", position=0),
        DequantizedInput(tensor="branch", output="sum", position=1),
        DequantizedInput(tensor="other", output="gate", position=0),
    )
    placement = placement_of(product("a", 20), product("rest", 900), inputs=sums)
    rest, fallback = choose_float_fallback(placement, noise_of(a=0.5, rest=0.01))
    assert fallback.outputs == ("a", "sum")
    assert rest.dequantized_inputs == sums[2:]


def test_a_tensor_that_is_only_passed_on_is_no_candidate():
    """There is no work of its own to weigh its noise against."""
    inputs = (DequantizedInput(tensor="map", output="gate", position=0),)
    placement = placement_of(product("a", 20), product("rest", 900), inputs=inputs)
    noise = noise_of(a=0.1, rest=0.1) | {"map": ErrorSum(total=0.8, images=1)}
    rest, fallback = choose_float_fallback(placement, noise)
    assert fallback.outputs == ("a",)
    assert fallback.noise_share == pytest.approx(0.1)
    assert rest.dequantized_inputs == inputs


def test_the_noise_of_tensors_that_are_not_in_the_placement_does_not_count():
    _, fallback = choose_float_fallback(LAYERS, noise_of(a=0.1, rest=0.1) | noise_of(elsewhere=100.0))
    assert fallback.noise_share == pytest.approx(0.5)


def test_errors_are_compared_by_image():
    """Sums over more images are larger, and mean no more."""
    noise = {"a.in": ErrorSum(total=1, images=10), "b.in": ErrorSum(total=2, images=100)}
    _, fallback = choose_float_fallback(LAYERS, noise, float_budget=0.03)
    assert fallback.outputs == ("a",)
    assert fallback.noise_share == pytest.approx(0.1 / 0.12)
