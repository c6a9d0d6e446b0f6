"""Lets kernels of a CUDA graph start before the previous kernel has ended completely.

Between two kernels in series the GPU is idle: the second starts when all memory of the first is written back. With a
programmatic edge (CUDA C++ Programming Guide, Programmatic Dependent Launch) it starts when the last block of the first
has ended, and its instruction griddepcontrol.wait waits for the rest. Each block of our kernels, whose names begin with
PREFIX, executes this instruction before it reads or writes memory that other kernels use. So do the kernels that
Inductor generates for our engines (`waiting_kernels.py`); those of other users of Inductor do not.

After its wait, all work before such a kernel has ended, not only the previous kernel. Let a programmatic edge lead from
kernel A to kernel B. When the wait in B returns, A has ended, and so have the nodes that A depends on: those with an
ordinary edge to A ended before A started, and one with a programmatic edge to A ended before the wait in A returned,
which A's own end comes after. The same holds for their predecessors, by induction. So B may read whatever earlier nodes
have written, and write whatever they have read or written. A node after B either has an ordinary edge from B, and so
starts when B has ended, or is a kernel that waits. Edges to copies, fills and events, and to kernels with several
predecessors, for example where streams join, stay ordinary. If A signals that B may start early, B only waits longer.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runtime.cuda import call, cudart

PREFIX = "canny2image_"  # tests/test_early_launch.py verifies that kernels with such names wait
OLDEST = (9, 0)  # the first compute capability with programmatic edges


def launch_early(graph: Any, waiting: Sequence[str] = ()) -> int:
    """Make edges of a captured graph programmatic where the later kernel waits, and return their number.

    waiting: the beginnings of names of further kernels that wait.
    They are the edges between two kernels of which the later one depends on no other node. If the earlier one has a
    programmatic edge from another library and is not known to wait, it may end before the work before it, and its edges
    stay. Call this before instantiation, for a GPU of compute capability OLDEST or newer. Raises CudaError.
    """
    runtime = cudart()
    *_, count = call(runtime.cudaGraphGetEdges, graph)
    edges = list(zip(*call(runtime.cudaGraphGetEdges, graph, count)[:3], strict=True))
    names = _kernels(runtime, graph)
    known = {node for node, name in names.items() if name.startswith((PREFIX, *waiting))}
    unknown = {int(later) for _, later, data in edges if data.type} - known
    before, sole = names.keys() - unknown, Counter(int(later) for _, later, _ in edges)
    found = [
        (earlier, later, data)
        for earlier, later, data in edges
        if int(later) in known and sole[int(later)] == 1 and not data.type and int(earlier) in before
    ]
    if found:
        earlier, later, ordinary = map(list, zip(*found, strict=True))
        call(runtime.cudaGraphRemoveDependencies, graph, earlier, later, ordinary, len(found))
        early = [_programmatic(runtime)] * len(found)
        call(runtime.cudaGraphAddDependencies, graph, earlier, later, early, len(found))
    return len(found)


def _programmatic(runtime: Any) -> Any:
    edge = runtime.cudaGraphEdgeData()
    edge.type = runtime.cudaGraphDependencyType.cudaGraphDependencyTypeProgrammatic.value
    edge.from_port = runtime.cudaGraphKernelNodePortProgrammatic
    return edge


def _kernels(runtime: Any, graph: Any) -> dict[int, str]:
    """Return the kernels' names by their nodes."""
    _, count = call(runtime.cudaGraphGetNodes, graph)
    nodes, _ = call(runtime.cudaGraphGetNodes, graph, count)
    kernel = runtime.cudaGraphNodeType.cudaGraphNodeTypeKernel
    return {int(node): _name(node) for node in nodes if call(runtime.cudaGraphNodeGetType, node) == kernel}


def _name(node: Any) -> str:
    # Not cudaGraphKernelNodeGetParams, which fails for kernels that the driver loaded.
    from cuda.bindings import driver

    kernel = call(driver.cuGraphKernelNodeGetParams, node)
    name = call(driver.cuFuncGetName, kernel.func) if int(kernel.func) else call(driver.cuKernelGetName, kernel.kern)
    return str(name.decode())
