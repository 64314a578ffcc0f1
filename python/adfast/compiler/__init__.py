"""The compiler: ONNX to a small typed graph, passes over it, and the plan file.

Uses numpy, and onnx where a model is read; never torch.
"""

from adfast.compiler.compile import Compiled, compile_onnx, load_onnx
from adfast.compiler.graph import Graph, Node, Value
from adfast.compiler.passes import run_passes

__all__ = ["Compiled", "Graph", "Node", "Value", "compile_onnx", "load_onnx", "run_passes"]
