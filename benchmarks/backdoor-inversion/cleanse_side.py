"""Neural Cleanse of trojanzoo: its own `optimize_mark` and anomaly index, class by class, on a network of the zoo.

The library wants models, data sets and attacks of its own; here its optimiser gets the three things it calls (a mark, a way to
put it on, a model). Two lines make the version on the package index importable beside today's torchvision and matplotlib.
"""

import contextlib
import io
import json
import resource
import sys
import time
import types

import matplotlib
import matplotlib.cm
import numpy as np
import torch
from torch import library

register = library.register_fake


def skip_torchvision(name, *args, **kwargs):
    """The torchvision at hand is built for another torch; none of its operators is used here."""
    return (lambda function: function) if str(name).startswith("torchvision::") else register(name, *args, **kwargs)


library.register_fake = skip_torchvision  # type: ignore[assignment]
matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap  # type: ignore[attr-defined]
from trojanvision.defenses.backdoor.model_inspection.neural_cleanse import NeuralCleanse  # noqa: E402
from trojanzoo.utils.metric import normalize_mad  # noqa: E402


class Network(torch.nn.Module):
    """The zoo's network, as a trojanzoo model is called."""

    num_classes = 10

    def __init__(self, arrays, scale):
        super().__init__()
        self.weights = {k: torch.from_numpy(v) for k, v in arrays.items()}
        self.scale = scale

    def forward(self, x):
        w, relu, conv = self.weights, torch.relu, torch.nn.functional.conv2d
        x = relu(conv(x, w["conv1.weight"], w["conv1.bias"], stride=2, padding=1))
        x = relu(conv(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1)).flatten(1)
        x = relu(x @ w["dense.weight"].T + w["dense.bias"])
        return self.scale * (x @ w["out.weight"].T + w["out.bias"])

    def get_data(self, data):
        return data

    def loss(self, _input, _label, _output):
        return torch.nn.functional.cross_entropy(_output, _label)


def handle(request):
    """Marks of all classes; the anomaly index of the smallest one."""
    stored = dict(np.load(request["file"], allow_pickle=False))
    images, labels = torch.from_numpy(stored.pop("images")), torch.from_numpy(stored.pop("labels"))
    rows = stored.pop("rows")
    torch.manual_seed(request["seed"])
    torch.set_num_threads(1)
    model = Network(stored, request.get("scale", 1.0))
    shape = (images.shape[1] + 1, *images.shape[2:])
    mark = types.SimpleNamespace(mark=torch.zeros(shape))
    attack = types.SimpleNamespace(
        mark=mark, add_mark=lambda x: x * (1 - mark.mark[-1]) + mark.mark[-1] * mark.mark[:-1]
    )
    cleanse = object.__new__(NeuralCleanse)
    cleanse.attack, cleanse.model = attack, model
    cleanse.defense_remask_epoch, cleanse.defense_remask_lr = request["epochs"], 0.1
    cleanse.cost = cleanse.init_cost = 1e-3
    cleanse.cost_multiplier_up, cleanse.cost_multiplier_down = 1.5, 1.5**1.5
    cleanse.nc_asr_threshold = cleanse.nc_early_stop_threshold = 0.99
    cleanse.nc_patience, cleanse.early_stop_patience = 10.0, 20.0
    began = time.perf_counter()
    norms, evaluations = [], 0
    for target in range(10):
        chosen = rows[target]
        chosen = torch.from_numpy(chosen[chosen >= 0])
        batches = [(images[part], labels[part]) for part in chosen.split(request["batch"])]
        counted = Counted(batches)
        with contextlib.redirect_stdout(io.StringIO()):
            found, _ = cleanse.optimize_mark(target, loader=counted, verbose=False)
        cleanse.cost = cleanse.init_cost
        norms.append(float(found[-1].norm(p=1)))
        evaluations += counted.images
    index = normalize_mad(norms).numpy()
    low = np.array(norms) <= np.median(norms)
    target = int(np.argmax(np.where(low, index, -1)))
    value = {"target": target, "index": float(index[target]), "norms": norms, "evaluations": evaluations}
    return {"seconds": time.perf_counter() - began, "value": value}


class Counted:
    """Batches that count the images handed out."""

    def __init__(self, batches):
        self.batches, self.images = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.images += len(batch[1])
            yield batch


for line in sys.stdin:
    answer = handle(json.loads(line))
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write("@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
