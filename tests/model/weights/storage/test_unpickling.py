import os
import pickle
import pickletools
import random
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch

from model.weights import WeightsError
from model.weights.storage.unpickling import unpickle_arrays
from model.weights.storage.weights_file import read_weights_file

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns_first": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.array([1.5, -2], np.float16),
    "big_endian": np.arange(4, dtype=">f4"),
    "count": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
    "yes": np.array([True, False]),
    "byte": np.arange(3, dtype=np.uint8),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_containers_are_read_unchanged(protocol):
    content = {
        "model": ARRAYS,
        "order": OrderedDict(a=1),
        "rest": [1, 2.5, "x", None, (True, b"raw"), 2**70],
        "number": np.float32(2.5),
    }
    read = unpickle_arrays(pickle.dumps(content, protocol=protocol), "x.pkl")
    assert read["rest"] == content["rest"]
    assert read["order"] == {"a": 1}
    assert float(read["number"]) == 2.5
    for name, array in ARRAYS.items():
        assert np.array_equal(read["model"][name], array)
        assert read["model"][name].dtype == array.dtype.newbyteorder("=")
        assert read["model"][name].flags.c_contiguous


def test_pickles_of_python_2_are_read(python2_pickle):
    plain = {name: array for name, array in ARRAYS.items() if array.dtype.isnative}
    read = unpickle_arrays(python2_pickle({"blobs": plain, "cfg": "MODEL: {}"}), "x.pkl")
    assert read["cfg"] == "MODEL: {}"
    for name, array in plain.items():
        if array.flags.c_contiguous:
            assert np.array_equal(read["blobs"][name], array)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_the_module_names_of_numpy_1_and_2_are_known(module):
    pickled = pickle.dumps(ARRAYS["weight"], protocol=2)
    other = pickled.replace(b"numpy._core.", module.encode() + b".")
    assert np.array_equal(unpickle_arrays(other, "x"), ARRAYS["weight"])


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stateful:
    def __setstate__(self, state):
        pytest.fail("unpickling ran code")


def stateful():
    instance = Stateful()
    instance.secret = 1
    return instance


MARK_FILE = "unpickling_ran_code"
DTYPE = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("evil", "message"),
    [
        (Calls(os.system, f"touch {MARK_FILE}"), r"(posix|nt)\.system"),
        (Calls(eval, f"open({MARK_FILE!r}, 'w')"), r"(builtins|__builtin__)\.eval"),
        (Calls(exec, "1"), r"\.exec"),
        (Calls(getattr, 1, "real"), r"\.getattr"),
        (Calls(np.load, MARK_FILE), r"numpy.*load"),
        (stateful(), "Stateful|_reconstructor|makes an object"),
        (torch.ones(2), "torch.*torch.save"),
        (np.array([Calls(os.system, f"touch {MARK_FILE}")], object), r"system|Python objects"),
        (np.array([[1, "x"], None], object), "Python objects"),
        (np.array([(1, 2)], [("a", "i4"), ("b", "i4")]), "V8|records"),
        (np.array(["text"]), "U4"),
        (np.array(["2020"], "M8[s]"), "M8"),
        ({1, 2}, "set|opcode"),
        (1j, "complex"),
    ],
)
def test_other_objects_are_refused_without_running_code(
    tmp_path, monkeypatch, evil, message, protocol
):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"model": {"w": evil}}, protocol=protocol)
    with pytest.raises(WeightsError, match=message) as raised:
        unpickle_arrays(data, "evil.pkl")
    assert "evil.pkl" in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        # INST, OBJ, NEWOBJ, a persistent id, an extension.
        b"(S'id'\nios\nsystem\n.",
        b"(cos\nsystem\nS'id'\no.",
        b"\x80\x02cos\nsystem\n)\x81.",
        b"Pfile\n.",
        b"\x80\x02\x82\x01.",
        # The name of a dangerous function, assembled on the stack.
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
        # A dotted name that starts with an allowed one.
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.__new__\x93.",
        # State for an imported stand-in, which would change it for later files.
        b"\x80\x02cnumpy\ndtype\n}U\x08__init__NsbK\x01.",
        b"\x80\x02cnumpy\ndtype\nN}U\x09_functionNs\x86b.",
        # State for a dict, a list and a number, which have none.
        b"\x80\x02}}U\x05clearNsb.",
        b"\x80\x02]}U\x01aNsb.",
        b"\x80\x02K\x01}U\x01aNsb.",
        # Calling a number; an array that calls its class; an array without content.
        b"\x80\x02K\x01)R.",
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        b"\x80\x02" + EMPTY_ARRAY + b".",
        # A list as the type of an array; a list inside itself; an unhashable key.
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n]K\x00\x85U\x01b\x87R.",
        b"\x80\x02]q\x01h\x01a.",
        b"\x80\x02}]K\x01s.",
        # The memo index 2,147,483,647: 32 GB of empty slots.
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"Np2147483647\n.",
        # 2**62 bytes announced.
        b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
        # A thousand nested lists.
        b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"",
        b".",
        b"\x80\x09.",
        b"not a pickle",
    ],
)
def test_attacks_on_the_pickle_machine_are_refused(data):
    with pytest.raises(WeightsError, match=r"^tricky\.pkl"):
        unpickle_arrays(data, "tricky.pkl")
    # The next file is still read.
    again = pickle.dumps(ARRAYS["weight"], protocol=2)
    assert np.array_equal(unpickle_arrays(again, "x"), ARRAYS["weight"])


def test_a_container_of_exponential_size_is_resolved_once():
    data = b"\x80\x02K\x01q\x000"
    data += b"h\x00"
    for index in range(1, 8):
        data += b"q" + bytes([index]) + b"0(" + (b"h" + bytes([index])) * 50 + b"t"
    read = unpickle_arrays(data + b".", "x")
    assert read[0] is read[49]


def array_state(shape=b"K\x02K\x03\x86", dtype=DTYPE, order=b"\x89", raw=b"U\x18" + bytes(24)):
    return b"\x80\x02" + EMPTY_ARRAY + b"(K\x01" + shape + dtype + order + raw + b"tb."


@pytest.mark.parametrize(
    "change",
    [
        {"shape": b"K\x02K\x04\x86"},
        {"shape": b"K\x00K\x04\x86"},
        {"shape": b"J\xff\xff\xff\xffJ\xfa\xff\xff\xff\x86"},
        {"shape": b"G@\x00\x00\x00\x00\x00\x00\x00K\x03\x86"},
        {"shape": b"\x88K\x06\x86"},
        {"shape": b"(" + b"K\x01" * 40 + b"t"},
        {"shape": b"\x8a\x09" + b"\xff" * 8 + b"\x7fK\x03\x86"},
        {"shape": b"K\x06"},
        {"raw": b"]"},
        {"raw": b"N"},
        {"raw": b"X\x02\x00\x00\x00\xc4\x80"},
        {"raw": b"U\x17" + bytes(23)},
        {"dtype": b"K\x01"},
        {"dtype": b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R"},
        {"dtype": b"cnumpy\ndtype\nU\x02f3K\x00K\x01\x87R"},
        {"dtype": b"cnumpy\ndtype\n]\x85R"},
        {"dtype": DTYPE + b"K\x05b"},
        {"dtype": DTYPE + b"(K\x03U\x01xNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"},
        {"dtype": DTYPE + b"(K\x03U\x01<U\x01fNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"},
    ],
)
def test_an_array_with_inconsistent_attributes_is_refused(change):
    assert unpickle_arrays(array_state(), "x").shape == (2, 3)
    with pytest.raises(WeightsError):
        unpickle_arrays(array_state(**change), "x")


def test_truncation_at_any_byte_is_refused(python2_pickle):
    small = {"a": ARRAYS["weight"], "b": {"c": ARRAYS["count"]}}
    pickles = [python2_pickle(small), *(pickle.dumps(small, protocol=p) for p in (0, 2, 4, 5))]
    for data in pickles:
        for end in range(len(data)):
            with pytest.raises(WeightsError):
                unpickle_arrays(data[:end], "x")


def test_random_damage_gives_weights_or_a_weights_error(python2_pickle):
    data = python2_pickle({"a": ARRAYS["weight"], "b": {"c": ARRAYS["count"]}})
    rng = random.Random(0)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            unpickle_arrays(bytes(damaged), "x")
        except WeightsError:
            refused += 1
    assert refused > 1000


def test_all_allowed_opcodes_exist():
    from model.weights.storage.unpickling import _OPCODES

    assert {code.name for code in pickletools.opcodes} >= _OPCODES


@pytest.mark.parametrize("new_zip", [True, False])
def test_a_torch_file_may_have_the_suffix_pkl(tmp_path, new_zip):
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=new_zip)
    assert read_weights_file(path).tensors["a"].equal(torch.ones(2))
