"""What travels with a model: families, edits and the classes of an edited model.

The names of `__init__.pyi` are imported when they are first used, so that the families are listed
without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
