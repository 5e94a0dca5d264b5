"""Processes that begin at once: forks of a server that has imported what takes seconds."""

from multiprocessing import get_context

#: The server is started with the first process, and each process is a fork of it.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pyarrow.parquet",
        "pytest",
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch.distributed.tensor.parallel",
        "transformers.models.llama.modeling_llama",
        "wqkv.cli",
        "wqkv.corpus.survey",
        "wqkv.study.model",
    ]
)
