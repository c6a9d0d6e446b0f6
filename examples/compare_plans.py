"""Time and error of four plans, which choose the steps that call the network: prints a table."""

import time

import cv2
import numpy as np

from canny2image_TRT import hackathon
from cldm.request import Request

request = Request.contest(cv2.imread("models/small/pictures/bird_1.png"), prompt="a blue bird in the mountains")
runtime = hackathon("models/small/model.safetensors", plan="all")  # the model that plans 8 and 10 were fitted for
runtime.initialize()
every_step = runtime.draw(request)[0].astype(float)
print("plan    ms per picture    mean difference from plan all, grey levels")
for plan in ("all", "ten", "10", "8"):
    runtime.draw(request, plan)  # the first picture of a plan creates its pipeline
    start = time.perf_counter()
    picture = runtime.draw(request, plan)[0]
    milliseconds = 1000 * (time.perf_counter() - start)
    print(f"{plan:4} {milliseconds:17.1f} {np.abs(every_step - picture).mean():17.2f}")
