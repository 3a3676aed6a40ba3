"""One OpenVINO model cut into two, so that each part computes in a precision of its own."""

from __future__ import annotations

from typing import Any


def _rows(output: Any) -> int:
    """Return the rows of an output's feature maps (n, channels, rows, columns); 0 of anything else."""
    shape = output.get_partial_shape()
    known = shape.rank.is_static and shape.rank.get_length() == 4 and shape[2].is_static
    return int(shape[2].get_length()) if known else 0


def cut(model: Any, least_rows: int) -> tuple[Any, Any]:
    """Return the part up to the last feature maps that have so many rows, and what is computed from them.

    The second part's inputs are the first one's outputs, in order. The model itself is used up.

    Raises
    ------
    ValueError
        If it has no feature maps of so many rows.
    """
    import openvino
    from openvino import opset13

    early: set[str] = set()
    border = []
    for node in reversed(model.get_ordered_ops()):
        if node.get_type_name() in ("Constant", "Result"):
            continue
        into = [(output, list(output.get_target_inputs())) for output in node.outputs()]
        users = [user.get_node().get_friendly_name() for _, inputs in into for user in inputs]
        if _rows(node.output(0)) < least_rows and not early.intersection(users):
            continue
        early.add(node.get_friendly_name())
        for output, inputs in into:
            later = [user for user in inputs if user.get_node().get_friendly_name() not in early]
            if later:
                border.append((output, later))
    if not border:
        raise ValueError(f"no feature maps of {least_rows} rows")
    front = openvino.Model([output for output, _ in border], model.get_parameters(), "front")
    inputs = []
    for output, later in border:
        inputs.append(opset13.parameter(output.get_partial_shape(), output.get_element_type()))
        for user in later:
            user.replace_source_output(inputs[-1].output(0))
    return front, openvino.Model(model.get_results(), inputs, "back")
