"""faiss is imported with the kernels of the processor, the environment stays as it was, and a product is checked."""

import logging
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from retrieval.errors import RetrievalError
from retrieval.vocabulary import faiss_blas
from retrieval.vocabulary.faiss_blas import VARIABLE, import_faiss, require_right_products, suitable_kernels

AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"
INTEL = f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu fma avx2 {AVX512}\n\nprocessor\t: 1\nflags\t\t: \n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (INTEL, "SkylakeX"),
        (INTEL.replace("GenuineIntel", "AuthenticAMD"), "SkylakeX"),
        (INTEL.replace(" avx512vl", ""), "Haswell"),
        ("vendor_id : GenuineIntel\nflags : fma avx2", "Haswell"),
        ("vendor_id : AuthenticAMD\nflags : fma avx2", "Zen"),
        ("vendor_id : GenuineIntel\nflags : avx sse2", None),
        ("Features : fp asimd", None),
        ("", None),
    ],
)
def test_suitable_kernels(cpuinfo, expected):
    assert suitable_kernels(cpuinfo) == expected


def environment(tmp_path, code, cpuinfo=INTEL, **variables):
    """What a fresh process prints whose faiss is a module that prints the variable while it is imported."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    (tmp_path / "faiss.py").write_text(f"import os\nprint('during', os.environ.get({VARIABLE!r}))\n")
    start = (
        "import os, sys, pathlib\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from retrieval.vocabulary import faiss_blas\n"
        f"faiss_blas.CPUINFO = pathlib.Path({str(tmp_path / 'cpuinfo')!r})\n"
        "faiss_blas._is_x86 = lambda: True\n"
        "faiss_blas.require_right_products = lambda module: print('checked', module.__name__)\n"
    )
    end = f"\nprint('after', os.environ.get({VARIABLE!r}))\n"
    inherited = {key: value for key, value in os.environ.items() if key != VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", start + code + end],
        capture_output=True,
        text=True,
        check=True,
        env={**inherited, **variables},
    )
    return result.stdout.splitlines()


def test_the_variable_is_set_for_the_import_alone(tmp_path):
    code = "faiss_blas.import_faiss(); faiss_blas.import_faiss()"
    assert environment(tmp_path, code) == ["during SkylakeX", "checked faiss", "after None"]


def test_what_the_user_has_set_is_respected(tmp_path):
    found = environment(tmp_path, "faiss_blas.import_faiss()", **{VARIABLE: "Haswell"})
    assert found == ["during Haswell", "checked faiss", "after Haswell"]


def test_an_unknown_processor_is_left_to_openblas(tmp_path):
    assert environment(tmp_path, "faiss_blas.import_faiss()", "flags : sse2") == [
        "during None",
        "checked faiss",
        "after None",
    ]


def test_faiss_that_is_there_already_is_only_looked_at(tmp_path):
    found = environment(tmp_path, "import faiss; faiss_blas.import_faiss()")
    assert found == ["during None", "checked faiss", "after None"]


def test_an_import_that_fails_restores_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(faiss_blas, "_is_x86", lambda: True)
    (tmp_path / "cpuinfo").write_text(INTEL)
    monkeypatch.setattr(faiss_blas, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RetrievalError, match="not installed"):
        import_faiss()
    monkeypatch.delitem(sys.modules, "faiss")
    monkeypatch.setattr(faiss_blas.importlib, "import_module", lambda _: (_ for _ in ()).throw(ImportError))
    with pytest.raises(RetrievalError, match="not installed"):
        import_faiss()
    assert VARIABLE not in os.environ


def test_the_kernels_of_this_processor_run():
    """With the wheel's OpenBLAS; another build of faiss has none that could be asked."""
    code = (
        "import numpy\nfrom threadpoolctl import threadpool_info\n"
        "before = [(i['filepath'], i['architecture']) for i in threadpool_info() if i['internal_api'] == 'openblas']\n"
        "from retrieval.vocabulary import faiss_blas\nfaiss_blas.import_faiss()\n"
        "after = [(i['filepath'], i['architecture']) for i in threadpool_info() if i['internal_api'] == 'openblas']\n"
        "print(set(before) <= set(after), (faiss_blas.kernels() or {}).get('kernels'))"
    )
    inherited = {key: value for key, value in os.environ.items() if key != VARIABLE}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=inherited)
    unchanged, found = result.stdout.split()
    assert unchanged == "True"
    if faiss_blas.CPUINFO.exists() and found != "None":
        assert found == (suitable_kernels(faiss_blas.CPUINFO.read_text()) or found)


def fake_faiss(wrong):
    """A module whose transform multiplies by numpy, and wrongly in one sum where asked."""

    class LinearTransform:
        def __init__(self, columns, rows, bias):
            self.A, self.shape = {}, (rows, columns)

        def apply(self, x):
            product = x @ self.A["values"].reshape(self.shape).T
            product[-1, -1] += wrong
            return product

    copy = lambda values, target: target.update(values=values)  # noqa: E731
    return types.SimpleNamespace(LinearTransform=LinearTransform, copy_array_to_vector=copy)


def test_a_wrong_product_is_refused():
    require_right_products(fake_faiss(0))
    with pytest.raises(RetrievalError, match=f"wrongly on this processor .*{VARIABLE}.*start again"):
        require_right_products(fake_faiss(1))


def test_a_wrong_product_is_refused_every_time(monkeypatch):
    faiss = fake_faiss(1)
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    for _ in range(2):
        with pytest.raises(RetrievalError, match="wrongly"):
            import_faiss()


@pytest.mark.parametrize(("running", "told"), [("Prescott", True), ("SkylakeX", False), ("Haswell", False)])
def test_slow_kernels_are_told(monkeypatch, caplog, tmp_path, running, told):
    (tmp_path / "cpuinfo").write_text(INTEL)
    monkeypatch.setattr(faiss_blas, "CPUINFO", tmp_path / "cpuinfo")
    row = {"internal_api": "openblas", "filepath": "/x/faiss_cpu.libs/o.so", "version": "0.3.15"}
    monkeypatch.setattr(faiss_blas, "threadpool_info", lambda: [{**row, "architecture": running}])
    with caplog.at_level(logging.WARNING):
        faiss_blas._tell_if_slow()
    assert (f"{VARIABLE}=SkylakeX" in caplog.text) is told
    assert faiss_blas.kernels() == {"library": "OpenBLAS", "version": "0.3.15", "kernels": running}


def test_a_shared_blas_is_not_asked(monkeypatch):
    monkeypatch.setattr(
        faiss_blas, "threadpool_info", lambda: [{"internal_api": "openblas", "filepath": "/usr/lib/libopenblas.so.0"}]
    )
    assert faiss_blas.kernels() is None


def test_a_folder_called_faiss_does_not_make_numpys_blas_that_of_faiss(monkeypatch):
    path = "/srv/faiss-demo/.venv/lib/numpy.libs/libscipy_openblas64_-1.so"
    monkeypatch.setattr(
        faiss_blas, "threadpool_info", lambda: [{"internal_api": "openblas", "filepath": path, "version": "0.3.31"}]
    )
    assert faiss_blas.kernels() is None


def test_faiss_gives_right_products_here():
    faiss = import_faiss()
    require_right_products(faiss)
    x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    index = faiss.IndexFlatL2(32)
    index.add(x)
    np.testing.assert_array_equal(index.search(x, 1)[1][:, 0], np.arange(64))
