"""Tables of layers: the nine that are shipped, and whatever else has their columns."""

import pytest

from gradloom_model.layers import Layer, Network
from gradloom_model.readers.csv_reader import load, read_csv, shipped
from gradloom_model.readers.read import network

HEADER = "name,type,N_out,C_in,K_h,K_w,stride_h,stride_w,pad_h,pad_w,H_in,W_in,groups"
CONV = "c,conv,8,3,3,5,2,1,1,2,32,30,1"

GIGAMACS = {"vgg16": 15.470, "resnet50": 4.089, "resnet18": 1.814, "densenet121": 2.834,
            "densenet264": 5.752, "inception_v4": 12.254, "mobilenet_v1": 0.569,
            "resnet20_cifar": 0.0406, "alexnet_2012": 0.724}

PARAMETERS = {
    # Published parameters of all kinds, with which biases and norms they hold: torchvision,
    # timm (inception_v4, mobilenet_v1), the Caffe model zoo (alexnet_2012), and He et al.'s
    # ResNet-20 with shortcuts that have no parameters.
    "vgg16": (138_357_544, "biases"),
    "alexnet_2012": (60_965_224, "biases"),
    "resnet18": (11_689_512, "norm after"),
    "resnet50": (25_557_032, "norm after"),
    "resnet20_cifar": (269_722, "norm after"),
    "mobilenet_v1": (4_231_976, "norm after"),
    "inception_v4": (42_679_816, "norm after"),
    "densenet121": (7_978_856, "norm before"),
}


def _rest(net, kind):
    """Count biases, and the two parameters of each channel of each norm."""
    convs = [layer for layer in net.layers if layer.kind == "conv"]
    last = net.layers[-1]
    if kind == "biases":
        return sum(layer.outputs for layer in net.layers)
    if kind == "norm after":
        return 2 * sum(layer.outputs for layer in convs) + last.outputs
    # A norm before each convolution but the first, which one follows; one before the last layer.
    return (2 * sum(layer.inputs for layer in convs[1:]) + 2 * convs[0].outputs + 2 * last.inputs
            + last.outputs)


def _write(tmp_path, *lines, name="net.csv"):
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def test_ships_nine_networks():
    assert shipped() == sorted(GIGAMACS)


@pytest.mark.parametrize("name", GIGAMACS)
def test_multiplications_of_shipped_networks(name):
    digits = 4 if name == "resnet20_cifar" else 3
    assert round(load(name).macs / 1e9, digits) == GIGAMACS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_are_the_published_parameters_without_biases_and_norms(name):
    parameters, kind = PARAMETERS[name]
    net = load(name)
    assert net.weights + _rest(net, kind) == parameters


@pytest.mark.parametrize(("name", "blocks"), [
    ("densenet121", (6, 12, 24, 16)), ("densenet264", (6, 12, 64, 48))])
def test_weights_of_densenets_are_those_of_their_blocks(name, blocks):
    # Each layer adds 32 channels by way of 128; between blocks, channels are halved.
    channels, weights = 64, 3 * 64 * 7 * 7
    for block in blocks:
        for _ in range(block):
            weights += channels * 128 + 128 * 32 * 9
            channels += 32
        if block is not blocks[-1]:
            weights += channels * (channels // 2)
            channels //= 2
    assert load(name).weights == weights + channels * 1000


@pytest.mark.parametrize("name", GIGAMACS)
def test_only_the_first_layer_needs_no_input_gradient(name):
    gradients = [layer.input_gradient for layer in load(name).layers]
    assert gradients == [False] + [True] * (len(gradients) - 1)


def test_reads_every_kind(tmp_path):
    net = read_csv(_write(tmp_path, HEADER, CONV, "d,conv,6,8,3,3,1,1,1,1,9,9,2",
                          "f,fc,10,128,1,1,1,1,0,0,1,1,1", "g,gemm,10,128,1,1,1,1,0,0,7,1,1",
                          "l,Linear,10,128,1,1,1,1,0,0,3,4,1", "m,matmul,7,16,1,1,1,1,0,0,7,1,1"))
    assert net == Network("net", [
        Layer(name="c", inputs=3, outputs=8, kernel=(3, 5), stride=(2, 1), padding=(1, 2, 1, 2),
              size=(32, 30), input_gradient=False),
        Layer(name="d", inputs=8, outputs=6, kernel=(3, 3), padding=(1, 1, 1, 1), size=(9, 9),
              groups=2),
        Layer(name="f", kind="linear", inputs=128, outputs=10),
        Layer(name="g", kind="linear", inputs=128, outputs=10, size=(7, 1)),
        Layer(name="l", kind="linear", inputs=128, outputs=10, size=(12, 1)),
        Layer(name="m", kind="matmul", inputs=16, outputs=7, size=(7, 1)),
    ])


def test_reads_optional_columns_in_any_order(tmp_path):
    net = read_csv(_write(tmp_path, f"copies,dilation_h,dilation_w,{HEADER}", f",2,3,{CONV}",
                          "4,,,m,matmul,7,16,1,1,1,1,0,0,7,1,1"))
    assert net.layers[0].dilation == (2, 3)
    assert (net.layers[0].copies, net.layers[1].copies) == (1, 4)
    assert net.layers[1].dilation == (1, 1)


def test_tolerates_a_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "net.csv"
    path.write_bytes(f"\ufeff\r\n{HEADER}\r\n\r\n , ,\r\n{CONV}\r\n\r\n".encode())
    assert len(read_csv(path).layers) == 1


ERRORS = {
    "empty": ([], "net.csv holds no layer: write a line name,type,N_out"),
    "header alone": ([HEADER], "net.csv holds no layer"),
    "missing column": ([HEADER.replace(",groups", ""), CONV],
                       "line 1: column groups is missing among 'name,type"),
    "semicolons": ([HEADER.replace(",", ";")], "line 1: column name, type.*by commas"),
    "unknown column": ([HEADER + ",dilatoin_h", CONV + ",1"],
                       "line 1: nothing is known of column 'dilatoin_h'; remove it, or name it one "
                       "of dilation_h, dilation_w, copies"),
    "column twice": ([HEADER + ",groups", CONV + ",1"],
                     "line 1: column 'groups' is there 2 times; keep one"),
    "cells": ([HEADER, "", CONV, CONV + ",1"],
              "line 4: there are 14 cells in 'c,conv,.*' for 13 columns"),
    "type": ([HEADER, CONV.replace("conv", "pool")],
             "line 2, column type: 'pool' is no type of layer; write one of conv, fc, linear"),
    "no integer": ([HEADER, CONV.replace("30", "3e1")],
                   "line 2, column W_in: '3e1' is not an integer; write digits alone"),
    "underscore": ([HEADER, CONV.replace("30", "3_0")], "column W_in: '3_0' is not an integer"),
    "nothing": ([HEADER, CONV.replace("30", "")], "column W_in: '' is not an integer"),
    "amount": ([HEADER, CONV.replace("30", "-30")],
               r"line 2: layer 'c': size must be at least 1, not \(32, -30\)"),
    "kernel": ([HEADER, "f,fc,8,3,3,3,1,1,0,0,1,1,1"], "line 2: layer 'f': only a convolution has"),
    "quote": ([HEADER, '"c" ,conv'], "line 2: .*; separate cells by commas"),
}


@pytest.mark.parametrize(("lines", "words"), ERRORS.values(), ids=ERRORS)
def test_refuses(tmp_path, lines, words):
    with pytest.raises(ValueError, match=words):
        read_csv(_write(tmp_path, *lines))


def test_refuses_what_is_no_text(tmp_path):
    path = tmp_path / "net.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"net\.csv is not text in UTF-8 .*: save it as CSV again"):
        read_csv(path)


def test_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.csv: name a table"):
        read_csv(tmp_path / "none.csv")


def test_suggests_the_network_meant():
    with pytest.raises(ValueError, match=r"no network 'ResNet-50', did you mean 'resnet50'\? .*"
                                         r"alexnet_2012, .*; a .csv or .onnx file"):
        load("ResNet-50")
    with pytest.raises(ValueError, match=r"no network 'zzz'\. The networks are alexnet_2012"):
        load("zzz")


def test_network_is_read_from_whatever_names_it(tmp_path):
    path = _write(tmp_path, HEADER, CONV)
    net = network(path)
    assert net == network(str(path)) == network(net) == read_csv(path)
    assert network("vgg16") == load("vgg16")
    assert network(path.rename(tmp_path / "net.CSV")).name == "net"


NOT_READ = {
    "something else": (3, {}, "not from 3"),
    "an example for a table": ("vgg16", {"example": [1]}, "Only a torch.nn.Module takes an exam"),
    "an option for a table": ("vgg16", {"batch": 2}, "'vgg16' is no .onnx file, and takes"),
}


@pytest.mark.parametrize(("source", "options", "words"), NOT_READ.values(), ids=NOT_READ)
def test_network_refuses(source, options, words):
    with pytest.raises(TypeError, match=words):
        network(source, **options)
