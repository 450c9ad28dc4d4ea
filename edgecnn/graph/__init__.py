"""ONNX in, ONNX out, in the order of the flow.

load onnx_graph simplify decision     read and looked over; the one index; constants folded; how the output is read
importing/                            a graph from elsewhere made to fit
lint                                  what a target will refuse
ensemble                              several graphs as one that averages their probabilities
fp16                                  the FP16 graph
calibration/                          one pass over images: histograms, thresholds, the file of ranges
qdq/                                  where Q/DQ pairs stand (tensorrt, ort_cpu), their scales, insert, verify
ptq/                                  INT8 without training: candidates, equalization, layer_reconstruction, gptq
"""
