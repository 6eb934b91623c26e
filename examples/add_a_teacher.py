"""Add a teacher: any server that answers OpenAI's chat requests can write the data. This one has thirty lines.

python examples/add_a_teacher.py 8100
vistune generate MINE.jsonl --kinds conversation --teacher openai --model it --base-url http://127.0.0.1:8100/v1 --out D
Its replies pass the usual checks. A rejected reply is requested again, then written to rejects.jsonl with its reason.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def teach(prompt: str) -> str:
    """Return the reply for one image. `prompt` contains its captions and, for some kinds, its boxes."""
    animals = re.findall(r"\b(dog|cat|bird|horse)\b", prompt) or ["animal"]
    return f"Question: Which animal can be seen?\n===\nAnswer: It is a {animals[-1]}, and nothing hides it from view."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": teach(str(request["messages"][-1]["content"]))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        reply = {"id": "1", "object": "chat.completion", "model": request["model"], "choices": [choice], "usage": usage}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
