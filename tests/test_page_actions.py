"""The page without a browser: forms, weights that are offered, parameters that are loaded back, and many users."""

import io
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cldm.checkpoint_choice import find_checkpoint
from cldm.reference import reference_pictures
from cldm.request import CONTEST
from scoring.inception import load_inception
from serving import page_actions
from serving.form import MOST_STEPS, Form, read_upload
from serving.parameters import png
from serving.studio import Choice, Studio
from tests.sentences import assert_one_line
from tests.studio import PLAN, bird, edge_map, make_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return make_studio(tmp_path_factory.mktemp("offers"))


@pytest.fixture
def form(studio: Studio, tmp_path: Path) -> Callable[..., Form]:
    def make(**changes: Any) -> Form:
        values = {name: value for name, value in CONTEST.items() if name != "num_samples"}
        values |= {"image_resolution": 64, "plan": PLAN, "model": studio.own_model, "loras": [], "lora_strengths": "1"}
        return Form(**{"picture": bird(tmp_path), "edge_map": False, **values, **changes})

    return make


def png_of(studio: Studio, form: Form) -> bytes:
    drawn = studio.draw(form.request(), form.choice())
    return png(drawn.picture, drawn.request, drawn.settings)


def test_a_form_gives_its_picture(studio: Studio, form: Callable[..., Form]) -> None:
    request = form(seed=5).request()
    drawn = studio.draw(request, form().choice())
    assert (drawn.picture == studio.runtime.draw(request)[0]).all()
    assert drawn.picture.shape == (*request.size, 3)
    assert (drawn.request.seed, drawn.rows) == (5, [])
    assert drawn.milliseconds > 0


def test_a_random_seed_can_be_used_again(studio: Studio, form: Callable[..., Form]) -> None:
    first = studio.draw(form(seed=-1).request(), form().choice())
    assert 0 <= first.request.seed <= 65535
    again = studio.draw(form(seed=first.request.seed).request(), form().choice())
    assert (first.picture == again.picture).all()


def test_an_edge_map_is_used_as_it_is(form: Callable[..., Form], tmp_path: Path) -> None:
    file = edge_map(tmp_path)
    request = form(picture=file, edge_map=True).request()
    assert (request.edge_map() == np.asarray(Image.open(file))).all()
    assert (request.edge_map() == page_actions.edges(file, True, 64, 100, 200)).all()
    assert (request.edge_map() != page_actions.edges(file, False, 64, 100, 200)).any()


def test_thresholds_change_the_edges(tmp_path: Path) -> None:
    few, many = (page_actions.edges(bird(tmp_path), False, 64, low, high) for low, high in ((300, 500), (10, 20)))
    assert few.shape == many.shape == (64, 128)
    assert (few > 0).sum() < (many > 0).sum()


BAD = [
    ({"picture": None}, "picture: got none, expected one: upload a file"),
    ({"picture": "/nowhere.png"}, "picture: the file was deleted here a while after its upload: choose it again"),
    ({"edge_map": True}, "the edge map.*: got channels that differ"),
    ({"edge_map": "yes"}, "edge_map: got 'yes', expected True or False"),
    ({"seed": None}, "seed: got None"),
    ({"seed": 1.5}, "seed: got 1.5, expected a whole number"),
    ({"seed": 2**32}, "seed: got 4294967296"),
    ({"ddim_steps": 0}, "ddim_steps: got 0"),
    ({"ddim_steps": MOST_STEPS + 1}, f"ddim_steps: got {MOST_STEPS + 1}, expected at most {MOST_STEPS} here"),
    ({"image_resolution": 1024}, "image_resolution: 1024 gives a picture of 1024 x 1536, expected at most 1048576"),
    ({"image_resolution": 63}, "image_resolution: got 63"),
    ({"strength": "much"}, "strength: got 'much'"),
    ({"scale": float("nan")}, "scale: got nan"),
    ({"eta": 2}, "eta: got 2"),
    ({"low_threshold": None}, "low_threshold: got None"),
    ({"prompt": 7}, "prompt: got 7"),
    ({"guess_mode": 1}, "guess_mode: got 1"),
    ({"plan": "/etc/passwd.json"}, "plan: got '/etc/passwd.json', expected 19,4, ten, all"),
    ({"plan": None}, "plan: got None, expected 19,4"),
    ({"plan": "auto"}, "plan 'auto': expected"),
    ({"plan": "4,19"}, "plan.*expected step indices that descend"),
    ({"plan": "7" * 5000}, "plan"),
    ({"model": "../model"}, "weights: got '../model', expected one of those offered here: birds/other, broken"),
    ({"model": ["birds/other"]}, "weights: got"),
    ({"model": "broken"}, "broken.safetensors"),
    ({"loras": ["none"]}, "LoRA: got 'none', expected one of those offered here: all, attention"),
    ({"loras": ["all"], "lora_strengths": ""}, "LoRA strengths: got '', expected one number such as 0.8$"),
    ({"loras": ["all"], "lora_strengths": "much"}, "LoRA strengths: got 'much'"),
    ({"loras": ["all"], "lora_strengths": None}, "LoRA strengths: got None"),
    ({"loras": ["all", "attention"], "lora_strengths": "1 2 3"}, "or 2 numbers, one for each LoRA"),
    ({"loras": ["all"], "lora_strengths": "nan"}, "strength"),
    ({"loras": "all"}, "LoRA"),
    ({"loras": [7]}, "LoRA: got 7"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input_gives_a_sentence(
    studio: Studio, form: Callable[..., Form], changes: dict[str, Any], sentence: str
) -> None:
    bad = form(**changes)
    with pytest.raises((ValueError, TypeError), match=sentence) as caught:
        studio.draw(bad.request(), bad.choice())
    assert_one_line(caught.value)
    good = form(seed=1)
    assert (studio.draw(good.request(), good.choice()).picture == studio.runtime.draw(good.request())[0]).all()


def test_strengths_belong_to_loras(form: Callable[..., Form]) -> None:
    assert form(lora_strengths="whatever").choice().loras == ()
    assert form(loras=["a", "b"], lora_strengths="0.5").choice().loras == (("a", 0.5), ("b", 0.5))
    assert form(loras=["a", "b"], lora_strengths="0.5, -1").choice().loras == (("a", 0.5), ("b", -1.0))


def test_a_large_file_is_read_in_part_only(form: Callable[..., Form], tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as opened:
        opened.truncate(2**30)
    assert len(read_upload(str(file), "picture")) < 2**25
    with pytest.raises(ValueError, match=r"picture: got a file of .* bytes, expected at most"):
        form(picture=str(file)).request()


def test_weights_and_loras_are_those_of_each_call(studio: Studio, form: Callable[..., Form]) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model": "birds/other"},
        {"loras": ["attention"], "lora_strengths": "0.5"},
        {"loras": ["attention"], "lora_strengths": "-0.5"},
        {"model": "birds/other", "loras": ["all", "attention"], "lora_strengths": "0.5 0.25"},
    ]
    forms = [form(**change) for change in changes]
    first = [studio.draw(one.request(), one.choice()) for one in forms]
    again = [studio.draw(one.request(), one.choice()) for one in reversed(forms)][::-1]
    assert all((a.picture == b.picture).all() for a, b in zip(first, again, strict=True))
    assert len({one.picture.tobytes() for one in first}) == len(forms)
    assert first[4].settings["Model"] == "birds/other"
    assert first[4].settings["LoRAs"] == "<lora:all:0.5> <lora:attention:0.25>"


def test_plans_are_those_of_each_call(studio: Studio, form: Callable[..., Form]) -> None:
    assert studio.plans[:3] == [PLAN, "ten", "all"]
    assert "small_5" in studio.plans
    evaluates = [
        studio.draw(one.request(), one.choice()).settings["Evaluates"]
        for one in (form(plan="small_5"), form(plan="19"), form(plan=PLAN), form(plan="all", ddim_steps=2))
    ]
    assert evaluates == ["5 of 20 steps", "1 of 20 steps", "2 of 20 steps", "2 of 2 steps"]


def test_many_users_at_once(studio: Studio, form: Callable[..., Form]) -> None:
    forms = [form(seed=seed, loras=["attention"] if seed % 2 else []) for seed in range(8)]
    alone = [studio.draw(one.request(), one.choice()).picture for one in forms]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: studio.draw(one.request(), one.choice()).picture, forms))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_the_timeline_is_of_this_picture(studio: Studio, form: Callable[..., Form]) -> None:
    drawn = studio.draw(form().request(), form().choice(), timeline=True)
    names = [row[0] for row in drawn.rows]
    assert names.count("control") == 2
    assert {row[1] for row in drawn.rows} == {"main", "side"}
    with Image.open(io.BytesIO(page_actions.timeline_png(drawn))) as image:
        assert image.width > 1000


def test_the_comparison_is_with_the_reference_of_the_same_weights(studio: Studio, form: Callable[..., Form]) -> None:
    lora = form(loras=["all"], lora_strengths="0.3", ddim_steps=2, plan="all")
    drawn = studio.draw(lora.request(), lora.choice())
    studio.draw(form().request(), form().choice())  # another user's, with other weights
    said: list[tuple[float, str]] = []
    made = page_actions.compare(studio, drawn, load_inception(), lambda part, what: said.append((part, what)))
    found = find_checkpoint(studio.start.name, loras=[(studio.loras.find("all"), 0.3)])
    expected = reference_pictures(found.load_model(), found.load_tokenizer(), drawn.request)[0]
    assert (made.reference == expected).all()
    assert made.ssim > 0.99  # all steps
    assert made.metric in ("PD", "PD*")
    assert [part for part, what in said if "reference" in what] == [0.25, 0.5, 0.75, 1.0]


def test_parameters_come_back(studio: Studio, form: Callable[..., Form]) -> None:
    made = form(
        prompt="ein Vögelchen, 鳥", seed=77, strength=0.8, scale=7.5, guess_mode=True, eta=0.25, plan="19,10",
        low_threshold=20, high_threshold=600, model="birds/other", loras=["all", "attention"],
        lora_strengths="0.5, 0.25",
    )  # fmt: skip
    values, notes = page_actions.entered(studio, png_of(studio, made))
    assert notes == []
    assert replace(made, **values) == made


def test_an_edge_map_comes_back_as_one(studio: Studio, form: Callable[..., Form], tmp_path: Path) -> None:
    made = form(picture=edge_map(tmp_path), edge_map=True)
    values, notes = page_actions.entered(studio, png_of(studio, made))
    assert (values["edge_map"], notes) == (True, [])
    assert replace(made, **values) == made


def test_what_is_not_offered_here_is_told(studio: Studio, form: Callable[..., Form]) -> None:
    request = replace(form().request(), num_samples=3)
    settings = {"Model": "far/away", "LoRAs": "<lora:all:0.5> <lora:gone:1>"}
    picture = np.zeros((64, 64, 3), np.uint8)
    values, notes = page_actions.entered(studio, png(picture, request, settings))
    assert (values["model"], values["plan"]) == (studio.own_model, PLAN)
    assert (values["loras"], values["lora_strengths"]) == (["all"], "0.5")
    assert [note.split(":")[0] for note in notes] == ["LoRA", "num_samples", "weights"]


def test_loaded_parameters_are_checked(studio: Studio, form: Callable[..., Form]) -> None:
    request = replace(form().request(), ddim_steps=500)
    with pytest.raises(ValueError, match="ddim_steps: got 500, expected at most"):
        page_actions.entered(studio, png(np.zeros((64, 64, 3), np.uint8), request, {}))
    object.__setattr__(request, "seed", "seven")
    with pytest.raises(TypeError, match="seed: got 'seven'"):
        page_actions.entered(studio, png(np.zeros((64, 64, 3), np.uint8), request, {}))


def test_the_settings_tell_no_folders(studio: Studio, tmp_path: Path) -> None:
    assert studio.own_model == "models/small/model.safetensors"
    assert str(Path.cwd()) not in str(studio.settings)
    plan = tmp_path / "secret" / "mine.json"
    studio = Studio(studio.runtime, str(plan), studio.shelf, studio.loras)
    assert studio.own_plan == "mine"
    assert "secret" not in str(studio.settings) + str(studio.plans)


def test_warnings_of_a_call_are_heard_in_its_thread_only(studio: Studio, form: Callable[..., Form]) -> None:
    with page_actions.heard() as messages:
        threading.Thread(target=logging.getLogger("x").warning, args=("another user's",)).start()
        logging.getLogger("x").info("no warning")
        studio.draw(form(prompt="word " * 100).request(), Choice(PLAN, studio.own_model))
    assert len(messages) == 1
    assert messages[0].startswith("prompt of ")
    logging.getLogger("x").warning("after the block")
    assert len(messages) == 1
