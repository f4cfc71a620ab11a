"""custom:…, an encoder out of the user's own code, or out of a model file.

    custom:FILE.py:function             a function that returns a torch.nn.Module
    custom:package.module:function      the same, in a module that is installed or in the working directory
    custom:FOLDER/package.module:function   in a module below FOLDER
    custom:FILE.pt, FILE.pt2, FILE.onnx     saved by torch.jit.save or torch.export.save, or in ONNX

The module, or the model, maps normalised images [B, 3, H, W] to h [B, dim]. If the function has a parameter `weights`,
it gets the path that --weights gives; its other parameters are options.
"""

from __future__ import annotations

from rcdm_core import Provider, hookimpl

PREFIX = "custom:"


@hookimpl
def rcdm_resolve(name: str) -> Provider | None:
    """The provider of a user's function or model file. No code of the user's is run before it is loaded.

    Raises RCDMError for a name of another form, and a file that does not exist or is not Python.
    """
    if not name.startswith(PREFIX):
        return None
    from . import _functions, _model_files

    rest = name[len(PREFIX) :]
    return _model_files.resolve(name, rest) if _model_files.is_model_file(rest) else _functions.resolve(name, rest)
