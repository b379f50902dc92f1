"""Feature extractors: the Inception interface from a file, resizing, a user's own, and what is refused."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from lapflow.core.errors import BackendError, ConfigError, DataError, PluginError, SizeError
from lapflow.core.features import FeatureExtractor, extract
from lapflow.features import InceptionFeatures, ModuleFeatures, PixelFeatures
from lapflow.plugins import create
from lapflow.util.files import file_sha256
from lapflow.util.pixels import eight_bits
from tests.support import SmallInception, images, small_inception


@pytest.fixture
def spec(tmp_path):
    found = small_inception(tmp_path / "inception.pt")
    return {key: value for key, value in found.items() if key != "name"}


def pictures(*shape, seed=0):
    return images(*shape, seed=seed, dtype=torch.float32).clamp(-1.2, 1.2)


class TestInception:
    def test_features_are_those_of_the_network_on_rounded_pixels(self, spec):
        x = pictures(5, 3, 12, 12)
        levels = torch.from_numpy(np.rint((np.clip(x.numpy(), -1, 1) + 1) * 127.5).astype(np.uint8))
        want = SmallInception()(levels, return_features=True)
        got = InceptionFeatures(batch_size=2, **spec)(x)
        assert got.dtype == torch.float64
        assert got.numpy() == pytest.approx(want.detach().double().numpy(), abs=1e-6)

    def test_grey_images_are_repeated(self, spec):
        x = pictures(3, 1, 12, 12)
        extractor = InceptionFeatures(**spec)
        assert torch.equal(extractor(x), extractor(x.expand(-1, 3, -1, -1)))
        with pytest.raises(SizeError, match="grey or colour"):
            extractor(pictures(2, 4, 12, 12))

    def test_antialiased_resizing_is_pillow_s(self, spec):
        """clean-fid resizes each channel as floats with Pillow's bicubic filter."""
        seen = []
        extractor = InceptionFeatures(**spec, resize="antialiased")
        extractor.load()
        extractor._net = lambda pixels, return_features: seen.append(pixels) or torch.zeros(len(pixels), 2)
        for shape in ((1, 3, 500, 400), (1, 3, 64, 64)):
            x = pictures(*shape)
            extractor(x)
            channels = [
                Image.fromarray(c.astype(np.float32), mode="F").resize((299, 299), Image.BICUBIC)
                for c in eight_bits(x)[0].numpy()
            ]
            want = np.clip(np.stack([np.asarray(c) for c in channels]), 0, 255)
            assert np.abs(seen[-1][0].numpy() - want).max() < 1e-2, "levels of 255"

    def test_what_it_is_known_by(self, spec, tmp_path):
        plain, other = InceptionFeatures(**spec), InceptionFeatures(**spec, resize="antialiased")
        assert plain.sha256 != other.sha256
        assert "without antialiasing" in plain.resize
        assert "clean-fid" in other.resize
        moved = (tmp_path / "inception.pt").rename(tmp_path / "moved.pt")
        assert InceptionFeatures(**{**spec, "path": str(moved)}, batch_size=1).sha256 == plain.sha256
        assert create("features", small_inception(tmp_path / "other.pt", seed=1)).sha256 != plain.sha256

    def test_only_the_standard_file_may_be_named_by_a_checkpoint(self, spec):
        assert InceptionFeatures(**spec).runs_code
        assert not InceptionFeatures("inception-2015-12-05.pt").runs_code
        assert ModuleFeatures("os:getcwd").runs_code
        assert not PixelFeatures().runs_code

    def test_another_file_is_not_opened(self, spec):
        """Without a stated hash only the standard file is; the message says the hash that was found."""
        for stated in (None, "0" * 64):
            with pytest.raises(BackendError, match="not the one stated") as error:
                InceptionFeatures(**{**spec, "sha256": stated}).load()
            assert spec["sha256"] in str(error.value)

    def test_what_is_not_the_network(self, spec, tmp_path):
        with pytest.raises(BackendError, match=r"cannot be read[\s\S]*nowhere.pt: No such file"):
            InceptionFeatures(str(tmp_path / "nowhere.pt")).load()
        (tmp_path / "text.pt").write_text("weights")
        cut = tmp_path / "cut.pt"
        cut.write_bytes((tmp_path / "inception.pt").read_bytes()[:-200])
        for path in (tmp_path / "text.pt", cut):
            with pytest.raises(BackendError, match="not the Inception network"):
                InceptionFeatures(str(path), sha256=file_sha256(path)).load()
        for network in (torch.nn.Conv2d(3, 4, 3), torch.nn.Identity()):
            torch.jit.script(network).save(str(tmp_path / "other.pt"))
            with pytest.raises(BackendError, match="not the Inception network"):
                InceptionFeatures(str(tmp_path / "other.pt"), sha256=file_sha256(tmp_path / "other.pt"))(
                    pictures(2, 3, 8, 8)
                )
        with pytest.raises(ConfigError, match="pattern"):
            InceptionFeatures(str(cut), sha256="F58C")


class TestTorchFidelity:
    """torch-fidelity itself needs torchvision, which the tests' torch has none of: a module of its name
    stands in."""

    @pytest.fixture
    def package(self, monkeypatch, tmp_path):
        class FeatureExtractorInceptionV3(torch.nn.Module):
            def __init__(self, name, features_list, feature_extractor_weights_path=None):
                super().__init__()
                assert features_list == ["2048"]
                self.weight = torch.nn.Parameter(torch.load(feature_extractor_weights_path)["weight"])

            def forward(self, x):
                assert x.dtype == torch.uint8
                return (x.float().mean([2, 3]) @ self.weight,)

        module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
        module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
        monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        torch.save({"weight": torch.eye(3, 2)}, tmp_path / "weights.pth")
        return {
            "path": str(tmp_path / "weights.pth"),
            "source": "torch-fidelity",
            "sha256": file_sha256(tmp_path / "weights.pth"),
        }

    def test_its_first_output(self, package):
        x = pictures(3, 3, 6, 6)
        extractor = InceptionFeatures(**package)
        assert not extractor.runs_code
        assert extractor(x).numpy() == pytest.approx(
            eight_bits(x).double().mean([2, 3])[:, :2].numpy(), abs=1e-4
        )

    def test_refusals(self, package, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="resizes by itself"):
            InceptionFeatures(**package, resize="antialiased")
        with pytest.raises(BackendError, match=r"6726825d\.\.\., the standard file"):
            InceptionFeatures(package["path"], source="torch-fidelity").load()
        import os
        import pickle

        class Harm:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        (tmp_path / "harm.pth").write_bytes(pickle.dumps(Harm()))
        with pytest.raises(BackendError, match="not the Inception network"):
            InceptionFeatures(
                str(tmp_path / "harm.pth"), source="torch-fidelity", sha256=file_sha256(tmp_path / "harm.pth")
            ).load()
        assert not (tmp_path / "executed").exists()
        monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
        with pytest.raises(BackendError, match=r"lapflow\[fidelity\]"):
            InceptionFeatures(**package).load()


class TestModule:
    def test_a_function_and_a_network(self):
        x = pictures(5, 3, 8, 8)
        function = ModuleFeatures("tests.support:mean_and_spread", batch_size=2)
        assert function(x).numpy() == pytest.approx(
            torch.cat([x.mean([2, 3]), x.std([2, 3])], 1).double().numpy(), abs=1e-6
        )
        assert function.resize == "none"
        network = ModuleFeatures("tests.support:SmallInception")
        assert network(x).shape == (5, 4)
        assert network.resize == "not stated"
        assert not network(x).requires_grad
        assert network.identity()["weights"]

    def test_its_source_is_part_of_what_it_is(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "own_features.py").write_text("def embed(x): return x.mean([2, 3])\n")
        before = ModuleFeatures("own_features:embed").sha256
        (tmp_path / "own_features.py").write_text("def embed(x): return 2 * x.mean([2, 3])\n")
        assert ModuleFeatures("own_features:embed").sha256 != before

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            ("nowhere_at_all:embed", "ModuleNotFoundError"),
            ("tests.support:nowhere", "AttributeError"),
            ("tests.support:GLYPHS", "something to call"),
        ],
    )
    def test_what_cannot_be_used(self, target, words):
        with pytest.raises(PluginError, match=words):
            ModuleFeatures(target).load()
        with pytest.raises(ConfigError):
            ModuleFeatures("os.path")

    def test_a_module_that_gives_something_else(self, monkeypatch):
        monkeypatch.setattr("tests.support.mean_and_spread", lambda x: x.mean())
        with pytest.raises(PluginError, match="one vector per image"):
            ModuleFeatures("tests.support:mean_and_spread")(pictures(2, 3, 8, 8))


class Gives(FeatureExtractor):
    def __init__(self) -> None:
        self.out = None

    def __call__(self, images):
        return self.out


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (torch.zeros(3, 4, dtype=torch.float64), PluginError, r"\(3, 4\) for 2 images"),
        (torch.zeros(2, 4, 1, dtype=torch.float64), PluginError, r"\(2, f\)"),
        (torch.zeros(2, 0, dtype=torch.float64), PluginError, "one vector"),
        (None, PluginError, "NoneType"),
        (torch.zeros(2, 4), PluginError, "float64"),
        (torch.full((2, 4), float("nan"), dtype=torch.float64), DataError, "not finite"),
    ],
)
def test_a_wrong_output_is_one_clear_error(out, error, words):
    extractor = Gives()
    extractor.out = out
    with pytest.raises(error, match=words):
        extract(extractor, pictures(2, 3, 8, 8))
