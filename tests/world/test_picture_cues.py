"""The mean colour and the brightness of a picture do not tell who is able."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embervlm.world.dataset import build


def test_colour_and_brightness_alone_do_not_answer() -> None:
    features, labels = [], []
    start = 0
    while len(features) < 240:
        # Texts first: only records of the default five above the waterline are painted. That water is blue is no
        # cue beside the fact, it is the fact.
        for record in build("train", "selection", 50, 5, images=False, fleets=4, start=start):
            if record.tags["fleet"] == "default" and record.tags["scene"]["site"] != "underwater":
                image = next(build("train", "selection", 1, 5, 48, start=int(record.id[-7:]), fleets=4)).image
                assert image is not None
                pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), float) / 255
                features.append([*pixels.mean((0, 1)), pixels.mean(), pixels.std()])
                labels.append([robot["name"] in record.labels for robot in record.robots])
        start += 50
    x, y = np.array(features), np.array(labels)
    chance = np.maximum(y.mean(0), 1 - y.mean(0)).mean()
    right = []
    for robot in range(y.shape[1]):
        if 0.02 < y[:, robot].mean() < 0.98:
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
            right.append((cross_val_predict(model, x, y[:, robot], cv=4) == y[:, robot]).mean())
        else:
            right.append(max(y[:, robot].mean(), 1 - y[:, robot].mean()))
    assert np.mean(right) - chance < 0.06
