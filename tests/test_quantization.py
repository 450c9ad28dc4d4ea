"""The arithmetic of 8-bit quantization, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.quantization import (
    FP16_SMALLEST,
    HARMLESS,
    QuantizedWeights,
    QuantParams,
    quantize_weights,
    round_params,
    round_to_nearest,
    uint8_params,
)


@pytest.mark.parametrize(
    ("params", "values", "codes"),
    [
        (QuantParams(0.5), [0.0, 0.25, 0.75, -0.25, -0.75], [0, 0, 2, 0, -2]),  # ties to even
        (QuantParams(0.5), [63.5, 64.0, 1e9, -64.0, -1e9], [127, 127, 127, -128, -128]),
        (QuantParams(0.5, -128), [0.0, 0.5, 127.5, 200.0, -1.0], [-128, -127, 127, 127, -128]),
        (QuantParams(0.5, 3, "uint8"), [-1.5, -2.0, 0.0, 126.0, 127.0], [0, 0, 3, 255, 255]),
    ],
)
def test_codes_and_what_they_stand_for(params: QuantParams, values: list[float], codes: list[int]) -> None:
    given = np.array(values, np.float32)
    found = params.quantize(given)
    assert found.tolist() == codes
    assert found.astype(params.dtype).tolist() == codes, "they fit their type"
    stored = [(code - params.zero_point) * params.scale for code in codes]
    assert params.fake_quantize(given).tolist() == stored
    assert params.dequantize(found.astype(params.dtype)).tolist() == stored
    low, high = params.bounds
    assert params.fake_quantize(np.array([-1e9, 1e9], np.float32)).tolist() == [low, high]


def test_zero_is_exact_in_a_leaning_range() -> None:
    params = uint8_params(-1.0, 2.0)
    assert (params.zero_point, params.dtype) == (85, "uint8")
    assert params.fake_quantize(np.zeros(1, np.float32))[0] == 0.0


def test_scales_are_what_the_graph_will_hold() -> None:
    assert round_params(QuantParams(0.1), half=True).scale == float(np.float16(0.1))
    assert round_params(QuantParams(0.1), half=False).scale == float(np.float32(0.1))
    tiny = FP16_SMALLEST / 4
    assert round_params(QuantParams(tiny, 5, "uint8"), half=True) == QuantParams(tiny, 5, "uint8"), "stays float32"


def test_weights_have_one_scale_for_each_channel_of_their_axis() -> None:
    weight = np.array([[127.0, -64.0], [0.0, 0.0], [1.27, 0.005]], np.float32)
    found = quantize_weights(weight, 0, False, search=False)
    assert found.scale == pytest.approx([1.0, HARMLESS, 0.01])
    assert found.codes.tolist() == [[127, -64], [0, 0], [127, 0]]
    turned = quantize_weights(np.ascontiguousarray(weight.T), 1, False, search=False)
    assert np.array_equal(turned.codes, found.codes.T)
    assert np.array_equal(turned.dequantize(), found.dequantize().T)


def test_codes_of_weights_are_symmetric() -> None:
    made = round_to_nearest(np.array([-9.0, 9.0], np.float32), np.array([0.01], np.float32), None)
    assert isinstance(made, QuantizedWeights)
    assert made.codes.tolist() == [-127, 127]
