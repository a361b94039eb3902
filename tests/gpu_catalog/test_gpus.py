from collections import Counter

import pytest
from refusals import refuses

from deploykit.gpu_catalog.gpus import Gpu, find_gpu, known_gpus, require_facts

# CUDA C++ Programming Guide, compute capabilities: FP32 cores per SM.
CUDA_CORES_PER_SM = {
    "6.1": 128,
    "7.0": 64,
    "7.2": 64,
    "7.5": 64,
    "8.0": 64,
    "8.6": 128,
    "8.7": 128,
    "8.9": 128,
    "9.0": 128,
    "12.0": 128,
}

# Their FP32 peak refers to another clock than that of their tensor cores, which gpus.toml has.
FP32_PEAK_MHZ = {"H100 SXM5": 1980, "H200 SXM": 1980}


def test_the_t4_matches_its_datasheet():
    t4 = find_gpu("T4")
    assert (t4.memory_bandwidth_gb_s, t4.tdp_w, t4.memory_gb) == (320, 70, 16)
    assert (t4.fp32_tflops, t4.fp16_tensor_tflops, t4.int8_tensor_tops) == (8.1, 65, 130)
    assert t4.sm_count == 2560 / 64
    assert t4.sm == 75


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("t4", "T4"),
        ("Tesla T4", "T4"),
        ("NVIDIA T4", "T4"),
        ("nvidia-tesla-t4", "T4"),
        ("RTX4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("A100", "A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("v100", "V100 SXM2"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM5"),
        ("NVIDIA H200", "H200 SXM"),
    ],
)
def test_a_gpu_is_found_by_the_names_that_people_and_drivers_use(asked, found):
    assert find_gpu(asked).name == found


def test_every_name_means_one_gpu():
    names = Counter(name.lower() for gpu in known_gpus() for name in {gpu.name, *gpu.aliases})
    assert [name for name, count in names.items() if count > 1] == []
    assert all(find_gpu(name) is gpu for gpu in known_gpus() for name in (gpu.name, *gpu.aliases))


@pytest.mark.parametrize("gpu", known_gpus(), ids=lambda gpu: gpu.name)
def test_every_gpu_names_its_source(gpu):
    assert len(gpu.source) > 10


@pytest.mark.parametrize(
    "gpu",
    [gpu for gpu in known_gpus() if gpu.fp32_tflops and gpu.sm_count and gpu.compute_capability],
    ids=lambda gpu: gpu.name,
)
def test_the_fp32_peak_is_two_operations_per_core_and_cycle(gpu):
    cores = gpu.sm_count * CUDA_CORES_PER_SM[gpu.compute_capability]
    clock_mhz = FP32_PEAK_MHZ.get(gpu.name, gpu.boost_mhz)
    assert gpu.fp32_tflops == pytest.approx(2 * cores * clock_mhz * 1e-6, rel=0.015)


def test_a_pcie_v100_has_less_power_than_an_sxm2():
    assert (find_gpu("V100 PCIe").tdp_w, find_gpu("V100 SXM2").tdp_w) == (250, 300)  # NVIDIA V100 datasheet


def test_an_l4_has_fewer_sms_than_its_full_chip():
    assert find_gpu("L4").sm_count == 7424 / 128


def test_a_v100_has_int8_dot_products_instead_of_int8_tensor_cores():
    for name in ("V100 SXM2", "V100 PCIe", "V100 SXM3"):
        gpu = find_gpu(name)
        assert gpu.int8_tensor_tops is None
        assert gpu.int8_dp4a_tops == pytest.approx(4 * gpu.fp32_tflops, abs=0.1)


def test_an_unknown_name_suggests_the_nearest_ones():
    with refuses("unknown-gpu") as caught:
        find_gpu("RTX 4900")
    assert "RTX 4090" in caught.value.fix
    assert "deploykit gpus" in caught.value.fix


@pytest.mark.parametrize("nonsense", ["", "nvidia", "???", "Radeon VII"])
def test_a_meaningless_name_is_refused(nonsense):
    with refuses("unknown-gpu"):
        find_gpu(nonsense)


def test_the_error_about_missing_facts_suggests_similar_gpus():
    with refuses("gpu-facts-missing") as caught:
        require_facts(find_gpu("A10"), "sm_count", "tdp_w")
    assert "A40" in caught.value.fix


def test_facts_are_returned_in_the_requested_order():
    assert require_facts(find_gpu("T4"), "tdp_w", "sm_count") == (70, 40)


def test_an_unknown_compute_capability_stays_unknown():
    assert Gpu(name="X", architecture="Y", source="Z").sm is None
