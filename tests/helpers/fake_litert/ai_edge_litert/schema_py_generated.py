"""A stand-in for LiteRT's module that reads and writes .tflite files.

Its models have a graph without operators and outputs, so the code under test finds nothing to
prune. The content of a file passes through unchanged. Names are those of LiteRT.
"""

from types import SimpleNamespace


class Model:
    @staticmethod
    def GetRootAs(content: bytes, offset: int) -> bytes:
        return content


class ModelT:
    def __init__(self, content: bytes):
        self.subgraphs = [SimpleNamespace(operators=[], outputs=[], tensors=[])]
        self._content = content

    @staticmethod
    def InitFromObj(content: bytes) -> "ModelT":
        return ModelT(content)

    def Pack(self, builder):
        return builder.CreateString(self._content)
