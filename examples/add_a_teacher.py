"""A teacher of your own: whatever answers OpenAI's chat requests may write the data. Here, thirty lines of Python.

PYTHONPATH=examples python examples/add_a_teacher.py 8100
vistune generate MINE.jsonl --kinds conversation --teacher openai --model it --base-url http://127.0.0.1:8100/v1 --out D
Replies go through the same checks as anybody's; what they reject is asked again, then set aside with its reason.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def teach(asked: str) -> str:
    """The reply to one picture: `asked` holds its captions, and for some kinds its boxes."""
    things = re.findall(r"\b(dog|cat|bird|horse)\b", asked) or ["animal"]
    return f"Question: Which animal can be seen?\n===\nAnswer: It is a {things[-1]}, and nothing hides it from view."


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
