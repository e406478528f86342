import pytest
import torch

from nblib.encodings import BinaryCode


def bits(code):
    return ["".join(str(int(bit)) for bit in row) for row in code[:, :, 0, 0]]


def test_four_patches_are_numbered_in_three_bits_most_significant_first():
    assert bits(BinaryCode(4)(1, 1)) == ["000", "001", "010", "011"]


def test_one_patch_has_one_bit():
    assert bits(BinaryCode(1)(1, 1)) == ["0"]


@pytest.mark.parametrize("grid, channels", [(1, 1), (2, 3), (3, 4), (4, 5), (8, 7)])
def test_codes_are_the_binary_numbers_of_the_patches(grid, channels):
    """channels = floor(log2(patches)) + 1, worked out by hand."""
    place = BinaryCode(grid**2)
    assert place.channels == channels
    expected = [format(patch, f"0{channels}b") for patch in range(grid**2)]
    assert bits(place(1, 1)) == expected
    assert len(set(expected)) == grid**2


def test_a_code_is_constant_over_its_patch():
    code = BinaryCode(9)(5, 7)
    assert code.shape == (9, 4, 5, 7)
    assert code.dtype == torch.float32
    assert torch.equal(code, code[:, :, :1, :1].expand(9, 4, 5, 7))


def test_a_code_is_no_weight_and_in_no_checkpoint():
    place = BinaryCode(4)
    assert not list(place.parameters())
    assert not place.state_dict()
    assert place.double().code.dtype == torch.float64, "it must move with the network"
