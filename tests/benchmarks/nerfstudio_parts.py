"""nerfstudio's field components without its other dependencies, which contradict ours.

pip install --no-deps nerfstudio==1.1.5
"""

import importlib
import sys
from types import ModuleType
from unittest.mock import MagicMock

UNUSED = ("viser", "viser.transforms", "rich", "rich.console", "rich.progress", "rich.text")
"""What nerfstudio imports on its way and does not use here."""


def field_component(name: str) -> ModuleType:
    """`nerfstudio.field_components.NAME`; what is unused stands in `sys.modules` as a stub while it is imported."""
    stubs = {unused: MagicMock() for unused in UNUSED if unused not in sys.modules}
    sys.modules.update(stubs)
    try:
        return importlib.import_module(f"nerfstudio.field_components.{name}")
    finally:
        for stub in stubs:
            del sys.modules[stub]
