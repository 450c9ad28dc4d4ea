"""Layers as real engines name them: facts of NVIDIA's recorded engines (TensorRT Engine Explorer's ResNet examples on
A100 and RTX 3090) and of Myelin's fused kernels, in records of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgecnn.backends.trt.inspector import layers_from_inspector
from edgecnn.results.layers import EngineLayer, obtained_precision, share_facts, shares_of

INT8, HALF, FLOAT = "Thirty-two wide channel vectorized row major Int8 format", "Half", "Row major linear FP32"
STEM_MACS = 64 * 3 * 7 * 7 * 112 * 112
XMMA = "sm80_xmma_fprop_implicit_gemm_"


def record(kind: str, taken: str = HALF, given: str = HALF, nodes: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """A layer of the inspector's from one tensor to another."""
    shapes = [more.pop("taken_shape", [2, 16, 8, 8]), more.pop("given_shape", [2, 16, 8, 8])]
    sides = [
        [{"Name": n, "Dimensions": s, "Format/Datatype": f}]
        for n, s, f in zip("ab", shapes, (taken, given), strict=True)
    ]
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": "layer", "LayerType": kind, "Inputs": sides[0], "Outputs": sides[1], "Metadata": metadata, **more}


def layers(*records: dict[str, Any], macs: dict[str, int | None] | None = None) -> list[EngineLayer]:
    return layers_from_inspector(json.dumps({"Layers": list(records)}), macs)


CONVOLUTION: Any = {"ParameterType": "Convolution", "Kernel": [3, 3], "OutMaps": 16, "Groups": 1}


@pytest.mark.parametrize("kind", ["CaskConvolution", "CaskGemmConvolution", "conv", "gemm"])
def test_a_cast_that_comes_first_leaves_the_multiply_adds_to_the_layer_that_does_them(kind: str) -> None:
    """A kernel of Myelin's before the convolution shares its metadata; it runs in another precision."""
    cast = record("kgen", FLOAT, HALF, ("/conv/Conv", "/cast"), TacticName="__myl_Cast_0x12")
    work = record(kind, INT8, HALF, ("/conv/Conv",), TacticName=f"{XMMA}i8f32_i8i32_f32_nchw_vect_c_32")
    found = layers(cast, work, macs={"/conv/Conv": 5})
    assert [(x.role, x.macs, x.precision) for x in found] == [("other", None, "fp32"), ("compute", 5, "int8")]
    assert obtained_precision(found) == "int8"


def test_a_block_takes_what_no_convolution_names() -> None:
    block = record("kgen", HALF, HALF, ("/a/Conv", "/b/Conv"))
    assert [
        (x.role, x.macs) for x in layers(block, record("conv", nodes=("/b/Conv",)), macs={"/a/Conv": 3, "/b/Conv": 4})
    ] == [
        ("compute", 3),
        ("compute", 4),
    ]


def test_names_with_brackets_are_whole() -> None:
    names = ("/layers[0]/Conv", "x [y] z", "(Unnamed Layer* 3) [Shuffle]", "/b")
    (found,) = layers(record("conv", nodes=names), macs={"/layers[0]/Conv": 3})
    assert (found.nodes, found.macs) == (names, 3)


def test_work_that_is_split_over_two_kernels_counts_once() -> None:
    half = record("CaskConvolution", nodes=("/conv/Conv",), **CONVOLUTION)
    assert [x.macs for x in layers(half, half, macs={"/conv/Conv": 7})] == [7, 0]


@pytest.mark.parametrize(
    ("kernel", "precision"),
    [
        (f"{XMMA}interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize192x64x64_stage3", "int8"),
        (f"{XMMA}interleaved_i8f32_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw_tilesize64x32x64", "int8"),
        ("ampere_int8x4_icudnn_int8x4_128x32_relu_interior_c32_nn_v1", "int8"),
        (f"{XMMA}f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize256x64x32_stage3", "fp16"),
        ("sm89_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64", "fp16"),
        ("trt_turing_cutlass_image_network_first_layer_hmma_fprop_f16f16f32_nhwc_nhwc_k64r7s7c4_stride2x2", "fp16"),
        ("ampere_h16816cudnn_128x128_ldg8_relu_exp_stages_64x3_large_nhwc_tn_v1", "fp16"),
        (f"{XMMA}f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16", "fp32"),
        ("ampere_scudnn_128x64_relu_xregs_large_nn_v1", "fp32"),
        (f"{XMMA}bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "other"),
        ("sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n", "other"),
        ("__myl_ConvAddRelu_0x53", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_kernel_s_name_tells_what_it_multiplies(kernel: str, precision: str) -> None:
    """Where tensors say nothing (dynamic shapes) it is all there is; where they say other, it is what runs."""
    dark = "N/A due to dynamic shapes"
    for side in (dark, "BFloat16"):
        (found,) = layers(record("CaskConvolution", side, side, TacticName=kernel, **CONVOLUTION))
        assert found.precision == ("other" if side != dark and precision == "unknown" else precision)


def test_lost_precision_is_seen_behind_int8_tensors() -> None:
    """A kernel that takes INT8 in and multiplies in FP16 is no INT8 layer."""
    (found,) = layers(record("conv", INT8, INT8, ("/conv/Conv",), TacticName=f"{XMMA}f16f16_f16f32_f32"))
    assert found.precision == "fp16"


def test_a_convolution_with_its_pooling_counts_what_it_does_before_it_pools() -> None:
    """ResNet's stem as one ConvActPool: its output is the pooled one, and its fields start with Conv."""
    stem = record(
        "ConvActPool",
        INT8,
        INT8,
        taken_shape=[32, 3, 224, 224],
        given_shape=[32, 64, 56, 56],
        ParameterType="ConvActPool",
        ConvKernel=[7, 7],
        ConvPrePadding=[3, 3],
        ConvPostPadding=[3, 3],
        ConvStride=[2, 2],
        ConvDilation=[1, 1],
        ConvOutMaps=64,
        ConvGroups=1,
        PoolingWindowSize=[3, 3],
    )
    (found,) = layers(stem)
    assert (found.role, found.precision, found.macs) == ("compute", "int8", STEM_MACS)


@pytest.mark.parametrize(
    ("kind", "kernel", "role"),
    [
        ("fusion", "sm80_xmma_gemm_i8i8_i8i32_f32_tn", "compute"),
        ("fusion", f"{XMMA}f16f16_f16f32_f32", "compute"),
        ("fusion", "pointwise_vectorized", "other"),
        ("kgen", "__myl_CastMul_myl0_1", "other"),
        ("shape_call", "", "free"),
        ("ShapeCall", "", "free"),
        ("CudaPooling", "", "other"),
        ("convert", "", "other"),
    ],
)
def test_kinds(kind: str, kernel: str, role: str) -> None:
    (found,) = layers(record(kind, TacticName=kernel))
    assert found.role == role


def test_what_is_fused_or_unknown_is_not_counted_by_shapes() -> None:
    """A `conv` without its parameters, a fused gemm, a gemm over pixels: a guess would be a wrong share."""
    wide: Any = {"taken_shape": [2, 16, 8, 8], "given_shape": [2, 32, 8, 8]}
    flat: Any = {"taken_shape": [2, 16], "given_shape": [2, 10]}
    gemm = "sm80_xmma_gemm_f16f16_f16f32_f32"
    found = layers(
        record("conv", **wide),
        record("gemm", **wide),
        record("fusion", TacticName=gemm, **flat),
        record("gemm", **flat),
    )
    assert [x.macs for x in found] == [None, None, None, 160]


def test_a_transposed_convolution_counts_the_points_it_takes() -> None:
    shapes: Any = {"taken_shape": [2, 16, 8, 8], "given_shape": [2, 16, 16, 16]}
    (found,) = layers(record("CaskDeconvolution", **shapes, **(CONVOLUTION | {"ParameterType": "Deconvolution"})))
    assert found.macs == 16 * 16 * 9 * 8 * 8


COPY = "Reformatting CopyNode for Input Tensor 0 to Conv_5 + Add_6 + Relu_7"


@pytest.mark.parametrize(
    ("kind", "taken", "given", "more", "role"),
    [
        ("NoOp", HALF, HALF, {"Name": COPY}, "free"),
        ("Reformat", FLOAT, HALF, {"Name": COPY, "Origin": "REFORMAT"}, "reformat"),
        ("Reformat", INT8, INT8, {"Name": COPY, "Origin": "REFORMAT"}, "reformat"),
        ("Reformat", FLOAT, "Row major Int8 format", {"Name": "QuantizeLinear_2", "Origin": "QDQ"}, "quantize"),
        ("Reformat", FLOAT, INT8, {"Name": "input_QuantizeLinear"}, "quantize"),
        ("Reformat", INT8, HALF, {}, "quantize"),
        ("Reformat", FLOAT, HALF, {}, "reformat"),
        ("Reformat", "N/A due to dynamic shapes", INT8, {}, "reformat"),
    ],
)
def test_q_dq_stands_apart_from_layout_and_both_from_nothing(
    kind: str, taken: str, given: str, more: dict[str, Any], role: str
) -> None:
    (found,) = layers(record(kind, taken, given, ("/conv/Conv",), **more), macs={"/conv/Conv": 9})
    assert (found.role, found.macs) == (role, None)


def test_shares_count_them_apart() -> None:
    found = layers(
        record("Reformat", FLOAT, INT8, Name="q", Origin="QDQ"),
        record("Reformat", INT8, INT8, Name="copy", Origin="REFORMAT"),
        record("NoOp", HALF, HALF, Name=COPY),
        record("CaskConvolution", INT8, INT8, Name="conv", TacticName=f"{XMMA}i8i8_i8i32_f32_n", **CONVOLUTION),
    )
    shares = shares_of(found, {"q": 1.0, "copy": 2.0, "conv": 5.0})
    assert (shares.quantize_layers, shares.quantize_time_pct) == (1, 12.5)
    assert (shares.reformat_layers, shares.reformat_time_pct) == (1, 25.0)
    assert shares.int8_time_pct == 62.5
    facts = share_facts(found)
    assert (facts["quantize_layers"], facts["reformat_layers"], facts["int8_share_pct"]) == (1, 1, 100.0)
