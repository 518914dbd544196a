"""Installation: ``pip install -e .[test]``; on a machine without a GPU, install a CPU build of torch first."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="mnmt_ds",
    version="0.1.0",
    description="Multilingual translation models trained with DeepSpeed and per-pair distillation",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if Path(__file__).with_name("README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["mnmt_ds", "mnmt_ds.*"]),
    package_data={"mnmt_ds": ["kernels/csrc/*", "reporting/*.html", "decoding/csrc/*", "bench/results/*"]},
    entry_points={"console_scripts": ["mnmt-ds = mnmt_ds.cli.main:main"]},
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19",
        "megatron-core>=0.16",
        "sentencepiece>=0.2.1",
        "sacrebleu>=2.5",
        "wandb>=0.19",
        "pydantic>=2.9",
        "pyyaml>=6",
        "numpy>=1.26",
        "safetensors>=0.5",
        "tqdm>=4.66",
        "zstandard>=0.23",
        "lxml>=5",
        "polib>=1.2",
        "babel>=2.16",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "scipy>=1.13",
        "ninja>=1.11",
        "regex>=2024.0",
    ],
    extras_require={
        "huggingface": ["datasets>=3"],
        "export": ["transformers>=4.50", "ctranslate2>=4.5"],
        "peers": ["liger-kernel>=0.6"],
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "mypy>=1.13",
            "types-PyYAML",
            "transformers>=4.50",
            "ctranslate2>=4.5",
            "datasets>=3",
            "liger-kernel>=0.6",
        ],
    },
)
