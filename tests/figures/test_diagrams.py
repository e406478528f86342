import re
from xml.etree import ElementTree

import pytest
import torch

from nblib import figures
from nblib.methods.sagan import Generator


@pytest.mark.parametrize("name", ["generator", "gate"])
def test_a_diagram_changes_nothing_else_on_a_page(name):
    """It is put into pages among other pictures: a style sheet of its own would reach them."""
    tree = ElementTree.fromstring(figures.diagram(name).data)
    tags = {element.tag.split("}")[1] for element in tree.iter()}
    assert not tags & {"style", "script", "image", "foreignObject"}
    assert tree.find("{http://www.w3.org/2000/svg}title").text


def test_the_diagram_has_the_sizes_of_the_published_generator():
    found, G = [], Generator(64, width=64, grid=2).eval()
    hook = G.encoder.register_forward_hook(lambda _, __, maps: found.extend(maps))
    first = next(m for m in G.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda _, __, map: found.append(map))
    with torch.no_grad():
        G(torch.zeros(1, 1, 64, 64))
    hook.remove()
    of_the_network = {f"{map.shape[1]} @ {map.shape[2]}" for map in found}
    drawn = set(re.findall(r"\d+ @ \d+", figures.diagram("generator").data))
    assert drawn == of_the_network
