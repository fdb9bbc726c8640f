"""A hub on the loopback for tests: the protocol of the Hugging Face hub, spoken to the real clients.

    with Hub() as hub:
        model = hub.model("org/name")
        first = model.commit({"config.json": b"{}", "model.safetensors": weights})
        hub.cut(r"model.safetensors", at=1000)
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})

The clients read their constants when they are imported, so tests run the command line in a process of its own with
`hub.environment(folder)`. The fixture `loopback_hub` gives a started hub to any test.
"""

from tests.hub.repositories import Repository, git_digest
from tests.hub.server import Fault, Hub, Request

__all__ = ["Fault", "Hub", "Repository", "Request", "git_digest"]
