"""Tiny ONNX models in the form of an insightface pack's, which the tests know the answers of."""

from __future__ import annotations

import numpy as np

SIDE = 64
# Where ArcFace's alignment wants its five points, in strides from the cell's corner: the aligned face is then the box.
_ALIGNED = [38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041]
KEYPOINTS = np.float32(_ALIGNED) / 112 * 3 - 1


def model(onnx, nodes, constants, shape, outputs):
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("input.1", kind, shape)],
        [onnx.helper.make_tensor_value_info(name, kind, size) for name, size in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=7)


def scrfd(onnx):
    node = onnx.helper.make_node
    cells = {stride: (SIDE // stride) ** 2 * 2 for stride in (8, 16, 32)}
    constants = {
        "mean": np.full((1, 3, 1, 1), 1 / 3, np.float32),
        "steep": np.float32(40),
        "level": np.float32(-30),
        "column": np.array([-1, 1]),
        "row": np.array([1, 2]),
        "flat": np.array([-1, 1]),
        "zero": np.float32(0),
    }
    nodes = [
        node("Conv", ["input.1", "mean"], ["grey"]),
        node("AveragePool", ["grey"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Mul", ["pooled", "steep"], ["scaled"]),
        node("Add", ["scaled", "level"], ["logits"]),
        node("Sigmoid", ["logits"], ["map"]),
        node("Reshape", ["map", "column"], ["one_anchor"]),
        node("Tile", ["one_anchor", "row"], ["two_anchors"]),
        node("Reshape", ["two_anchors", "flat"], ["score8"]),
    ]
    for stride, count in cells.items():
        if stride > 8:
            constants[f"score{stride}"] = np.zeros((count, 1), np.float32)
        # Distances in strides from the cell's corner: 1 to the left and up, 2 to the right and down.
        constants[f"box{stride}"] = np.tile(np.float32([1, 1, 2, 2]), (count, 1))
        constants[f"kps{stride}"] = np.tile(KEYPOINTS, (count, 1))
    names = [(f"{kind}{s}", width) for kind, width in (("score", 1), ("box", 4), ("kps", 10)) for s in (8, 16, 32)]
    outputs = []
    for name, width in names:
        nodes.append(node("Add", [name, "zero"], [f"{name}_out"]))
        outputs.append((f"{name}_out", [cells[int(name.lstrip("scorebxkp"))], width]))
    return model(onnx, nodes, constants, [1, 3, SIDE, SIDE], outputs)


def arcface(onnx):
    node = onnx.helper.make_node
    nodes = [node("GlobalAveragePool", ["input.1"], ["pooled"]), node("Flatten", ["pooled"], ["embedding"])]
    return model(onnx, nodes, {}, [1, 3, 112, 112], [("embedding", [1, 3])])


def lit(*cells: tuple[int, int]) -> np.ndarray:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    for row, column in cells:
        picture[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255
    return picture
