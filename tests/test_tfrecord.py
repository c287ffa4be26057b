"""TFRecord files, read without TensorFlow: against what protobuf writes of the same messages."""

import gzip
import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from paper_lib.data.readers import tfrecord


def _example_class():
    """Return tf.train.Example as tensorflow/core/example/{example,feature}.proto define it."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def add(message, name, number, kind, label=field.LABEL_OPTIONAL, of=None, **more):
        of = of and f".tensorflow.{of}"
        message.field.add(name=name, number=number, type=kind, label=label, type_name=of, **more)

    many = field.LABEL_REPEATED
    add(file.message_type.add(name="BytesList"), "value", 1, field.TYPE_BYTES, many)
    add(file.message_type.add(name="FloatList"), "value", 1, field.TYPE_FLOAT, many)
    add(file.message_type.add(name="Int64List"), "value", 1, field.TYPE_INT64, many)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    lists = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    for number, (name, of) in enumerate(lists, start=1):
        add(feature, name, number, field.TYPE_MESSAGE, of=of, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, of="Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, many, of="Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    add(example, "features", 1, field.TYPE_MESSAGE, of="Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def encoded(features):
    """Return the bytes of an Example: floats for a float array, bytes, or one-byte strings."""
    example = Example()
    for name, content in features.items():
        feature = example.features.feature[name]
        if isinstance(content, bytes):
            feature.bytes_list.value.append(content)
        elif content.dtype == np.uint8:
            feature.bytes_list.value.extend(bytes([value]) for value in content.ravel())
        elif content.dtype == np.int64:
            feature.int64_list.value.extend(content.ravel().tolist())
        else:
            feature.float_list.value.extend(content.ravel().tolist())
    return example.SerializeToString()


def framed(record):
    """Return a record as it lies in a file; nobody looks at the checksums."""
    return struct.pack("<Q", len(record)) + b"head" + record + b"tail"


def put(path, frames, cut=None):
    """Write frames as one gzip stream, of which the first `cut` bytes (all) are left."""
    path.write_bytes(gzip.compress(b"".join(frames), 1)[:cut])
    return path


def test_features_are_those_that_protobuf_wrote():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    numbers = rng.normal(size=300).astype(np.float32)
    found = tfrecord.features(
        memoryview(
            encoded(
                {
                    "image": pixels,
                    "visibility": numbers,
                    "count": np.arange(-3, 3),
                    "a name that is longer than 127 letters" * 4: numbers[:1],
                    "none": np.zeros(0, np.float32),
                }
            )
        )
    )
    image = tfrecord.one_byte_strings(found, "image", pixels.size)
    np.testing.assert_array_equal(image, pixels.ravel())
    np.testing.assert_array_equal(tfrecord.floats(found, "visibility", 300), numbers)
    long = tfrecord.floats(found, "a name that is longer than 127 letters" * 4, 1)
    np.testing.assert_array_equal(long, numbers[:1])
    assert {"image", "visibility", "count"} <= set(found)


def test_numbers_that_are_not_packed_are_read_too():
    """A reader of protocol buffers takes both encodings of a repeated number."""
    numbers = np.array([0.5, -2.0, 3.25], "<f4")
    list_ = b"".join(b"\x0d" + number.tobytes() for number in numbers)
    feature = b"\x12" + bytes([len(list_)]) + list_
    entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    record = b"\x0a" + bytes([len(features)]) + features
    assert Example.FromString(record).features.feature["x"].float_list.value == [0.5, -2.0, 3.25]
    np.testing.assert_array_equal(
        tfrecord.floats(tfrecord.features(memoryview(record)), "x", 3), numbers
    )


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(4, np.uint8),  # one too few
        np.zeros(5, np.float32),
        np.arange(5),
        b"12345",  # one string of five bytes
        b"\0" * 13,  # as long as five strings of one byte
        None,
    ],
)
def test_another_feature_than_strings_of_one_byte_is_refused(content):
    found = tfrecord.features(memoryview(encoded({} if content is None else {"x": content})))
    with pytest.raises(ValueError, match="no feature 'x' of 5 strings of one byte"):
        tfrecord.one_byte_strings(found, "x", 5)


@pytest.mark.parametrize("content", [np.zeros(4, np.float32), np.zeros(5, np.uint8), np.arange(5)])
def test_another_feature_than_so_many_floats_is_refused(content):
    found = tfrecord.features(memoryview(encoded({"x": content})))
    with pytest.raises(ValueError, match="no feature 'x' of 5 floats"):
        tfrecord.floats(found, "x", 5)


@pytest.mark.parametrize("record", [b"\xff" * 1000, b"some text", b"\x0a\x7f", b"\x0b\x00"])
def test_what_is_no_example_is_refused(record):
    with pytest.raises(ValueError, match="is not a tf.train.Example"):
        tfrecord.features(memoryview(record))


def test_records_come_in_their_order(tmp_path):
    contents = [encoded({"x": np.full(k, k, np.float32)}) for k in range(1, 200)]
    path = put(tmp_path / "file", map(framed, contents))
    assert [bytes(record) for record in tfrecord.records(path)] == contents


def test_what_is_before_the_fault_is_read(tmp_path):
    contents = [np.random.default_rng(k).bytes(1_000) for k in range(20)]
    path, found = put(tmp_path / "file", map(framed, contents), cut=-3_000), []
    with pytest.raises(tfrecord.BadFile, match="cannot be unpacked"):
        for record in tfrecord.records(path):
            found.append(bytes(record))
    assert len(found) >= 10 and found == contents[: len(found)]
