"""What one number that came out of the model owes to what entered it: vectors of tokens, or pixels.

A trace knows the edges; for this the model runs again, with something else in place of what it was given.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .attribution import Asked, Attribution, Cost, Run, asked, method
from .capture import evaluating
from .inputs import unwrapped
from .tokens import Tokens


class _Fed:
    """What enters the model in place of the tokens of a part, and the target as a function of it.

    Attributes:
        x: the vectors of the tokens [1, token, D], or the image [1, channel, height, width].
    """

    def __init__(self, of: Asked) -> None:
        of.refuse_windows(of.part)
        self.of, self.run = of, of.traced
        self.keys: Tokens = of.part.keys
        self.pixels = self.keys.grid is not None and not self.keys.image
        self.table, self.at = None if self.pixels else self._table(), 0
        self.x = self._image() if self.pixels else self._vectors()

    def _table(self) -> nn.Module:
        model: Any = unwrapped(self.run.model)
        with contextlib.suppress(AttributeError, NotImplementedError, TypeError):
            table = model.get_input_embeddings()
            if isinstance(table, nn.Module) and isinstance(getattr(table, "weight", None), Tensor):
                return table
        raise ValueError(
            f"{self.of.method.name} needs to know what turns the tokens into vectors, and {type(model).__name__} does "
            "not say so: it has no get_input_embeddings()."
        )

    def _image(self) -> Tensor:
        given = self.run.given
        found = [one for one in (*given.kwargs.values(), *given.args) if _is_image(one)]
        if len(found) != 1 or len(found[0]) != 1:
            raise ValueError(f"{self.of.method.name} explains the pixels of one image; here are {len(found)}.")
        image: Tensor = found[0]
        return image.detach().clone()

    def _vectors(self) -> Tensor:
        """Those of the run, of the text along the keys: an encoder reads first, a decoder last."""
        seen: list[Tensor] = []

        def note(x: Tensor) -> None:
            seen.append(x.detach().clone())

        with torch.no_grad():
            self._run(note)
        decodes = "cross" in self.of.attention.parts and self.of.part.name.split()[0] == "decoder"
        self.at = len(seen) - 1 if decodes else 0
        if not seen or seen[self.at].shape[:-1] != (1, len(self.keys)):
            raise ValueError(
                f"{self.of.method.name} explains tokens that enter the model one by one; those along the keys of "
                f"{self.of.part.name} do not."
            )
        return seen[self.at]

    def value(self, x: Tensor) -> Tensor:
        """The target, a scalar, with ``x`` in place of what the model was given."""
        if self.pixels:
            given = self.run.given
            args, kwargs = [x if _is_image(one) else one for one in given.args], dict(given.kwargs)
            kwargs = {name: x if _is_image(one) else one for name, one in kwargs.items()}
            return self.run.objective.scalar(self.run.model(*args, **kwargs))
        calls = iter(range(1 << 30))
        return self.run.objective.scalar(self._run(lambda was: x.to(was) if next(calls) == self.at else None))

    def _run(self, fed: Callable[[Tensor], Tensor | None]) -> Any:
        """The model's output, with what ``fed`` makes of each text's vectors in their place."""
        assert self.table is not None
        model = unwrapped(self.run.model)
        # Encoder and decoder may have modules of their own for one weight, and the output shares it, which reads none.
        tables = [
            one for one in model.modules()
            if getattr(one, "weight", None) is self.table.weight and not isinstance(one, nn.Linear)
        ]  # fmt: skip
        with contextlib.ExitStack() as stack:
            for one in tables:
                hook = one.register_forward_hook(lambda module, args, out: fed(out))
                stack.callback(hook.remove)
            return self.run.model(*self.run.given.args, **self.run.given.kwargs)

    def base(self, baseline: Any) -> Tensor:
        """What stands for nothing, as large as x."""
        if baseline is None or (self.pixels and isinstance(baseline, (int, float))):
            return torch.full_like(self.x, baseline or 0.0)
        if isinstance(baseline, Tensor):
            if baseline.shape != self.x.shape:
                raise ValueError(
                    f"baseline is {tuple(baseline.shape)}; what enters the model is {tuple(self.x.shape)}."
                )
            return baseline.to(self.x)
        if isinstance(baseline, bool) or not isinstance(baseline, int) or self.table is None:
            raise TypeError(f"baseline is {baseline!r}; it is the number of a token, a tensor like the input, or None.")
        size = len(self.table.weight)  # type: ignore[arg-type]  # checked where it was found
        if not 0 <= baseline < size:
            raise ValueError(f"There is no token id {baseline}: the model has {size}.")
        with torch.no_grad():
            vector: Tensor = self.table(torch.tensor([[baseline]], device=self.x.device))
        return vector.expand_as(self.x).clone()

    def result(self, found: Tensor, **more: Any) -> Attribution:
        """Contributions as large as x, added up over each token."""
        found = found.detach().double().cpu()
        if self.pixels:
            grid, first = self.keys.grid, self.keys.first_patch
            assert grid is not None and first is not None
            image = found.sum((0, 1))
            high, wide = image.shape[0] // grid[0], image.shape[1] // grid[1]
            image = image[: high * grid[0], : wide * grid[1]]
            values = torch.zeros(1, len(self.keys), dtype=torch.float64)
            patches = image.reshape(grid[0], high, grid[1], wide).sum((1, 3)).flatten()
            values[0, first : first + len(patches)] = patches
        else:
            values = found.sum(2)
        target = self.run.objective.words
        made = self.of.result(values, query=0, target=target, **more)
        return replace(made, queries=Tokens.named([target]))  # of no one token


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point() and value.shape[1] in (1, 3)


def _of_runs(of: Asked, steps: int) -> Cost:
    n, m = len(of.part.queries), len(of.part.keys)
    size = sum(one.numel() for one in of.traced.model.parameters())
    held = sum(layer.heads * (n * m + 40.0 * n * 64) for _, layer in of.layers)  # for the way back
    words = f"{steps} × the model forwards and backwards"
    return Cost.of(6.0 * size * m * steps, 4.0 * held, words, "Take fewer steps (steps=), or shorten the text.")


def _of_inputs(of: Asked, **_: Any) -> Cost:
    return _of_runs(of, 1)


def _of_steps(of: Asked, steps: int | None = None, **_: Any) -> Cost:
    return _of_runs(of, steps or _STEPS[0])


_STEPS = (50, 100, 200, 400, 800)


@contextlib.contextmanager
def _again(of: Asked) -> Iterator[None]:
    """Around runs of the model that are to be differentiated."""
    with torch.inference_mode(False), evaluating(of.traced.model), torch.enable_grad():
        yield


@method(
    "gradient-input",
    words="the token's vector times the slope along it: what it adds to the target, to first order, signed",
    source="gradient × input, Shrikumar et al. 2016",
    cost=_of_inputs,
    needs="model",
    signed=True,
)
def gradient_input(run: Run, *, part: str | None = None, progress: bool = True) -> Attribution:
    """What each token of the input adds to the target, to first order: x · ∂y/∂x of its vector, [1, key].

    Of a text, x are the vectors that its tokens enter the model as; of an image, its pixels, added up over each patch.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`; the keys of the part are the tokens.

    Raises:
        ValueError: the tokens of the part are no input of the model; and as
            :func:`~attnwidget.attribution.attribute`.
    """
    of = asked(run, "gradient-input", part)
    with _again(of):
        fed = _Fed(of)
        x = fed.x.requires_grad_()
        [slope] = torch.autograd.grad(fed.value(x), [x])
    return fed.result(x.double() * slope.double())


@method(
    "integrated-gradients",
    words="what the token adds to the target on the way from the baseline to the input, signed",
    source="Sundararajan et al. 2017, equation 1; computed by captum",
    cost=_of_steps,
    needs="model",
    signed=True,
)
def integrated_gradients(
    run: Run, *, part: str | None = None, steps: int | None = None, baseline: Any = None, progress: bool = True
) -> Attribution:
    """What each token of the input adds to the target: slopes integrated from a baseline to the input, [1, key].

    ``values`` add up to the target with what ``rest`` holds: the target at the baseline, and the error of the
    integral. Needs captum: pip install 'attnwidget[captum]'.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`; the keys of the part are the tokens.
        steps: at how many places the slopes are computed, each a run of the model forwards and backwards; unless given
            50, and twice as many again, up to 800, as long as the integral is more than a hundredth off.
        baseline: where the way begins: the number of a token, whose vector stands in every place; a tensor like the
            input; zeros unless given, beside which models that normalise what enters them first change abruptly. Of an
            image a number for every pixel.

    Raises:
        ImportError: captum is not installed.
        TypeError: a baseline of no such kind.
        ValueError: steps below 1; a baseline of another shape; no such token; the tokens of the part are no input of
            the model; and as :func:`~attnwidget.attribution.attribute`.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps is {steps!r}; it is a number of runs, at least 1.")
    of = asked(run, "integrated-gradients", part, steps=steps)
    try:
        from captum.attr import IntegratedGradients
    except ImportError as problem:
        raise ImportError(
            "integrated-gradients is computed by captum, which is not installed: pip install 'attnwidget[captum]'."
        ) from problem
    with (
        _again(of),
        tqdm(desc="integrated-gradients", unit="run", delay=1.0, leave=False, disable=not progress) as bar,
    ):
        fed = _Fed(of)
        base = fed.base(baseline)

        def forward(x: Tensor) -> Tensor:
            bar.update()
            return fed.value(x).reshape(1)

        with torch.no_grad():
            start, end = float(fed.value(base)), float(fed.value(fed.x))
        for taken in _STEPS if steps is None else (steps,):
            # One at a time: masks, positions and whatever else the model is given are of one text.
            found = IntegratedGradients(forward).attribute(fed.x, base, n_steps=taken, internal_batch_size=1)
            error = end - start - float(found.double().sum())
            if abs(error) <= 0.01 * abs(end - start):
                break
    if abs(error) > 0.05 * max(abs(end - start), 1e-6):
        warnings.warn(
            f"The integral misses the target by {error:.3g} of {end - start:.3g} in {taken} steps: take more, steps=, "
            "or another baseline; a model that normalises what enters it changes abruptly beside zeros.",
            stacklevel=3,
        )
    return fed.result(found, rest={"the baseline": start, "error of the integral": error})
