"""TensorRT: a plan's network as a strongly typed ONNX file, its engine, and where a plan keeps it.

`network` writes the ONNX file, from `lowering`, what each op of the engine is there; `builder` has
TensorRT make an engine of it; `target` puts that into a plan.
"""
