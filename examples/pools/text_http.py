"""What a pool can do, as a web server: executor worker text --namespace texts --http http://localhost:8000/

The body of a request is the task's `with`, the body of the answer is its outputs.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANDLERS = {
    "upper": lambda given: {"text": given["text"].upper()},
    "count": lambda given: {"words": len(given["text"].split())},
}


class Tasks(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # Which task it is stands in headers such as Compozy-Task and Compozy-Idempotency-Key.
        handler = HANDLERS.get(self.headers.get("Compozy-Handler"))
        if handler is None or "text" not in given:
            # The attempt fails with the code HTTP_400 and this message.
            self.answer(400, "there is no such handler, or the input has no text")
        else:
            self.answer(200, json.dumps(handler(given)))

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())


ThreadingHTTPServer(("", 8000), Tasks).serve_forever()
