"""One picture from a shipped input: writes examples/blue_bird.png."""

import cv2
from PIL import Image

from canny2image_TRT import hackathon

runtime = hackathon()
runtime.initialize()  # reads weights and engine files; on a GPU captures the CUDA graph
pictures = runtime.process(
    input_image=cv2.imread("models/small/pictures/bird_1.png"),  # BGR or RGB: only its edges are used
    prompt="a blue bird in the mountains",
    a_prompt="best quality, extremely detailed",
    n_prompt="lowres, bad anatomy",
    num_samples=1,
    image_resolution=256,
    ddim_steps=20,
    guess_mode=False,
    strength=1.0,
    scale=9.0,
    seed=2946901,
    eta=0.0,
    low_threshold=100,
    high_threshold=200,
)  # a list of uint8 arrays [height, width, 3], RGB
Image.fromarray(pictures[0]).save("examples/blue_bird.png")  # cv2.imwrite needs BGR: pictures[0][:, :, ::-1]
