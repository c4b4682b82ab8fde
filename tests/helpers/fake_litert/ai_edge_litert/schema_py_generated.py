"""Models whose graphs have no operators and no outputs, so that nothing can be pruned."""

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
