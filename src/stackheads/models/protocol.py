"""What labelling needs of a model, as a type: a `HookedTransformer` and a `TransformerBridge` both are one; and a `Forward`.

Only for type checkers. While the program runs, what is no model is refused in words (`kinds.py`), not by its type, so that the
error names what was given and the cure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:

    class Model(Protocol):
        """A transformer whose heads can be seen and edited through hooks.

        `cfg` has n_layers, n_heads, d_model, d_head, n_ctx and so on; `hook_dict` the points at which hooks can be added by
        name; `hooks` adds some inside a context. Called on tokens [batch, pos] it gives logits [batch, pos, d_vocab_out].
        """

        training: bool

        @property
        def cfg(self) -> Any: ...
        @property
        def hook_dict(self) -> Mapping[str, Any]: ...
        @property
        def blocks(self) -> Any: ...
        def __call__(self, tokens: Any, *, attention_mask: Any = ...) -> Any: ...
        def hooks(self, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]]) -> AbstractContextManager[Any]: ...
        def parameters(self) -> Iterator[nn.Parameter]: ...
        def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
        def modules(self) -> Iterator[nn.Module]: ...
        def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
        def state_dict(self) -> dict[str, Any]: ...
        def to(self, device: Any, print_details: bool = ...) -> Any: ...
        def eval(self) -> Any: ...

    class Forward(Protocol):
        """The parts of a model's forward pass over its own parameters, without hooks: `FusedForward`, `RotaryForward`.

        Heads stand before positions in queries, keys and values, [batch, head, pos, d_head]; attention scores are multiplied by
        `scale`. `foldable`: nothing but linear maps stands between the normed stream and queries and keys. With `like`, a norm
        divides by what it would divide that stream by.
        """

        causal: bool
        foldable: bool
        scale: float

        def norm(self, norm: Any, x: Any, like: Any = ...) -> Any: ...
        def qkv(self, attn: Any, x: Any, positions: Any) -> tuple[Any, Any, Any]: ...
        def values(self, attn: Any, x: Any) -> Any: ...
        def project(self, attn: Any, z: Any) -> Any: ...
        def mlp(self, block: Any, residual: Any, like: Any = ...) -> Any: ...
        def unembed(self, residual: Any, like: Any = ...) -> Any: ...

    class Wired(Model, Protocol):
        """A model whose weights have TransformerLens' names (`native.py`): what the compiler writes circuits into."""

        def run_with_hooks(self, tokens: Any, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Any: ...

else:
    Forward = Model = Wired = Any
