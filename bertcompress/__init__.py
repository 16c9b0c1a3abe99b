"""bertcompress: makes BERT-family encoders smaller and faster.

The names of `__init__.pyi` are imported when they are first used, so that `bertcompress --help`
needs no torch.
"""

import lazy_loader

from bertcompress._version import __version__

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
