"""What must not be freed once a device has failed: PyTorch's destructors would then end the process."""

import ctypes
from typing import Any, TypeVar
from weakref import WeakValueDictionary

Resource = TypeVar("Resource")

_resources: "WeakValueDictionary[int, Any]" = WeakValueDictionary()  # by id, because tensors have no usable ==


def of_device(resource: Resource) -> Resource:
    """Register memory whose destructor needs a working device, such as a pool or page-locked memory, and return it."""
    _resources[id(resource)] = resource
    return resource


def keep_memory() -> None:
    """Never free what is registered; call it when a device has failed."""
    for resource in _resources.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(resource))
