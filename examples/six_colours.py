"""Six prompts for the same edges, without another capture: writes examples/six_colours.png."""

import cv2
import numpy as np

from canny2image_TRT import hackathon
from cldm.request import Request

picture = cv2.imread("models/small/pictures/bird_1.png")
runtime = hackathon()
runtime.initialize()
pictures = []
for colour in ("red", "orange", "yellow", "green", "blue", "purple"):
    request = Request.contest(picture, prompt=f"a {colour} bird in the mountains")  # the other arguments: the contest's
    pictures += runtime.draw(request)
cv2.imwrite("examples/six_colours.png", np.hstack(pictures)[:, :, ::-1])
