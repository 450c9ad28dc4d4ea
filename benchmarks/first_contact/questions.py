"""Every question, in the order of asking: what is worth most comes first."""

from __future__ import annotations

from benchmarks.first_contact import graphs, machine, ort, rtx, trt
from benchmarks.first_contact.answer import PRECISIONS, Question

TRT, RTX, ALL = ("gpu", "tensorrt", "small_graphs"), ("gpu", "tensorrt_rtx", "small_graphs"), ("gpu", "small_graphs")
BUILT = ("trt_build",)

QUESTIONS = (
    Question("machine", "driver, processor, board, packages", machine.machine, limit_s=30),
    Question("gpu", "the GPU, as CUDA tells", machine.gpu, limit_s=40, figures=("properties.cuda",)),
    Question("kernel", "whether it runs a kernel", machine.kernel, ("gpu",), 30, ("ran",)),
    Question("clocks", "what NVML or a Jetson's files tell of clocks", machine.clocks, ("gpu",), 30, ("nvml",)),
    Question(
        "cuda_graphs", "whether copies are recorded, also after a failed capture", machine.cuda_graphs, ("gpu",), 30,
        ("replayed", "replayed_after_it"),
    ),
    Question(
        "tensorrt", "TensorRT, and the builder's library for this GPU", machine.tensorrt, ("gpu",), 60,
        ("version", "builder_resource"),
    ),
    Question("tensorrt_rtx", "TensorRT-RTX", machine.tensorrt_rtx, ("gpu",), 60, ("version",)),
    Question("small_graphs", "graphs of the small network", graphs.small_graphs, ("gpu",), 120),
    Question(
        "trt_build", "which precision each graph gets, and whether there is a kernel for each layer", trt.trt_build,
        TRT, 150, tuple(f"{p}.{f}" for p in PRECISIONS for f in ("precision_obtained", "build_s")),
    ),
    Question("trt_logits", "the plans' logits against the graphs'", trt.trt_logits, BUILT, 40, tuple(PRECISIONS)),
    Question(
        "graph_capture", "whether engines are replayed as CUDA graphs", trt.graph_capture, BUILT, 40,
        ("fp16_batch1.graph", "int8_batch8.graph"),
    ),
    Question(
        "trt_bench", "pipelined against single-shot, two streams, no copies", trt.trt_bench, BUILT, 60,
        ("int8.0.latency_ms_p50", "int8.1.latency_ms_p50", "int8.1.throughput_images_per_s"),
    ),
    Question(
        "contexts", "memory of contexts in one block, and whether it comes back", trt.contexts, BUILT, 60,
        ("fp16_streams1_mb", "fp16_streams2_mb", f"fp16_kept_after_{trt.OPENS}_opens_mb"),
    ),
    Question("inspector", "the inspector's JSON: its keys, kinds and types", trt.inspector, BUILT, 40, ("int8.read",)),
    Question(
        "rtx_build", "TensorRT-RTX: which precisions build", rtx.rtx_build, RTX, 100,
        tuple(f"{p}.build_s" for p in PRECISIONS),
    ),
    Question(
        "rtx_run", "TensorRT-RTX: compile time, its CUDA graphs, latency, logits", rtx.rtx_run, ("rtx_build",), 90,
        ("fp16_pipelined.0.jit_ms", "fp16_pipelined.0.graph", "fp16_pipelined.0.latency_ms_p50", "fp16_cosine"),
    ),
    Question(
        "rtx_cache", "TensorRT-RTX: what its runtime cache spares the second start", rtx.rtx_cache, ("rtx_run",), 60,
        ("fp16_jit_ms.first_start", "fp16_jit_ms.second"),
    ),
    *(
        Question(
            function.__name__, f"ONNX Runtime, {name}: nodes left to the CPU, events on our stream", function, ALL, 120,
            ("fp16.cpu_nodes", "fp16.graph_nodes", "fp16_bench.0.latency_ms_p50", "fp16_events_over_host.0"),
        )
        for name, function in (("CUDA", ort.ort_cuda), ("TensorRT", ort.ort_tensorrt), ("TensorRT-RTX", ort.ort_rtx))
    ),
    Question("large_graphs", "graphs of the large network", graphs.large_graphs, ("gpu",), 150),
    Question(
        "int8_speed", "INT8 against FP16", trt.int8_speed, ("gpu", "tensorrt", "large_graphs"), 150,
        ("batch1.latency_ratio", "batch8.latency_ratio"),
    ),
    Question(
        "weakly_typed", "what TensorRT 10 makes of weakly typed, against explicit INT8", trt.weakly_typed, TRT, 120
    ),
    Question(
        "locked", "whether a locked build comes to the locked kernels", trt.locked, BUILT, 100,
        ("int8.build_s", "int8_ratio.latency_ratio"),
    ),
    Question(
        "profiles", "whether the inspector marks layers of later profiles with `[profile N]`", trt.profiles, BUILT, 80,
        ("inspector.of_profiles", "bench.1.profile"),
    ),
    Question(
        "rebuilds", "how far builds of one graph lie apart", trt.rebuilds, BUILT, 150,
        ("int8.band_pct", "int8.different_engines"),
    ),
    Question(
        "routes", "build routes: how one is taken and read back, and what it does to kernels and latency", trt.routes,
        BUILT, 100, ("knobs.count", "known.after", "unknown.after", "ratio.latency_ratio"),
    ),
    Question(
        "trtexec", "our latency over trtexec's", trt.trtexec, BUILT, 60,
        ("fp16.ratio.latency_ms_p50", "int8.ratio.latency_ms_p50"),
    ),
    Question("run", "a recipe to its verdict, two builds of each engine", trt.run, BUILT, 150, ("run.exit_code",)),
    Question("qualify", "the same under another environment", trt.qualify, ("run",), 100, ("qualify.exit_code",)),
    Question(
        "rtx_speed", "TensorRT-RTX: FP16 against FP32", rtx.rtx_speed, ("gpu", "tensorrt_rtx", "large_graphs"), 100,
        ("batch1.latency_ratio", "batch8.latency_ratio"),
    ),
)  # fmt: skip
