"""Six prompts for the same edges, without another capture: writes examples/six_colours.png."""

import cv2
import numpy as np
from PIL import Image

from canny2image_TRT import hackathon
from cldm.request import Request

picture = cv2.imread("models/small/pictures/bird_1.png")
runtime = hackathon()
runtime.initialize()
pictures = []
for colour in ("red", "orange", "yellow", "green", "blue", "purple"):
    request = Request.contest(picture, prompt=f"a {colour} bird in the mountains")  # the other arguments: the contest's
    pictures += runtime.draw(request)
Image.fromarray(np.hstack(pictures)).save("examples/six_colours.png")
