"""A small network that is shown labels: whether a drawn set can be solved at all."""

import numpy as np
import torch
from torch import nn

from nblib.data import phantom


def scaled(images):
    return images.astype(np.float32) / 127.5 - 1


def block(channels_in, channels, width):
    convolution = nn.Conv2d(channels_in, channels, width, stride=2, padding=width // 2)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


def scores_of_a_supervised_network(images):
    """Scores (n,) of images (n, 32, 32) or (n, 1, 32, 32), uint8, by a network that saw labels.

    It learns from pairs with and without the lesion, which teach the most per picture, of patients
    of another seed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pairs, epochs, batch = 1500, 8, 25
    drawn = [
        phantom.radiograph(patient, 0, abnormal, size=32, seed=1000)[0]
        for patient in range(pairs)
        for abnormal in (False, True)
    ]
    pictures = torch.from_numpy(scaled(np.stack(drawn)))[:, None]
    labels = torch.tensor([0.0, 1.0]).repeat(batch)
    layers = [*block(1, 16, 5), *block(16, 32, 3), *block(32, 64, 3), nn.Flatten(), nn.Dropout(0.3)]
    network = nn.Sequential(*layers, nn.Linear(64 * 4 * 4, 1))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=epochs * pairs // batch
    )
    for _ in range(epochs):
        for chosen in torch.randperm(pairs).split(batch):
            rows = torch.stack([2 * chosen, 2 * chosen + 1], dim=1).ravel()
            shift = torch.randint(-2, 3, (2,)).tolist()
            output = network(torch.roll(pictures[rows], shift, (2, 3)))[:, 0]
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(output, labels).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        test = torch.from_numpy(scaled(images)).reshape(-1, 1, 32, 32)
        scores = network.eval()(test)[:, 0].numpy()
    torch.set_num_threads(threads)
    return scores
