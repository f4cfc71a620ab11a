"""Reading one image file: every odd kind, the geometry of crop and pad, antialiasing, and what is refused."""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from rcdm_core.data.images import content_hash, fit_image, open_image, read_array, read_image
from rcdm_core.errors import RCDMError, UnreadableImage

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def textured(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth waves with a little noise, so that geometry and antialiasing both show."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [0.5 + 0.4 * np.sin(12 * (x * a + y * b) + c) for a, b, c in random.uniform(0.3, 1, (3, 3))]
    noisy = np.stack(waves, axis=-1) + random.normal(0, 0.05, (height, width, 1))
    return Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8))


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def png_16_bit_gray(path: Path, values: np.ndarray, transparent: int | None = None) -> None:
    png_16_bit(path, values, 0, None if transparent is None else (transparent,))


def png_16_bit(path: Path, values: np.ndarray, colour_type: int, transparent: tuple[int, ...] | None = None) -> None:
    """A PNG written by hand, since the test is about what Pillow makes of one. values [H, W] or [H, W, channels]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent is not None else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# -- odd kinds of files ------------------------------------------------------------------------------------------------


def test_alpha_is_flattened_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 255, 128), (0, 0, 0, 0)])
    image.save(tmp_path / "a.png")
    result = open_image(tmp_path / "a.png")
    assert result.mode == "RGB"
    assert pixel(result, 0, 0) == RED
    assert pixel(result, 1, 0) == WHITE and pixel(result, 3, 0) == WHITE
    assert pixel(result, 2, 0) == pytest.approx((127, 127, 255), abs=1)


def test_gray_with_alpha(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 255), (0, 0)])
    image.save(tmp_path / "la.png")
    result = open_image(tmp_path / "la.png")
    assert [pixel(result, x, 0) for x in range(2)] == [(0, 0, 0), WHITE]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "index.png", transparency=1)
    image.save(tmp_path / "table.png", transparency=bytes([255, 0, 128]))
    image.save(tmp_path / "index.gif", transparency=1)

    def colours(name: str) -> list[tuple[int, ...]]:
        result = open_image(tmp_path / name)
        return [pixel(result, x, 0) for x in range(3)]

    assert colours("plain.png") == [RED, GREEN, BLUE]
    assert colours("index.png") == [RED, WHITE, BLUE]
    assert colours("table.png")[:2] == [RED, WHITE]
    assert colours("table.png")[2] == pytest.approx((127, 127, 255), abs=1)
    assert colours("index.gif") == [RED, WHITE, BLUE]


def test_transparent_colour_of_rgb_and_of_gray(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, BLUE])
    image.save(tmp_path / "rgb.png", transparency=RED)
    gray = Image.new("L", (2, 1))
    gray.putdata([10, 20])
    gray.save(tmp_path / "l.png", transparency=10)
    rgb, gray = open_image(tmp_path / "rgb.png"), open_image(tmp_path / "l.png")
    assert [pixel(rgb, x, 0) for x in range(2)] == [WHITE, BLUE]
    assert [pixel(gray, x, 0) for x in range(2)] == [WHITE, (20, 20, 20)]


def test_16_bit_gray_keeps_its_whole_range(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 10, 257 * 128, 65535]])
    png_16_bit_gray(tmp_path / "a.png", values)
    png_16_bit_gray(tmp_path / "b.png", values, transparent=257 * 10)
    plain, transparent = open_image(tmp_path / "a.png"), open_image(tmp_path / "b.png")
    assert [pixel(plain, x, 0)[0] for x in range(4)] == [0, 10, 128, 255]
    assert [pixel(transparent, x, 0)[0] for x in range(4)] == [0, 255, 128, 255]


def test_16_bit_rgb_has_its_transparent_colour(tmp_path: Path) -> None:
    """All 16 bits of it: the second pixel has the same high bytes and is another colour."""
    colour = (3 * 256 + 5, 7 * 256, 11 * 256 + 255)
    values = np.array([[colour, (3 * 256 + 6, *colour[1:]), (65535, 0, 128 * 257)]])
    png_16_bit(tmp_path / "a.png", values, 2, colour)
    png_16_bit(tmp_path / "b.png", values, 2)
    with Image.open(tmp_path / "a.png") as opened:
        for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), opened):
            result = open_image(source)
            assert [pixel(result, x, 0) for x in range(3)] == [WHITE, (3, 7, 11), (255, 0, 128)]
    assert pixel(open_image(tmp_path / "b.png"), 0, 0) == (3, 7, 11)


def test_16_bits_with_alpha(tmp_path: Path) -> None:
    png_16_bit(tmp_path / "la.png", np.array([[(2570, 65535), (2570, 0)]]), 4)
    png_16_bit(tmp_path / "rgba.png", np.array([[(65535, 0, 0, 65535), (65535, 0, 0, 0), (0, 0, 65535, 32896)]]), 6)
    la, rgba = open_image(tmp_path / "la.png"), open_image(tmp_path / "rgba.png")
    assert [pixel(la, x, 0) for x in range(2)] == [(10, 10, 10), WHITE]
    assert [pixel(rgba, x, 0) for x in range(2)] == [RED, WHITE]
    assert pixel(rgba, 2, 0) == pytest.approx((127, 127, 255), abs=1)


@pytest.mark.parametrize(
    ("array", "reason"),
    [(np.array([[100_000, 5]], np.int32), "32-bit integers"), (np.array([[0.5, 2.0]], np.float32), "floating-point")],
)
def test_pixels_without_a_defined_white_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImage, match=reason):
        open_image(tmp_path / "a.tiff")


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    assert pixel(open_image(tmp_path / "a.jpg"), 8, 8) == pytest.approx((200, 30, 60), abs=4)


def test_bilevel(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putdata([0, 255])
    image.save(tmp_path / "a.png")
    result = open_image(tmp_path / "a.png")
    assert [pixel(result, x, 0) for x in range(2)] == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = RED, GREEN, BLUE
    # What a camera stores: the transformation that the tag's value asks to undo (EXIF 2.3, tag 0x0112).
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(store(upright))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png")), upright)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True}))
        assert pixel(open_image(tmp_path / name), 1, 1) == pytest.approx(RED, abs=3), name


def test_sources_of_every_type_agree(tmp_path: Path) -> None:
    image = textured(20, 10)
    image.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), image]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(image))


# -- what cannot be read -----------------------------------------------------------------------------------------------


def test_text_called_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UnreadableImage, match="not an image") as caught:
        open_image(tmp_path / "a.png")
    assert caught.value.reason == str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.bmp"])
def test_truncated(tmp_path: Path, name: str) -> None:
    textured(64, 64).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage):
        open_image(tmp_path / name)
    with pytest.raises(UnreadableImage):
        read_array(tmp_path / name, 8)


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks about the damage
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.tiff", "a.ico", "a.tga"):
        textured(32, 32).save(tmp_path / name)
        original = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        for _ in range(40):
            damaged = original.copy()
            damaged[random.randint(len(damaged), size=6)] = random.randint(256, size=6)
            try:
                assert read_array(damaged.tobytes(), 8).shape == (3, 8, 8)
            except UnreadableImage as error:
                assert error.reason


def test_empty_missing_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UnreadableImage, match="empty"):
        open_image(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="empty"):
        open_image(b"")
    with pytest.raises(UnreadableImage, match="No such file"):
        open_image(tmp_path / "missing.png")
    with pytest.raises(UnreadableImage, match="directory"):
        open_image(tmp_path)
    with pytest.raises(UnreadableImage, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("limit", [99, 40])  # Pillow warns above its limit and raises above twice the limit
@pytest.mark.filterwarnings("error")
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    textured(10, 10).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_image(tmp_path / "a.png").size == (10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=f"more than {limit} pixels"):
        open_image(tmp_path / "a.png")


def test_bombs_are_refused_in_every_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    textured(10, 10).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    refused: list[str] = []

    def read() -> None:
        for _ in range(20):
            try:
                open_image(tmp_path / "a.png")
            except UnreadableImage as error:
                refused.append(error.reason)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 80


# -- geometry and resizing ---------------------------------------------------------------------------------------------


def direct(image: Image.Image, size: int, fit: str) -> np.ndarray:
    """The definition, without any shortcut: crop or pad at full size, then one antialiased bicubic resize."""
    width, height = image.size
    side = min(width, height) if fit == "crop" else max(width, height)
    square = Image.new("RGB", (side, side), "white")
    left, top = (abs(side - width) // 2, abs(side - height) // 2)
    square.paste(image, (-left if width > side else left, -top if height > side else top))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(32, 32), (50, 33), (33, 50), (640, 400), (401, 1203), (20, 11), (7, 7), (1, 300)])
def test_fit_image_is_the_direct_definition(fit: str, shape: tuple[int, int]) -> None:
    image = textured(*shape)
    result = fit_image(image, 32, fit)
    assert result.shape == (3, 32, 32) and result.dtype == np.uint8 and result.flags.c_contiguous
    difference = np.abs(result.astype(int) - direct(image, 32, fit).astype(int))
    # A large reduction goes through plain averages first, which may move a sharp edge by a few levels.
    assert difference.mean() < 1.0 and difference.max() <= 12


def test_a_picture_of_the_right_size_is_untouched() -> None:
    image = textured(32, 32)
    for fit in ("crop", "pad"):
        np.testing.assert_array_equal(fit_image(image, 32, fit), np.asarray(image).transpose(2, 0, 1))


def test_crop_takes_the_middle_and_pad_adds_white() -> None:
    stripes = Image.new("RGB", (90, 30), RED)
    stripes.paste(GREEN, (30, 0, 60, 30))
    cropped, padded = fit_image(stripes, 30, "crop"), fit_image(stripes, 30, "pad")
    assert np.array_equal(cropped, np.broadcast_to(np.array(GREEN)[:, None, None], (3, 30, 30)))
    assert (padded[:, :9] == 255).all() and (padded[:, 21:] == 255).all()
    assert tuple(padded[:, 15, 4]) == RED and tuple(padded[:, 15, 15]) == GREEN


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reading_is_antialiased(tmp_path: Path, suffix: str) -> None:
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / f"a.{suffix}", quality=95)
    result = read_array(tmp_path / f"a.{suffix}", 16)
    # Without antialiasing the checkerboard turns into black and white pixels.
    assert np.abs(result.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_large_jpeg_is_read_reduced_and_looks_the_same(
    tmp_path: Path, fit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    textured(1200, 896).save(tmp_path / "a.jpg", quality=95)
    in_full = fit_image(open_image(tmp_path / "a.jpg"), 48, fit)
    decoded: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "rcdm_core.data.images.fit_image", lambda image, *rest: decoded.append(image.size) or fit_image(image, *rest)
    )
    reduced = read_array(tmp_path / "a.jpg", 48, fit)
    # The side that fills the picture keeps three pixels for each one that is wanted, 3 * 48 = 144.
    assert decoded == [{"crop": (300, 224), "pad": (150, 112)}[fit]]
    assert np.abs(in_full.astype(int) - reduced.astype(int)).mean() < 1.0


def test_a_very_long_strip_needs_no_square_of_its_length() -> None:
    strip = Image.new("RGB", (1, 60_000), RED)
    padded = fit_image(strip, 32, "pad")
    assert (padded[1:, :, :15] >= 250).all() and (padded[1:, :, 17:] >= 250).all()
    assert (fit_image(strip, 32, "crop") == np.array(RED)[:, None, None]).all()


def test_read_image_is_a_tensor_in_the_unit_range(tmp_path: Path) -> None:
    textured(40, 30).save(tmp_path / "a.png")
    tensor = read_image(tmp_path / "a.png", 16)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 16, 16)
    np.testing.assert_array_equal((tensor * 255).round().numpy().astype(np.uint8), read_array(tmp_path / "a.png", 16))
    assert float(tensor.min()) >= 0 and float(tensor.max()) <= 1


def test_unknown_fit(tmp_path: Path) -> None:
    with pytest.raises(RCDMError, match="crop and pad"):
        fit_image(textured(4, 4), 4, "stretch")


# -- content ids -------------------------------------------------------------------------------------------------------


def test_content_hash_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bin"):
        path = tmp_path / name
        if name == "a.bin":
            path.write_bytes(b"x" * 3_000_000)
        else:
            textured(300, 300).save(path)
        assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_content_hash_of_a_png_ignores_its_texts_but_not_its_pixels(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "the same picture")
    info.add_itxt("Author", "someone")
    textured(40, 40).save(tmp_path / "a.png")
    textured(40, 40).save(tmp_path / "b.png", pnginfo=info, dpi=(90, 90))
    textured(40, 40, seed=1).save(tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert content_hash(tmp_path / "a.png") == content_hash(tmp_path / "b.png") != content_hash(tmp_path / "c.png")


def test_content_hash_of_a_truncated_png(tmp_path: Path) -> None:
    textured(40, 40).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    hashes = set()
    for length in (4, 8, 11, 20, 40, 200, len(data)):
        (tmp_path / "b.png").write_bytes(data[:length])
        hashes.add(content_hash(tmp_path / "b.png"))
        assert content_hash(tmp_path / "b.png") == hashlib.sha256(data[:length]).hexdigest()
    assert len(hashes) == 7


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_a_picture_is_resized_as_asked(interpolation: str) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (48, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    expected = picture.resize((16, 16), Image.Resampling[interpolation.upper()])
    assert np.array_equal(fit_image(picture, 16, interpolation=interpolation).transpose(1, 2, 0), np.asarray(expected))
    assert np.array_equal(read_array(picture, 16, "crop", interpolation).transpose(1, 2, 0), np.asarray(expected))
