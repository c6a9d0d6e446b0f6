"""Pictures of prompts in webui's syntax, compared with plain prompts, plain torch and the reference."""

from typing import Any

import numpy as np
import pytest
import torch

from canny2image_TRT import hackathon
from cldm.canny import Picture
from cldm.checkpoint import SMALL_MODEL, Checkpoint
from cldm.fast import make_fast
from cldm.model import ControlLDM
from cldm.pipeline import Pipeline, Shape
from cldm.prompt_syntax import PLAIN, PromptSyntax
from cldm.reference import reference_latent, reference_pixels
from cldm.request import Request
from cldm.stages import make_stages, to_uint8
from cldm.tricks.text_once import weighted
from ldm.tokenizer import Tokenizer
from plans.plan import make_plan
from runtime.eager import EagerEngine
from runtime.streams import Streams
from tests.arguments import GOOD, process

CPU = torch.device("cpu")
WEBUI, TWO = PromptSyntax("webui"), PromptSyntax("webui", 2)
LONG = ", ".join(["a (red:1.3) bird on a branch", "blue sky", "[mountains]"] * 6)  # two chunks


@pytest.fixture(scope="module")
def model() -> ControlLDM:
    """The small model with all tricks, in float32."""
    return make_fast(Checkpoint(str(SMALL_MODEL), "small", "given").load_model(), torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Checkpoint(str(SMALL_MODEL), "small", "given").load_tokenizer()


def request(**changes: Any) -> Request:
    return Request(**{**GOOD, "ddim_steps": 4} | changes)


def pipeline(model: ControlLDM, syntax: PromptSyntax, samples: int = 1) -> Pipeline:
    return Pipeline(model, Shape(64, 64, samples, 4, make_plan("all", 4), syntax), EagerEngine, Streams(CPU))


def draw(model: ControlLDM, tokenizer: Tokenizer, syntax: PromptSyntax, **changes: Any) -> Picture:
    return pipeline(model, syntax)([request(**changes)], tokenizer)[0]


@pytest.mark.parametrize("prompt", ["a bird", "", ", ".join(["a bird"] * 23)])
def test_without_brackets_the_picture_is_that_of_plain(model: ControlLDM, tokenizer: Tokenizer, prompt: str) -> None:
    plain, webui = (draw(model, tokenizer, syntax, prompt=prompt) for syntax in (PLAIN, WEBUI))
    assert np.array_equal(plain, webui)


def test_plain_reads_brackets_as_text(model: ControlLDM, tokenizer: Tokenizer) -> None:
    drawing = pipeline(model, PLAIN)
    drawing.write([request(prompt="a (red:1.5) bird")], tokenizer)
    assert torch.equal(drawing.inputs.written["tokens"], tokenizer(["a (red:1.5) bird, best quality", "lowres"]))
    assert "token_weights" not in drawing.buffers


def test_weights_of_one_change_nothing(model: ControlLDM, tokenizer: Tokenizer) -> None:
    without = draw(model, tokenizer, WEBUI, prompt="a red bird")
    assert np.array_equal(draw(model, tokenizer, WEBUI, prompt="a (red:1.0) bird"), without)


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a (red:1.5) bird"}, {"prompt": "a [red] bird"}, {"prompt": "a red bird BREAK"}, {"n_prompt": "(low)"}],
)
def test_weights_and_breaks_change_the_picture(model: ControlLDM, tokenizer: Tokenizer, change: dict[str, str]) -> None:
    before = draw(model, tokenizer, TWO, **{"prompt": "a red bird", "n_prompt": "low"})
    after = draw(model, tokenizer, TWO, **{"prompt": "a red bird", "n_prompt": "low"} | change)
    assert np.abs(before.astype(int) - after).max() > 1


def test_weighted_context() -> None:
    context, weights = torch.randn(3, 77, 8) + 0.5, 1 + torch.rand(3, 77)
    for row, one, factors in zip(weighted(context, weights), context, weights, strict=True):
        expected = one * factors[:, None]
        torch.testing.assert_close(row, expected * (one.mean() / expected.mean()))
        torch.testing.assert_close(row.mean(), one.mean())
    assert torch.equal(weighted(context, torch.ones(3, 77)), context)
    half = weighted(context.half(), weights)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), weighted(context.half().float(), weights), rtol=1e-3, atol=1e-4)


def test_the_context_is_that_of_chunks_encoded_one_by_one(model: ControlLDM, tokenizer: Tokenizer) -> None:
    drawing = pipeline(model, TWO, samples=2)
    drawing.write([request(prompt="a (red:1.5) bird BREAK blue sky", n_prompt="lowres", num_samples=2)], tokenizer)
    drawing.inputs.upload()
    drawing.engines["text"].enqueue(None)
    kv = drawing.buffers["kv"]
    assert kv.shape[:2] == (4, 154)
    assert torch.equal(kv[0], kv[1])
    assert torch.equal(kv[2], kv[3])
    texts = ["a red bird", "blue sky, best quality", "lowres", ""]
    first, *others = (model.text(tokenizer([text])) for text in texts)
    emphasized = first.clone()
    emphasized[:, 2] *= 1.5  # start, a, red
    emphasized *= first.mean() / emphasized.mean()
    for row, parts in ((kv[0], [emphasized, others[0]]), (kv[2], others[1:])):
        layer = model.control.transformers()[0].block.attn2
        k, v = layer.keys_values(torch.cat(parts, dim=1))
        expected = torch.cat([k, v], dim=-1)[0]
        torch.testing.assert_close(row[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("syntax", "changes"),
    [
        (WEBUI, {"prompt": "a (red:1.5) [bird]"}),
        (TWO, {"prompt": LONG, "n_prompt": "(lowres:1.2)"}),
        (TWO, {"prompt": "a (red bird", "num_samples": 2, "guess_mode": True}),
    ],
)
def test_pictures_equal_the_reference(
    model: ControlLDM, tokenizer: Tokenizer, syntax: PromptSyntax, changes: dict[str, Any]
) -> None:
    plain_model, asked = Checkpoint(str(SMALL_MODEL), "small", "given").load_model(), request(**changes)
    expected = reference_latent(plain_model, tokenizer, asked, syntax)
    drawing = pipeline(model, syntax, asked.num_samples)
    pictures = drawing([asked], tokenizer)
    assert (drawing.buffers["x"] - expected).abs().max() < 1e-3
    apart = np.stack(pictures).astype(int) - to_uint8(reference_pixels(plain_model, expected)).numpy()
    assert np.abs(apart).max() <= 1


def test_the_second_chunk_reaches_the_picture(
    model: ControlLDM, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    long, longer = (draw(model, tokenizer, TWO, prompt=f"{LONG}, {word}", a_prompt="") for word in ("bird", "fish"))
    assert np.abs(long.astype(int) - longer).max() > 1
    assert not caplog.messages
    draw(model, tokenizer, WEBUI, prompt=LONG)
    assert caplog.messages[0].startswith("prompt of 2 chunks of up to 75 tokens truncated to 1; dropped: ")


@pytest.mark.parametrize("syntax", [WEBUI, TWO, PromptSyntax("webui", 8)])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_outputs_have_the_shapes_of_the_spec(model: ControlLDM, syntax: PromptSyntax, precision: torch.dtype) -> None:
    with torch.device("meta"):
        shapes = make_fast(ControlLDM(model.architecture), precision)
    for name, stage in make_stages(shapes, 64, 128, 2, syntax).items():
        inputs = [torch.empty(spec.shape, dtype=spec.dtype, device="meta") for spec in stage.spec.inputs]
        outputs = stage.module(*inputs)
        assert [tuple(output.shape) for output in outputs] == [spec.shape for spec in stage.spec.outputs], name
        assert outputs[0].dtype == stage.spec.outputs[0].dtype, name


def test_run_can_be_captured(model: ControlLDM, nothing_from_the_host: Any) -> None:
    with torch.device("meta"):
        shapes = make_fast(ControlLDM(model.architecture), torch.float16)
    shapes.alphas_cumprod = torch.linspace(0.99, 0.01, 1000)
    shape = Shape(64, 64, 1, 4, make_plan("all", 4), TWO)
    drawing = Pipeline(shapes, shape, EagerEngine, Streams(torch.device("meta")))
    # On a GPU, these are in pinned host memory.
    drawing.pictures, drawing.largest = drawing.pictures.to("meta"), drawing.largest.to("meta")
    drawing.inputs.written = {name: buffer.to("meta") for name, buffer in drawing.inputs.written.items()}
    with nothing_from_the_host:
        drawing.run()


def test_runtime() -> None:
    runtime = hackathon(str(SMALL_MODEL), plan="19,4", device="cpu", prompt_syntax="webui", prompt_chunks=2)
    runtime.initialize()
    plain, emphasized = (process(runtime, prompt=prompt)[0] for prompt in ("a red bird", "a (red:1.5) bird"))
    assert not np.array_equal(plain, emphasized)
    assert runtime.syntax == TWO
    with pytest.raises(ValueError, match="'red' has the weight 5000, expected -1000 to 1000"):
        process(runtime, prompt="(red:5000)")
    assert np.array_equal(process(runtime, prompt="a red bird")[0], plain)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt_syntax": "compel"}, ValueError, "prompt_syntax 'compel': expected plain or webui"),
        ({"prompt_syntax": "webui", "prompt_chunks": 0}, ValueError, "prompt_chunks: got 0, expected 1 to 8"),
        ({"prompt_syntax": "webui", "prompt_chunks": 9}, ValueError, "prompt_chunks: got 9, expected 1 to 8"),
        ({"prompt_syntax": "webui", "prompt_chunks": 1.0}, TypeError, r"prompt_chunks: got 1\.0, expected a whole"),
        ({"prompt_syntax": "webui", "prompt_chunks": True}, TypeError, "prompt_chunks: got True, expected a whole"),
        ({"prompt_chunks": 2}, ValueError, "prompt_chunks: got 2 with prompt_syntax plain, expected 1: use prompt_"),
    ],
)
def test_bad_choices(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hackathon("random:0", **options)
