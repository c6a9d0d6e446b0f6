"""Which edges of a graph become programmatic, on a stand-in for CUDA, and that our kernels wait."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.convolution.compile import ConvolutionKernel
from plugins.product.compile import ProductKernel
from plugins.short_attention.compile import ShortAttention
from plugins.waiting import waits_first
from plugins.zero_convolutions.compile import ZeroConvolutions
from runtime import early_launch
from runtime.early_launch import PREFIX, launch_early

PLUGINS = Path(__file__).resolve().parent.parent / "plugins"


class Runtime:
    """Stands in for cuda.bindings.runtime: a graph is a dictionary of edges, and its nodes are numbers."""

    cudaGraphKernelNodePortProgrammatic = 1
    cudaGraphDependencyType = SimpleNamespace(cudaGraphDependencyTypeProgrammatic=SimpleNamespace(value=1))
    cudaGraphNodeType = SimpleNamespace(cudaGraphNodeTypeKernel="kernel")
    Edges = dict[tuple[int, int], SimpleNamespace]

    def __init__(self, kernels: dict[int, str]) -> None:
        self.kernels = kernels

    def cudaGraphEdgeData(self) -> SimpleNamespace:
        return SimpleNamespace(type=0, from_port=0)

    def cudaGraphGetEdges(self, graph: Edges, count: int = 0) -> tuple[Any, ...]:
        assert count in (0, len(graph))
        edges = [*graph.items()][:count]
        return 0, [a for (a, _), _ in edges], [b for (_, b), _ in edges], [data for _, data in edges], len(graph)

    def cudaGraphGetNodes(self, graph: Edges, count: int = 0) -> tuple[int, list[int], int]:
        nodes = sorted({node for edge in graph for node in edge})
        return 0, nodes[:count], len(nodes)

    def cudaGraphNodeGetType(self, node: int) -> tuple[int, str]:
        return 0, "kernel" if node in self.kernels else "memset"

    def cudaGraphRemoveDependencies(
        self, graph: Edges, before: list[int], after: list[int], kinds: list[SimpleNamespace], count: int
    ) -> tuple[int]:
        assert all(graph.pop(edge) is kind for edge, kind in zip(zip(before, after, strict=True), kinds, strict=True))
        assert count == len(before)
        return (0,)

    def cudaGraphAddDependencies(
        self, graph: Edges, before: list[int], after: list[int], kinds: list[SimpleNamespace], count: int
    ) -> tuple[int]:
        graph |= zip(zip(before, after, strict=True), kinds, strict=True)
        assert count == len(before)
        return (0,)


OURS, OTHERS = PREFIX + "product", "nvjet"


@pytest.mark.parametrize(
    ("kernels", "edges", "programmatic"),
    [
        ({1: OURS, 2: OURS, 3: OURS}, [(1, 2), (2, 3)], [(1, 2), (2, 3)]),  # a chain of our kernels
        ({1: OTHERS, 2: OURS, 3: OTHERS, 4: OTHERS}, [(1, 2), (2, 3), (3, 4)], [(1, 2)]),  # others do not wait
        ({1: OURS, 2: "my_" + OURS}, [(1, 2)], []),
        ({2: OURS, 3: OURS}, [(1, 2), (2, 3)], [(2, 3)]),  # after a memset
        ({1: OURS, 3: OURS}, [(1, 2), (2, 3)], []),  # a memset between
        ({1: OURS, 2: OURS, 3: OURS}, [(1, 3), (2, 3)], []),  # two streams join
        ({1: OURS, 2: OURS, 3: OURS}, [(1, 2), (2, 3), (1, 3)], [(1, 2)]),  # also an event of an earlier kernel
        ({1: OURS, 2: OURS, 3: OURS}, [(1, 2), (1, 3)], [(1, 2), (1, 3)]),  # a stream forks
        ({1: OURS, 2: OURS}, [(1, 2), (1, 3)], [(1, 2)]),
        ({1: OURS}, [], []),
    ],
)
def test_edges(
    kernels: dict[int, str],
    edges: list[tuple[int, int]],
    programmatic: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, count = launched(dict.fromkeys(edges, 0), kernels, monkeypatch)
    assert [edge for edge, data in graph.items() if data.type] == programmatic
    assert all(data.from_port == data.type for data in graph.values())
    assert ({*graph}, count) == ({*edges}, len(programmatic))


def test_kernels_that_the_caller_knows_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {1: OTHERS, 2: "triton_poi_0", 3: "triton_tem_0"}
    graph, count = launched({(1, 2): 0, (2, 3): 0}, kernels, monkeypatch, ("triton_poi_", "triton_red_"))
    assert (count, graph[1, 2].type, graph[2, 3].type) == (1, 1, 0)


@pytest.mark.parametrize(("middle", "converted"), [(OTHERS, 0), (OURS, 1)])
def test_another_library_s_programmatic_edge(middle: str, converted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel behind one may end before the work before it, unless it waits."""
    kernels = {1: OTHERS, 2: middle, 3: OURS}
    graph, count = launched({(1, 2): 1, (2, 3): 0}, kernels, monkeypatch)
    assert (count, graph[2, 3].type, graph[1, 2].type) == (converted, converted, 1)


def launched(
    types: dict[tuple[int, int], int],
    kernels: dict[int, str],
    monkeypatch: pytest.MonkeyPatch,
    waiting: tuple[str, ...] = (),
) -> tuple[Runtime.Edges, int]:
    """Return the graph after the conversion of one with edges of these types, and the number returned."""
    graph = {edge: SimpleNamespace(type=kind, from_port=kind) for edge, kind in types.items()}
    monkeypatch.setattr(early_launch, "cudart", lambda: Runtime(kernels))
    monkeypatch.setattr(early_launch, "_name", kernels.__getitem__)
    return graph, launch_early(graph, waiting)


CUDA_KERNELS = [
    *("group_norm", "group_norm_stats", "group_norm_apply", "long_attention", "update"),
    *("product_of_large_tiles", "product_of_many_rows"),
]


def test_all_kernels_with_the_prefix_are_known_to_wait() -> None:
    """The compilation of those for Hopper looks into their PTX, and tests that compile the CUDA kernels do."""
    of_hopper = ConvolutionKernel, ProductKernel, ShortAttention, ZeroConvolutions
    checked = [*(one.NAME for one in of_hopper), *(f"{PREFIX}{name}" for name in CUDA_KERNELS)]
    sources = [file.read_text() for ending in ("py", "cu") for file in sorted(PLUGINS.rglob(f"*.{ending}"))]
    found = [name for source in sources for name in re.findall(rf"(?m)(?:^|def |void )({PREFIX}\w+)\(", source)]
    assert sorted(found) == sorted(checked)


@pytest.mark.parametrize(
    ("ptx", "waits"),
    [
        ("ld.param.u64 a;\ngriddepcontrol.wait;\nld.global.v4.u32 b;", True),
        ("ld.global.nc.v4.u16 a;\ngriddepcontrol.wait;", False),
        ("st.volatile.global.u32 a;\ngriddepcontrol.wait;", False),
        ("cp.async.cg.shared.global a;\ngriddepcontrol.wait;", False),
        ("ld.shared::cluster.f32 a;\ngriddepcontrol.wait;\n", True),
        ("ld.global.u32 a;", False),
        ("add.u32 a;", False),
    ],
)
def test_the_first_access_in_ptx(ptx: str, waits: bool) -> None:
    assert waits_first(ptx) == waits
